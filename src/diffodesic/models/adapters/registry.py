"""Doors for models made elsewhere; each imports what it needs when it is opened.

``load`` comes here for a source with one of these prefixes:

    diffusers:DIR               a folder written by a pipeline's ``save_pretrained``
    edm:FILE                    a pickle of the EDM or EDM2 project
    python:package.module:name  a function of yours that returns a `Model` or a `NetworkDenoiser`
"""

from __future__ import annotations

import torch

from diffodesic.models.model import Model

__all__ = ["PREFIXES", "open_foreign"]

PREFIXES = ("diffusers", "edm", "python")


def open_foreign(
    prefix: str,
    rest: str,
    *,
    device: torch.device | str,
    allow_download: bool,
    allow_pickle: bool,
) -> Model:
    """Load a model through the door of its prefix.

    Args:
        prefix: one of :data:`PREFIXES`.
        rest: what stands behind the colon.
        device: where the network runs.
        allow_download: fetch a pipeline that is not on this disk.
        allow_pickle: read pickles, which run code of their author.

    Returns:
        the model.
    """
    if prefix == "diffusers":
        from diffodesic.models.adapters.diffusers import load_pipeline

        return load_pipeline(rest, device=device, allow_download=allow_download)
    if prefix == "edm":
        from diffodesic.models.adapters.edm import load_edm

        return load_edm(rest, device=device, allow_pickle=allow_pickle)
    from diffodesic.models.adapters.python import load_function

    return load_function(rest, device=device)
