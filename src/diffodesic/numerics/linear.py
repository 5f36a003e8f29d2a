"""Linear systems without a matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradient"]


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    rtol: float = 1e-12,
    iterations: int | None = None,
) -> Tensor:
    """Solve ``A x = b`` for symmetric positive definite ``A``, each batch entry for itself.

    Args:
        operator: ``A`` as a map of ``(..., d)`` tensors.
        b: right-hand sides ``(..., d)``.
        rtol: stop when every residual is below ``rtol |b|``.
        iterations: limit; default ``2 d + 10`` (exact arithmetic needs d).

    Returns:
        ``x`` of shape ``(..., d)``.

    Raises:
        LinAlgError: if a residual is above ``sqrt(rtol)`` when the limit is reached.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), (r * r).sum(-1, keepdim=True)
    target = (rtol**2) * rr
    for _ in range(iterations or 2 * b.shape[-1] + 10):
        active = rr > target
        if not bool(active.any()):
            return x
        ap = operator(p)
        # A finished entry has r = p = 0 / 0: it is held still instead of divided by zero.
        pap = (p * ap).sum(-1, keepdim=True)
        alpha = torch.where(active & (pap > 0), rr / torch.where(pap > 0, pap, 1.0), 0.0)
        x, r = x + alpha * p, r - alpha * ap
        rr, before = (r * r).sum(-1, keepdim=True), rr
        p = r + torch.where(active, rr / torch.where(before > 0, before, 1.0), 0.0) * p
    if bool((rr > (rtol * (b * b).sum(-1, keepdim=True))).any()):
        raise torch.linalg.LinAlgError(  # type: ignore[attr-defined]
            "the metric tensor could not be inverted by conjugate gradients: it is singular or "
            "not positive definite at this point"
        )
    return x
