"""Networks of the EDM project (2206.00364; EDM2: 2312.02696), which are saved as pickles.

Such a network is a denoiser already, ``net(z, sigma, label) = E[x0 | z]``, preconditioning
included.  Reading a pickle runs code of its author, so it is read only if the caller allows it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.denoisers.network import NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import PixelCodec
from diffodesic.models.folder import ModelError
from diffodesic.models.model import Conditioner, Model, require_label, tried
from diffodesic.models.prepare import default_chunk, for_evaluation, to_device

__all__ = ["PREFIX", "load"]

PREFIX = "edm"

_RANGE = (0.002, 80.0)  # of training, where the file says 0 or infinity


def load(
    rest: str, *, device: torch.device | str, allow_download: bool, allow_pickle: bool
) -> Model:
    """Load a pickle, if the caller allows it; ``registry`` describes the arguments."""
    path = Path(rest)
    if not allow_pickle:
        raise ModelError(
            f"{path} is a pickle, and reading one runs code of its author; if you trust it, give "
            "allow_pickle=True (--allow-pickle)"
        )
    if not path.is_file():
        raise ModelError(f"there is no file at {path}")
    try:
        with path.open("rb") as file:
            content = pickle.load(file)
    except ImportError as error:
        raise ModelError(
            f"{path} needs code of its project ({error}); run inside a checkout of it"
        ) from error
    except Exception as error:  # a pickle raises whatever its code raises
        raise ModelError(f"{path} cannot be read as a pickle ({error!r})") from error
    network = content.get("ema") if isinstance(content, Mapping) else None
    wanted = ("img_resolution", "img_channels", "sigma_min", "sigma_max")
    if not isinstance(network, nn.Module) or not all(hasattr(network, name) for name in wanted):
        raise ModelError(f"{path} holds no network of the EDM project under 'ema'")
    encoder = type(content.get("encoder")).__name__
    if encoder not in ("NoneType", "StandardRGBEncoder"):
        raise ModelError(
            f"{path} lives on the latents of a {encoder}, which is not supported; give a network "
            "on pixels"
        )
    return _model(to_device(for_evaluation(network), device), path.stem)


def _model(network: nn.Module, name: str) -> Model:
    owner: Any = network
    side = int(owner.img_resolution)
    shape = (int(owner.img_channels), side, side)
    low, high = float(owner.sigma_min), float(owner.sigma_max)
    labels = int(getattr(owner, "label_dim", 0) or 0)
    denoiser = from_network(
        _Float32(network, labels),
        shape=shape,
        schedule=EDM(low if low > 0 else _RANGE[0], high if math.isfinite(high) else _RANGE[1]),
        prediction="x0",  # at every level: preconditioning is inside
        variance=float(getattr(owner, "sigma_data", 0.5)) ** 2,
        jvp_mode="auto",
        options=NetworkOptions(chunk=default_chunk(shape), trial=False),
    )
    conditioner = Conditioner.of_labels(labels, lambda label: F.one_hot(label, labels).float())
    return tried(Model(denoiser, PixelCodec(shape), name, {}, conditioner=conditioner))


class _Float32(nn.Module):
    """The network in float32 throughout, where it would choose float16 on a GPU."""

    def __init__(self, network: nn.Module, labels: int) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """E[x0 | x] at sigma = t."""
        if self.labels:
            require_label(() if class_labels is None else ("class_labels",))
        return self.network(x, t, class_labels, force_fp32=True)
