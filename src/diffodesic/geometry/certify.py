"""The certificate of a path: its lengths on a finer grid, and what they make of its status.

A search sees the nodes of a path alone.  Here the smooth curve through them is measured, so that a
path that hides length between its nodes is found out; and no path is returned that is longer than
one that was there before the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.geometry.energy import Evaluation, PathEnergy, Solution, discrete_energy, evaluate
from diffodesic.geometry.path import Certificate
from diffodesic.geometry.solvers.spline_search import SplineEnergy
from diffodesic.geometry.status import Status
from diffodesic.numerics.curves import Polyline

__all__ = ["ENOUGH", "Certified", "certify", "judged", "no_longer_than"]

AGREE = 1.02  # refined length over that of the nodes, above which the nodes are too far apart
ENOUGH = 1 + 1e-3  # a search that ends longer by more than this was misled by its nodes


JUDGED = ("judged", "judged_error", "least_noise", "most_noise")
JUDGE_SEED = 0x6A756467  # no search draws from it
WITHIN = 0.01  # standard error of a judged length
# length of a path over what its search was told of it by one sample on few nodes (8 % were seen),
# above which these nodes are too far apart
TOLD = 1.1
# what squared steps say of a path, and a judged length knows better
SPOKEN = (Status.NEGATIVE_STEPS, Status.TOO_COARSE)
QUIET = 0.3  # share of the ends' noise without which a network was not trained on a point


@dataclass(frozen=True)
class Certified:
    """Paths (B, n+1, d), judged.

    Attributes:
        solution: the paths, with the statuses that the certificate leaves them.
        certificate: one entry per path, (B,).
        smooth: whether the path is the smooth curve through its nodes, (B,).
    """

    solution: Solution
    certificate: Certificate
    smooth: Tensor

    def take(self, rows: Tensor) -> Certified:
        """The paths ``rows``, boolean (B,)."""
        old, here = self.solution, rows.cpu()
        which = torch.nonzero(rows).flatten().tolist()
        solution = Solution(
            old.nodes[rows],
            old.gradient_norm[rows],
            [old.statuses[i] for i in which],
            old.iterations[here],
            [old.start[i] for i in which],
            knots=None if old.knots is None else old.knots[rows],
        )
        values = {name: value[rows] for name, value in vars(self.certificate).items()}
        return Certified(solution, Certificate(**values), self.smooth[rows])

    def put(self, rows: Tensor, new: Certified) -> Certified:
        """The same with the paths ``new`` in the place of ``rows``, boolean (B,)."""
        old, other = self.solution, new.solution
        statuses, start = list(old.statuses), list(old.start)
        for i, row in enumerate(torch.nonzero(rows).flatten().tolist()):
            statuses[row], start[row] = other.statuses[i], other.start[i]

        def mixed(first: Tensor, then: Tensor) -> Tensor:
            first = first.clone()
            first[rows.to(first.device)] = then
            return first

        even = old.knots is None and other.knots is None
        knots = None if even else mixed(old.parameters, other.parameters)
        solution = Solution(
            mixed(old.nodes, other.nodes),
            mixed(old.gradient_norm, other.gradient_norm),
            statuses,
            mixed(old.iterations, other.iterations),
            start,
            knots=knots,
        )
        rated = vars(new.certificate)
        values = {name: mixed(value, rated[name]) for name, value in vars(self.certificate).items()}
        return Certified(solution, Certificate(**values), mixed(self.smooth, new.smooth))


def certify(energy: PathEnergy, solution: Solution, refine: int, pieces: int = 1) -> Certified:
    """Measure paths on a grid ``refine`` times finer than what their search has seen.

    Args:
        energy: the energy that was minimised.
        solution: what a solver returned.
        refine: see above.
        pieces: points of every segment at which the search took the energy; 1: at the nodes.

    Returns:
        the paths, judged.

    Cost: ``refine pieces n`` squared lengths per path, and ``pieces n`` for what the search has
    seen; no derivative.
    """
    x, n = solution.nodes, pieces * (solution.nodes.shape[1] - 1)
    seen = x if pieces == 1 else SplineEnergy(energy, pieces).fine(x)
    knots, s = solution.parameters, _finer(solution.parameters, refine * pieces)
    with torch.no_grad():
        # so many paths at once that their fine grids are no larger than what the search has seen
        every = torch.arange(len(x), device=x.device).split(max(1, len(x) // refine))
        parts = [_along(energy, energy.curve(x[i]), knots[i], s[i]) for i in every]
        fine = torch.cat([part.squared_steps for part in parts])
        doubtful = torch.cat([part.doubtful for part in parts])
        coarse = evaluate(energy, seen, order=0)
        lower = energy.lower_bound(x[:, 0], x[:, -1])
        upper = torch.full_like(lower, torch.inf)
        smooth = torch.ones_like(lower, dtype=torch.bool)
        if energy.exact_segments:
            upper = _lengths(evaluate(energy, x[:, [0, -1]], order=0).squared_steps)
            length, told = _lengths(fine), _lengths(coarse.squared_steps)
            smooth = (length <= told) | told.isnan()  # segments are a path too
            swung = torch.nonzero(~smooth).flatten()
            for i in swung.split(len(every[0])) if len(swung) else ():
                part = _along(energy, energy.segments(x[i]), knots[i], s[i])
                fine[i], doubtful[i] = part.squared_steps, part.doubtful
    steps = coarse.squared_steps.clamp(min=0).sqrt()
    shares = _finer(knots, pieces).diff(dim=-1)
    speed = steps / (n * shares)
    spread = speed.std(-1, correction=0) / speed.mean(-1)
    certificate = Certificate(
        length=_lengths(fine),
        energy=discrete_energy(fine / (refine * n * s.diff(dim=-1))),
        discrete_length=steps.sum(-1),
        discrete_energy=discrete_energy(coarse.squared_steps / (n * shares)),
        speed_spread=spread.nan_to_num(),
        gradient_norm=solution.gradient_norm,
        negative_fraction=doubtful.to(x.dtype).mean(-1),
        lower=lower,
        upper=upper,
        **dict.fromkeys(JUDGED, torch.full_like(lower, torch.nan)),
    )
    hidden = certificate.length > AGREE * certificate.discrete_length
    found = zip(
        solution.statuses,
        (~fine.isfinite()).any(-1).tolist(),
        (fine < 0).any(-1).tolist(),
        energy.outside(x).tolist(),
        (~energy.resolves(seen) | hidden).tolist(),
        strict=True,
    )
    return Certified(
        replace(solution, statuses=[_judge(*one) for one in found]), certificate, smooth
    )


def no_longer_than(
    energy: PathEnergy, found: Certified, known: Tensor, length: Tensor, refine: int
) -> Certified:
    """Put what was known before the search in the place of longer paths, with status TOO_COARSE.

    A search lowers the energy of nodes; it ends at a longer curve where the nodes are too far
    apart.  Less than a thousandth longer is no worse: two sets of nodes on one geodesic differ by
    that much, and the search has the one of least energy.

    Args:
        energy: the energy that was minimised.
        found: the paths of the search.
        known: other paths between the same ends, (B, n+1, d).
        length: their lengths (B,).
        refine: see :func:`certify`.

    Returns:
        the shorter ones.

    Cost: that of :func:`certify` for the paths that are put in place.
    """
    moving = (known[:, 0] != known[:, -1]).any(-1)
    rows = (found.certificate.length > ENOUGH * length) & moving
    if not bool(rows.any()):
        return found
    old, place = found.solution, torch.nonzero(rows).flatten().tolist()
    part = Solution(
        known[rows],
        torch.full_like(old.gradient_norm[rows], torch.nan),
        [Status.TOO_COARSE if old.statuses[i].ok else old.statuses[i] for i in place],
        old.iterations[rows.cpu()],
        [old.start[i] for i in place],
    )
    return found.put(rows, certify(energy, part, refine))


def judged(energy: PathEnergy, found: Certified, searched: Solution) -> Certified:
    """Add what other estimates of the energy say of the paths.

    Args:
        energy: the energy that was minimised.
        found: the paths, with their certificates.
        searched: what the solver returned. Its statuses hold where only squared steps that are
            negative, or length between the nodes, spoke against them: a judged length is that of
            the nodes' straight segments or more, and no part of it is negative.

    Returns:
        the same with ``judged``, ``least_noise`` and the like. In place of a status that was well
        TOO_COARSE, where the path is longer than its search was told, and UNTRAINED, where it runs
        through points that no network is trained on.

    Cost: that of :meth:`PathEnergy.judge` and :meth:`PathEnergy.noise_ratio` per path.
    """
    x, statuses = found.solution.nodes, list(found.solution.statuses)
    unknown = torch.full_like(found.certificate.length, torch.nan)
    length, error = unknown, unknown
    if energy.fitted:
        length, error = energy.judge(x, JUDGE_SEED, within=WITHIN)
    ratio = _noise_ratios(energy, x)
    # the noise of typical points scatters by sqrt(2 / D)
    share = 1 - max(QUIET, 3 * math.sqrt(2 / energy.dim))
    quiet = ratio.amin(-1) < share * ratio[:, [0, -1]].amin(-1).clamp(max=1)
    outside, coarse = energy.outside(x), ~energy.resolves(x)
    if searched.length is not None:
        coarse = coarse | (length > TOLD * searched.length)
    for i, status in enumerate(statuses):
        if not bool(length[i].isnan()):
            own = searched.statuses[i] if status in SPOKEN else status
            statuses[i] = _judge(own, False, False, bool(outside[i]), bool(coarse[i]))
        if bool(quiet[i]) and statuses[i] in (Status.CONVERGED, Status.FIXED_BUDGET):
            statuses[i] = Status.UNTRAINED
    values = (length, error, ratio.amin(-1), ratio.amax(-1))
    certificate = replace(found.certificate, **dict(zip(JUDGED, values, strict=True)))
    return replace(
        found, certificate=certificate, solution=replace(found.solution, statuses=statuses)
    )


def _noise_ratios(energy: PathEnergy, x: Tensor) -> Tensor:
    """:meth:`PathEnergy.noise_ratio` of paths (B, n+1, d); NaN for one that a denoiser refuses."""
    unknown = torch.full_like(x[..., 0], torch.nan)
    try:
        found = energy.noise_ratio(x)
    except FloatingPointError:
        if len(x) == 1:
            return unknown
        return torch.cat([_noise_ratios(energy, path[None]) for path in x])
    return unknown if found is None else found


def _finer(knots: Tensor, pieces: int) -> Tensor:
    """Knots (B, n+1) and equal pieces between them, (B, pieces n + 1)."""
    part = torch.arange(pieces, dtype=knots.dtype, device=knots.device) / pieces
    inner = torch.lerp(knots[:, :-1, None], knots[:, 1:, None], part)
    return torch.cat([inner.flatten(1), knots[:, -1:]], 1)


def _along(energy: PathEnergy, curve: Polyline, knots: Tensor, s: Tensor) -> Evaluation:
    """Squared lengths along curves with these knots, between their points at ``s`` (B, m+1)."""
    return evaluate(energy, energy.confine(curve.with_knots(knots)(s)), order=0)


def _lengths(squared_steps: Tensor) -> Tensor:
    return squared_steps.clamp(min=0).sqrt().sum(-1)


def _judge(status: Status, lost: bool, negative: bool, outside: bool, coarse: bool) -> Status:
    """What the certificate makes of a solver's own word; ``lost``: some step is not finite."""
    if status is Status.SAME_POINT:
        return status
    if lost:
        return Status.NON_FINITE
    # where no shortest path exists, a search may end in many ways for this one reason
    if outside and status not in (Status.NEGATIVE_STEPS, Status.NON_FINITE):
        return Status.NEGATIVE_STEPS if negative else Status.LEFT_DOMAIN
    if not status.ok:
        return status
    if negative:
        return Status.NEGATIVE_STEPS
    return Status.TOO_COARSE if coarse else status
