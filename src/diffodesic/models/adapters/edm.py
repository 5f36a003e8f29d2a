"""Networks of the EDM project (2206.00364; EDM2: 2312.02696), which are saved as pickles.

Such a network is a denoiser already, ``net(z, sigma, label) = E[x0 | z]``, preconditioning
included.  Reading a pickle runs code of its author: nothing is read without the caller's word.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.denoisers.network import NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Conditioner, Model, ModelError

__all__ = ["load_edm"]

_RANGE = (0.002, 80.0)  # of training, where the file says 0 or infinity


def load_edm(path: str, *, device: torch.device | str = "cpu", allow_pickle: bool = False) -> Model:
    """Load a pickle of the EDM project.

    Args:
        path: the file.
        device: where the network runs.
        allow_pickle: the caller trusts the file; without it nothing is read.

    Returns:
        the model, in float32; bind a class by ``given(label=3)`` where it has classes.

    Raises:
        ModelError: without ``allow_pickle``, for a missing file, one of another kind, or one
            whose network lives on latents.
    """
    if not allow_pickle:
        raise ModelError(
            f"{path} is a pickle, and reading one runs code of its author; if you trust it, give "
            "allow_pickle=True (--allow-pickle)"
        )
    if not Path(path).is_file():
        raise ModelError(f"there is no file at {path}")
    try:
        with Path(path).open("rb") as file:
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
    return _model(network.eval().requires_grad_(False).float().to(device), Path(path).stem)


def _model(network: nn.Module, name: str) -> Model:
    owner: Any = network
    side, channels = int(owner.img_resolution), int(owner.img_channels)
    low, high = float(owner.sigma_min), float(owner.sigma_max)
    labels = int(getattr(owner, "label_dim", 0) or 0)
    denoiser = from_network(
        _Forced(network, labels),
        shape=(channels, side, side),
        schedule=EDM(low if low > 0 else _RANGE[0], high if math.isfinite(high) else _RANGE[1]),
        prediction="x0",  # at every level: preconditioning is inside
        variance=float(getattr(owner, "sigma_data", 0.5)) ** 2,
        jvp_mode="auto",
        options=NetworkOptions(chunk=max(1, min(128, 2**16 // (channels * side**2)))),
    )

    def bound(label: int) -> dict[str, Any]:
        if not 0 <= int(label) < labels:
            raise ModelError(f"label is {label}; this model has classes 0 to {labels - 1}")
        return {"class_labels": nn.functional.one_hot(torch.tensor(int(label)), labels).float()}

    conditioner = Conditioner(("label",) if labels else (), bound)
    return Model(denoiser, PixelCodec((channels, side, side)), name, {}, conditioner=conditioner)


class _Forced(nn.Module):
    """The network in float32 throughout, whatever it would choose itself."""

    def __init__(self, network: nn.Module, labels: int) -> None:
        super().__init__()
        self.network, self.labels = network, labels

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """E[x0 | x] at sigma = t."""
        if self.labels and class_labels is None:
            raise ModelError("this model has classes; bind one by given(label=...) (--label)")
        return self.network(x, t, class_labels, force_fp32=True)
