"""Models of classes: a label as an argument of the network."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor

from diffodesic.models.folder import ModelError
from diffodesic.models.model import Conditioner

__all__ = ["check_label", "label_conditioner"]

ARGUMENT = "class_labels"  # as diffusers and EDM call it


def label_conditioner(classes: int | None, encode: Callable[[Tensor], Tensor]) -> Conditioner:
    """What turns ``{"label": 3}`` into an argument of the network.

    Args:
        classes: number of classes; none make an unconditional model.
        encode: makes the network's argument of a label, for one sample.

    Returns:
        the conditioner.
    """

    def bound(label: int) -> dict[str, Any]:
        if classes is None or not 0 <= int(label) < classes:
            raise ModelError(f"label is {label}; this model has classes 0 to {(classes or 0) - 1}")
        return {ARGUMENT: encode(torch.tensor(int(label)))}

    return Conditioner(("label",) if classes else (), bound)


def check_label(condition: Container[str]) -> None:
    """Refuse to evaluate a network of classes without a label.

    Args:
        condition: names of the arguments that are bound.

    Raises:
        ModelError: if the label is not among them.
    """
    if ARGUMENT not in condition:
        raise ModelError('this model has classes; bind one by given({"label": ...}) (--label)')
