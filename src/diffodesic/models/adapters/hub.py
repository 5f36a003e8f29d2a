"""Models of the Hugging Face hub: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION``.

A repository holds what ``diffodesic train`` and :meth:`Model.save_pretrained` write, or a pipeline
of diffusers.  It is read from the hub's cache on this disk; only where the caller allows it is
anything fetched.  A revision is a branch, a tag or a commit; only a commit is the same model for
ever.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from diffodesic.models.folder import ModelError
from diffodesic.models.loading import load as load_model
from diffodesic.models.model import Model

__all__ = ["PREFIX", "load"]

PREFIX = "hf"

_ADDRESS = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w./-]+))?")
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.msgpack", "*.h5", "*.onnx")


def load(
    rest: str,
    *,
    device: torch.device | str,
    allow_download: bool,
    allow_pickle: bool,
    size: tuple[int, int] | None = None,
) -> Model:
    """Load a repository; ``registry`` describes the arguments."""
    address = _ADDRESS.fullmatch(rest)
    if address is None:
        raise ModelError(
            f"{rest!r} is no address on the hub; write hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        )
    folder = _fetched(address[1], address[2], allow_download, allow_pickle)
    piped = (folder / "model_index.json").is_file()
    model = load_model(
        f"diffusers:{folder}" if piped else folder,
        device=device,
        allow_pickle=allow_pickle,
        size=size,
    )
    return replace(model, name=address[1].rpartition("/")[2])


def _fetched(repository: str, revision: str | None, download: bool, pickles: bool) -> Path:
    """The folder of a repository in the cache."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(
            f"{error}: models of the hub need the extra, pip install 'diffodesic[hub]'"
        ) from error
    name = f"{repository}@{revision}" if revision else repository
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=not download,
                ignore_patterns=None if pickles else list(_PICKLES),
            )
        )
    except LocalEntryNotFoundError as error:
        hint = (
            "and the hub cannot be reached"
            if download
            else "and nothing is downloaded without allow_download=True (--allow-download)"
        )
        raise ModelError(f"{name} is not in the cache of the hub, {hint}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name} cannot be fetched from the hub ({reason})") from error
