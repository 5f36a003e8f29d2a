"""Prepare a network for geometry: evaluation mode, float32, a device, a size of batches."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from diffodesic.models.folder import ModelError

__all__ = ["chosen_device", "default_chunk", "for_evaluation", "to_device"]

_VALUES, _INPUTS = 2**16, 128  # in one call of a network: numbers, and inputs

Network = TypeVar("Network", bound=nn.Module)


def for_evaluation(network: Network) -> Network:
    """The network in evaluation mode without gradients of its weights.

    Args:
        network: changed in place, or copied to float32 if it is in half precision, which ruins
            derivatives.

    Returns:
        the network or its copy.
    """
    weights = (w for w in network.parameters() if w.is_floating_point())
    if any(torch.finfo(w.dtype).bits < 32 for w in weights):
        network = copy.deepcopy(network).float()
    return network.eval().requires_grad_(False)


def chosen_device(device: torch.device | str) -> torch.device | str:
    """The device that is meant: for ``auto`` a GPU where there is one, else the CPU."""
    if str(device) != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def to_device(network: Network, device: torch.device | str) -> Network:
    """Move a network to a device.

    Args:
        network: moved in place.
        device: where to.

    Returns:
        the network.

    Raises:
        ModelError: if the device is not there, or cannot be read from, as ``meta`` cannot.
    """
    try:
        network.to(device)
        for weight in list(network.parameters())[:1]:
            weight.sum().item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the network cannot run on device {str(device)!r} ({reason}); try cpu"
        ) from error
    return network


def default_chunk(shape: tuple[int, ...]) -> int:
    """Inputs of a shape that one call of a network takes, unless the caller says how many."""
    return max(1, min(_INPUTS, _VALUES // math.prod(shape)))
