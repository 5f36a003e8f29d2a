"""Problems with exact denoisers on which solvers are compared, all in float64.

``toy`` is Figure 1 of 2505.17517: a one-dimensional mixture under the variance-preserving process
with log SNR 10 - 20 t.  ``digits`` is scikit-learn's 8 x 8 digits as a Gaussian mixture with one
component per image: an exact denoiser of real images (D = 64).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffodesic import AdamSpline, GaussianMixture, Spacetime

__all__ = ["Problem", "digits", "from_native", "to_native", "toy", "toy_mixture", "toy_point"]


@dataclass(frozen=True)
class Problem:
    """Two points of a space, and the published recipe for it.

    Attributes:
        name: a short name.
        space: the geometry.
        a: start, (D + 1,).
        b: end, (D + 1,).
        recipe: the published solver with its published settings.
        recipe_nodes: number of segments between the points at which the recipe ends.
    """

    name: str
    space: Spacetime
    a: Tensor
    b: Tensor
    recipe: AdamSpline
    recipe_nodes: int


def to_native(x: Tensor) -> Tensor:
    """From the core's (z, log SNR) to (x_t, t) of the variance-preserving toy, (..., D + 1)."""
    lam = x[..., -1:]
    return torch.cat([torch.sigmoid(lam).sqrt() * x[..., :-1], (10 - lam) / 20], -1)


def from_native(y: Tensor) -> Tensor:
    """From (x_t, t) of the variance-preserving toy to the core's (z, log SNR), (..., D + 1)."""
    lam = 10 - 20 * y[..., -1:]
    return torch.cat([y[..., :-1] / torch.sigmoid(lam).sqrt(), lam], -1)


def toy_mixture() -> GaussianMixture:
    """The data law of Figure 1: three Gaussians on the line."""
    means = torch.tensor([[-2.5], [0.5], [2.5]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.275, 0.45, 0.275]), std=0.75)


def toy_point(x: float, t: float) -> Tensor:
    """A point of the toy's spacetime from its published coordinates (x_t, t), (2,)."""
    return from_native(torch.tensor([x, t], dtype=torch.float64))


def toy() -> Problem:
    """Figure 1: from (-2.3, t = 0.35) to (2, t = 0.4)."""
    recipe = AdamSpline.toy((to_native, from_native))
    space = Spacetime(toy_mixture())
    return Problem("toy", space, toy_point(-2.3, 0.35), toy_point(2.0, 0.4), recipe, 127)


def digits() -> Problem:
    """The first 3 to the first 8 of the 8 x 8 digits, both at log SNR 2."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 8 - 1, dtype=torch.float64)
    space = Spacetime(GaussianMixture.from_data(data, bandwidth=0.15))
    first = {label: data[int((labels == label).argmax())] for label in (3, 8)}
    a, b = space.point(first[3], 2.0), space.point(first[8], 2.0)
    return Problem("digits", space, a, b, AdamSpline.images(), 63)
