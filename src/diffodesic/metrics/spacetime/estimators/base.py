"""What an estimator of the spacetime metric is, and what estimators share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser

__all__ = ["Estimator", "Gradient"]


Gradient = Literal["reverse", "forward"]


class Estimator(ABC):
    """Squared lengths of polylines in spacetime, nodes packed (..., n+1, D+1).

    Attributes:
        name: what results call it.
        along_natural_lines: True where ``steps`` are the exact energies of segments that are
            straight in the natural parameters.
        coarsest: number of segments below which steps say little about the path.
        largest_step: largest change of log SNR along one segment for steps to be believed.
    """

    name = "estimator"
    along_natural_lines = False
    coarsest = 6
    largest_step = math.inf

    def __init__(self, denoiser: Denoiser, *, gradient: Gradient = "reverse") -> None:
        self.denoiser, self.gradient = denoiser, gradient
        # a denoiser known by its evaluations alone has no other derivatives either
        self.jvp = denoiser.jvp if gradient == "reverse" else denoiser.difference

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Inner product at ``x``; all (..., D+1), result (...)."""

    @abstractmethod
    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths (..., n), and where the denoiser is no posterior mean, (..., n)."""

    @abstractmethod
    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``judged_steps(x)`` with the gradient of the sum of steps, (..., n+1, D+1), between."""


def _reverse(
    judged_steps: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        steps, wrong = judged_steps(leaf)
        (grad,) = torch.autograd.grad(steps.sum(), leaf)
    return steps.detach(), grad, wrong


def _sides(x: Tensor) -> Tensor:
    """Differences to the node before and to the node after, zero beyond the ends: (..., 2, d)."""
    delta = x.diff(dim=-2)
    none = torch.zeros_like(delta[..., :1, :])
    return torch.stack([torch.cat([none, delta], -2), torch.cat([delta, none], -2)], -2)


def _trapezoid(squares: Tensor) -> Tensor:
    return (squares[..., :-1, 1] + squares[..., 1:, 0]) / 2


def _either(wrong: Tensor) -> Tensor:
    return wrong[..., :-1, 1] | wrong[..., 1:, 0]


def frobenius(pushed: Tensor) -> Tensor:
    """|J|_F^2 from J applied to probes (..., P, D)."""
    return pushed.square().sum(-1).mean(-1)


def relative_step(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Step of a central difference in units of the noise: of z / sigma, and of log SNR; (...)."""
    sigma = (-x[..., -1] / 2).exp()
    return denoiser.displacement(sigma, x.dtype) / sigma
