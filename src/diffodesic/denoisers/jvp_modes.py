"""Which way of taking Jacobian products is right for a network: each is compared with differences.

Reverse mode through forward mode is silently wrong for some of torch's operations, and many
networks lack one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.trial import NetworkError, NonFiniteError

__all__ = ["EXACT_MODES", "JvpMode", "product_is_right", "tested_mode"]

JvpMode = Literal["auto", "forward", "double-vjp", "finite-difference"]
EXACT_MODES: tuple[JvpMode, ...] = ("forward", "double-vjp")
# Central differences of float32 networks are good to 1e-3; a wrong derivative is off by far more.
AGREEMENT = 0.02


def tested_mode(modes: Mapping[JvpMode, Denoiser], z: Tensor, sigma: Tensor) -> JvpMode:
    """The first mode that runs and agrees with the others, in its product and its gradient.

    Args:
        modes: the denoiser in each of ``EXACT_MODES``.
        z: a point (1, D).
        sigma: its noise (1,).

    Returns:
        the mode; ``finite-difference`` where no other is right.

    Cost: four evaluations and five derivatives at most.
    """
    vectors = _directions(3, z)
    with torch.no_grad():
        expected = modes["forward"].difference(z, sigma, vectors[0])[1]
    forward, double = (_tried(modes[mode], z, sigma, vectors, expected) for mode in EXACT_MODES)
    # reverse mode through forward mode is silently wrong for some of torch's operations
    if forward is not None and (double is None or _near(forward, double)):
        return "forward"
    return "finite-difference" if double is None else "double-vjp"


def product_is_right(denoiser: Denoiser, z: Tensor, sigma: Tensor) -> bool:
    """Tell whether a product with the Jacobian is that of central differences.

    Args:
        denoiser: in the mode that is looked at.
        z: a point (1, D).
        sigma: its noise (1,).

    Returns:
        whether they agree, up to rounding.

    Cost: three evaluations and two derivatives at most.
    """
    (v,) = _directions(1, z)
    with torch.no_grad():
        tangent, (m, expected) = denoiser.jvp(z, sigma, v)[1], denoiser.difference(z, sigma, v)
    step = denoiser.displacement(sigma, z.dtype) / v.norm()
    rounding = float(denoiser.rounding_unit(z.dtype) * m.norm() / step)
    return _near(tangent, expected, rounding)


def _tried(
    trial: Denoiser, z: Tensor, sigma: Tensor, vectors: Tensor, expected: Tensor
) -> Tensor | None:
    """Gradient through a mode, or None where it does not run or gives another product."""
    v, left, right = vectors

    def both(point: Tensor) -> tuple[Tensor, Tensor]:
        value, tangent = trial.jvp(point, sigma, v)
        return (left * value + right * tangent).sum(), tangent

    try:
        # not autograd.grad, which does not work where a derivative is being taken already
        slope, tangent = torch.func.grad(both, has_aux=True)(z)
    except (NonFiniteError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, NetworkError):  # as networks say that they cannot
        return None
    return slope if _near(tangent, expected) else None


def _directions(count: int, z: Tensor) -> Tensor:
    """Random vectors (count, *z.shape)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *z.shape, generator=generator, dtype=torch.float64)


def _near(derivative: Tensor, expected: Tensor, rounding: float = 0.0) -> bool:
    """Tell whether two derivatives agree; NaN agrees with nothing."""
    error, size = (torch.linalg.vector_norm(t) for t in (derivative - expected, expected))
    return bool(error <= AGREEMENT * size + rounding)
