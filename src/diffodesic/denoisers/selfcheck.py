r"""Check the derivatives of a denoiser by a few evaluations, before a path is computed.

With J = dm/dz, random sign vectors u_i, and M_ij = u_i . J u_j by central differences:

- reverse mode: the gradient g of u_1 . m must give g . u_j = M_1j.  A network that was compiled or
  quantised, or that runs on a server, may give no gradient or a wrong one.
- symmetry: |M - M^T| / |M + M^T| off the diagonal estimates |J - J^T|_F / |J + J^T|_F.  Gradients
  from evaluations alone (``forward``) assume that J is symmetric, and err by about that share.
- smoothness in the noise: the slope of m by log SNR must be the same for a small and a large step,
  or else become the same on both sides of every level.  The sinusoids of stock U-Nets turn in a
  hundredth of an e-fold and do; a network that rounds its time to the entries of a table, or has
  ReLUs on it, does not.  The level where m bends most is looked for by halving:
  ``|m(l - h) - 2 m(l) + m(l + h)|`` falls as h^2 on a smooth function, as h at a kink, and not at
  all at a jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics import checks
from diffodesic.numerics.cost import record

__all__ = ["SelfCheck", "self_check"]

# relative errors from which on a check fails
WRONG_GRADIENT = 0.1  # differences in float32 are good to 1e-2
ASYMMETRIC = 0.3
JUMPS = 0.5
SMALL, LARGE = 2e-3, 0.1  # steps of log SNR
HALVINGS = 8  # of the large one, to 4e-4


@dataclass(frozen=True)
class SelfCheck:
    """Errors of a denoiser's derivatives; NaN where the denoiser is not finite.

    Attributes:
        reverse: relative error of reverse mode against central differences; inf without a graph.
        asymmetry: ``|J - J^T| / |J + J^T|``, by random probes.
        jumps: relative difference of the slopes by log SNR for a small and a large step; where
            that is large, of the slopes on both sides of the level where they differ most, over a
            step of 4e-4: 1 at a jump.
    """

    reverse: float
    asymmetry: float
    jumps: float

    @property
    def gradient(self) -> Literal["reverse", "forward"]:
        """The mode of gradients to use: ``forward`` if reverse mode fails."""
        return "forward" if self.reverse >= WRONG_GRADIENT else "reverse"

    def doubts(self) -> tuple[str, ...]:
        """A sentence for each error that makes paths or lengths wrong."""
        texts = []
        if self.gradient == "forward" and self.asymmetry > ASYMMETRIC:
            texts.append(
                "the network gives no gradients, and its Jacobian is not symmetric (relative "
                f"asymmetry {self.asymmetry:.2g}): paths from its evaluations alone need not be "
                "shortest; give a network that autograd can differentiate"
            )
        if self.jumps > JUMPS:
            texts.append(
                "the network does not change smoothly with the noise level (its slopes on both "
                f"sides of a level differ by {self.jumps:.0%} over steps of "
                f"{LARGE / 2**HALVINGS:.1g} of log SNR), as if it rounded its time to a table or "
                "had a ReLU on it: lengths along noise are wrong; let it take continuous times"
            )
        return tuple(texts)


def self_check(denoiser: Denoiser, x: Tensor, *, probes: int = 4, seed: int = 0) -> SelfCheck:
    """Check the derivatives of a denoiser at a few points.

    Args:
        denoiser: posterior mean.
        x: packed points (N, D+1), inside its range of noise.
        probes: number P >= 2 of random directions.
        seed: of the directions.

    Returns:
        the errors.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points that are not (N, D+1), none, or not finite, or fewer than 2 probes.

    Cost per point: ``2 P + 5`` evaluations and one VJP; 21 evaluations more for a network whose
    slopes by the noise differ.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    what = "the dimension of the data and one for log SNR"
    x = checks.points(x, "x", denoiser.dim + 1, what)
    if x.ndim != 2 or probes < 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)} for {probes} probes; it must be "
            f"(N, {denoiser.dim + 1}), and probes at least 2"
        )
    generator = checks.generator(seed)
    u = (torch.randint(0, 2, (probes, denoiser.dim), generator=generator) * 2 - 1).to(x)
    z, sigma = x[:, :-1], (-x[:, -1] / 2).exp()
    with torch.no_grad():
        pushed = denoiser.difference(z[:, None], sigma[:, None], u)[1]
        table = pushed @ u.T  # (N, j, i): u_i . J u_j
        small, large = (_slope(denoiser, x, step) for step in (SMALL, LARGE))
        jumps = _ratio(small - large, large)
        if jumps > JUMPS:
            jumps = _bend(denoiser, x)
    off = ~torch.eye(probes, dtype=torch.bool, device=x.device)
    odd, even = ((table + sign * table.mT)[:, off] for sign in (-1, 1))
    return SelfCheck(
        _reverse_error(denoiser, z, sigma, u, table[:, :, 0]),
        _ratio(odd, even),
        jumps,
    )


