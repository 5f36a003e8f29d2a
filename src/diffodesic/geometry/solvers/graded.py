r"""Nodes that lie densely where a path turns: for paths of long straight stretches and corners.

Nodes at constant speed waste themselves where a path is straight.  A segment of length h makes a
path longer by about ``rho^3 h^3``, where rho is the path's turning against the energy's own
segments, and the sum is least where every segment has the same share of the integral of rho (de
Boor 1973).  A path whose segments take the shares tau_i of its parameter has the energy

    E = 1/2 sum squared_steps_i / tau_i,    L^2 <= 2E (equal: steps in proportion to tau),

so that its nodes stay in these proportions while it is searched.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, evaluate
from diffodesic.geometry.wrappers import EnergyWrapper
from diffodesic.numerics.cost import record
from diffodesic.numerics.hessians import BlockDiagonal, PathHessian

__all__ = ["Graded", "by_turning", "knots_of", "saved"]

TWICE = 1 / 4  # what twice as many even nodes leave of the excess of a length
EVEN = 0.5  # share of the nodes that lie evenly, so that no stretch is left to a few of them


class Graded(EnergyWrapper):
    """An energy along paths whose segments take unequal shares of the parameter.

    Args:
        wrapped: the energy; its segments must be exact, and its squared steps differentiable.
        shares: of the segments, (n,), positive, of sum 1.

    Cost: that of the wrapped energy, its gradient in reverse mode.
    """

    cheap_hessian = False  # the wrapped energy's is that of equal shares

    def __init__(self, wrapped: PathEnergy, shares: Tensor) -> None:
        super().__init__(wrapped)
        self.pull = 1 / (len(shares) * shares)

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """Squared steps by their shares, as if these were equal; the Hessian: preconditioner."""
        if not order:
            found = self.wrapped.evaluate(x, order=0)
            return Evaluation(found.squared_steps * self.pull, found.doubtful)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            found = self.wrapped.evaluate(leaf, order=0)
            steps = found.squared_steps * self.pull
            (slope,) = torch.autograd.grad(steps.sum(), leaf)
        steps = steps.detach()
        hessian = self.preconditioner(x, steps) if order == 2 else None
        return Evaluation(steps, found.doubtful, steps.shape[-1] / 2 * slope, hessian)

    def preconditioner(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """That of the wrapped energy, every segment by its share."""
        sizes = self.wrapped.segment_sizes(x, squared_steps / self.pull)
        return BlockDiagonal.of(sizes * self.pull[:, None], self.blocks)


class _Turning(NamedTuple):
    """How much longer paths (B, k+1, d) are for their segments: each (B, ...)."""

    steps: Tensor  # lengths of the segments, (B, k)
    excess: Tensor  # of the paths, relative to their lengths, (B,)
    density: Tensor  # rho at the inner nodes, (B, k-1)


def _turning(energy: PathEnergy, x: Tensor) -> _Turning:
    """From the lengths of single and of double segments: two evaluations per node."""
    record(node_gradients=2 / 3 * x[..., 0].numel())
    with torch.no_grad():
        one, odd, even = (
            evaluate(energy, part, order=0).squared_steps.clamp(min=0).sqrt()
            for part in (x, x[:, ::2], x[:, 1::2])
        )
    two = torch.empty_like(one[:, 1:])
    two[:, ::2], two[:, 1::2] = odd, even
    h = (one[:, 1:] + one[:, :-1]) / 2
    longer = (two - 2 * h).clamp(min=0)
    # double segments cost four times as much, and every place lies in two of them
    excess = longer.sum(-1) / 6 / one.sum(-1)
    tiny = torch.finfo(h.dtype).tiny
    return _Turning(one, excess, (longer / h.pow(3).clamp(min=tiny)).pow(1 / 3))


def saved(energy: PathEnergy, x: Tensor, nodes: int) -> Tensor:
    """Share of its length that a path would lose if its nodes lay where it turns.

    Args:
        energy: the energy, of exact segments.
        x: paths (B, k+1, d), k >= 4.
        nodes: number of segments that are meant; the loss falls with its square.

    Returns:
        (B,); zero where uneven nodes are worth less than twice as many even ones, NaN where a
        segment is not finite.

    Cost: two energies of the path.
    """
    found = _turning(energy, x)
    h = (found.steps[:, 1:] + found.steps[:, :-1]) / 2
    weight = h / h.sum(-1, keepdim=True)
    mean, cube = ((weight * found.density**power).sum(-1) for power in (1, 3))
    left = mean**3 / cube.clamp(min=torch.finfo(h.dtype).tiny)
    spared = torch.where(left < TWICE, 1 - left, 0.0)
    return found.excess * spared * ((x.shape[1] - 1) / nodes) ** 2


def by_turning(energy: PathEnergy, x: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Spread nodes along paths, half of them evenly and half where the paths turn.

    Args:
        energy: the energy, of exact segments.
        x: paths (B, k+1, d), k >= 4.
        nodes: number n of segments.

    Returns:
        points of the energy's segments between the old nodes (B, n+1, d), and the shares of the
        length that lie between them, (B, n).

    Cost: three energies of the path.
    """
    found = _turning(energy, x)
    around = torch.nn.functional.pad(found.density[:, None], (1, 1), mode="replicate")[:, 0]
    turned = torch.maximum(around[:, 1:], around[:, :-1]) * found.steps
    size = turned.sum(-1, keepdim=True)
    even = found.steps / found.steps.sum(-1, keepdim=True)
    turned = torch.where(size > 0, turned / torch.where(size > 0, size, 1.0), even)
    knots = knots_of(EVEN * even + (1 - EVEN) * turned)
    s = torch.linspace(0, 1, nodes + 1, dtype=x.dtype, device=x.device)
    inner = energy.confine(energy.segments(x).with_knots(knots)(s))[:, 1:-1]
    y = torch.cat([x[:, :1], inner, x[:, -1:]], 1)
    record(node_gradients=y[..., 0].numel() / 3)
    with torch.no_grad():
        steps = evaluate(energy, y, order=0).squared_steps.clamp(min=0).sqrt()
    least = 1e-3 * steps.mean(-1, keepdim=True)
    steps = torch.maximum(steps, least)
    return y, steps / steps.sum(-1, keepdim=True)


def knots_of(shares: Tensor) -> Tensor:
    """Parameters (..., n+1) from 0 to 1 of the nodes between segments of shares (..., n)."""
    knots = torch.nn.functional.pad(shares.cumsum(-1), (1, 0))
    knots[..., -1] = 1
    return knots