def _slope(denoiser: Denoiser, x: Tensor, step: float) -> Tensor:
    """Derivative of the mean by log SNR at fixed z, by a central difference; (N, D)."""
    low, high = denoiser.log_snr_range
    above, below = (x[:, -1] + step).clamp(max=high), (x[:, -1] - step).clamp(min=low)
    m = denoiser(x[:, :-1], (-torch.stack([above, below]) / 2).exp())
    return (m[0] - m[1]) / (above - below).unsqueeze(-1)


def _bend(denoiser: Denoiser, x: Tensor) -> float:
    """Difference of the slopes on both sides of the level where the mean bends most.

    Of five levels around each point, at equal steps, those are kept that lie about the greatest
    bend, and the step is halved.

    Returns:
        the largest of the points, relative to the greatest slope seen; what may be rounding is no
        bend.
    """
    low, high = denoiser.log_snr_range
    step = min(LARGE, (high - low) / 4)
    middle = x[:, -1].clamp(low + 2 * step, high - 2 * step)

    def ask(*steps: int) -> Tensor:
        level = middle + step * x.new_tensor(steps).unsqueeze(-1)
        return denoiser(x[:, :-1], (-level / 2).exp())

    m, rows = ask(-2, -1, 0, 1, 2), torch.arange(len(x), device=x.device)
    steepest = (m.diff(dim=0) / step).norm(dim=-1).amax(0)
    for _ in range(HALVINGS):
        worst = m.diff(n=2, dim=0).norm(dim=-1).argmax(0)
        middle, step = middle + (worst - 1) * step, step / 2
        between = ask(-1, 1)
        kept = [m[worst + i, rows] for i in range(3)]
        m = torch.stack([kept[0], between[0], kept[1], between[1], kept[2]])
        steepest = torch.maximum(steepest, (m.diff(dim=0) / step).norm(dim=-1).amax(0))
    bend = m.diff(n=2, dim=0).norm(dim=-1).amax(0)
    rounding = 8 * denoiser.rounding_unit(x.dtype) * (m[2].norm(dim=-1) + x[:, :-1].norm(dim=-1))
    return float(((bend - rounding).clamp(min=0) / (step * steepest)).nan_to_num(0.0).max())


def _reverse_error(
    denoiser: Denoiser, z: Tensor, sigma: Tensor, u: Tensor, expected: Tensor
) -> float:
    record(derivatives=len(z))
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad((denoiser(leaf, sigma) @ u[0]).sum(), leaf)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # no graph, or no derivative: forward passes of this shape have run
            return math.inf
    return _ratio(gradient @ u.T - expected, expected)


def _ratio(part: Tensor, whole: Tensor) -> float:
    """Norm of one tensor over that of another; 0 where the latter is 0."""
    size = float(whole.square().sum())
    return math.sqrt(float(part.square().sum()) / size) if size else 0.0
