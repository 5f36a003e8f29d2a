"""The certificate of a path: its lengths on a finer grid, and what they make of its status.

A search sees the nodes of a path alone.  Here the smooth curve through them is measured, so that a
path that hides length between its nodes is found out; and no path is returned that is longer than
one which was there before the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from diffodesic.geometry.energy import PathEnergy, Solution, discrete_energy, evaluate
from diffodesic.geometry.path import Certificate
from diffodesic.geometry.status import Status

__all__ = ["Certified", "certify", "judged", "no_longer_than"]

AGREE = 1.02  # refined length over that of the nodes, above which the nodes are too far apart
ENOUGH = 1 + 1e-3  # a search that ends longer by more than this was misled by its nodes


JUDGED = ("judged", "judged_error", "least_noise", "most_noise")
JUDGE_SEED = 0x6A756467  # no search draws from it
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


def certify(energy: PathEnergy, solution: Solution, refine: int) -> Certified:
    """Measure paths on a grid ``refine`` times finer than their nodes.

    Args:
        energy: the energy that was minimised.
        solution: what a solver returned.
        refine: see above.

    Returns:
        the paths, judged.

    Cost: ``refine n`` squared lengths per path and n for the nodes; no derivative.
    """
    x = solution.nodes
    n = x.shape[1] - 1
    s = torch.linspace(0, 1, refine * n + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        # one pair at a time: the fine grid of a whole batch need not fit in memory
        judged = [evaluate(energy, energy.confine(energy.curve(path)(s)), order=0) for path in x]
        coarse = evaluate(energy, x, order=0)
        lower = energy.lower_bound(x[:, 0], x[:, -1])
        upper = torch.full_like(lower, torch.inf)
        smooth = torch.ones_like(lower, dtype=torch.bool)
        if energy.exact_segments:
            upper = _lengths(evaluate(energy, x[:, [0, -1]], order=0).squared_steps)
            bound = _lengths(coarse.squared_steps)
            length = torch.stack([_lengths(one.squared_steps) for one in judged])
            smooth = ~(length > bound)  # the segments are a path too
            for i in torch.nonzero(~smooth).flatten().tolist():
                judged[i] = evaluate(energy, energy.segments(x[i])(s), order=0)
    fine = torch.stack([one.squared_steps for one in judged])
    doubtful = torch.stack([one.doubtful for one in judged])
    speed = coarse.squared_steps.clamp(min=0).sqrt()
    spread = speed.std(-1, correction=0) / speed.mean(-1)
    certificate = Certificate(
        length=_lengths(fine),
        energy=discrete_energy(fine),
        discrete_length=speed.sum(-1),
        discrete_energy=coarse.energy,
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
        (fine < 0).any(-1).tolist(),
        energy.outside(x).tolist(),
        (~energy.resolves(x) | hidden).tolist(),
        strict=True,
    )
    return Certified(
        replace(solution, statuses=[_judge(*one) for one in found]), certificate, smooth
    )


def no_longer_than(
    energy: PathEnergy, found: Certified, init: Tensor | None, refine: int
) -> Certified:
    """Put what was known before the search in place of longer paths, with status TOO_COARSE.

    Known are the paths that the search began with, where they were given, and the one segment
    between the ends, where its energy is exact.  A search lowers the energy of nodes; it ends at a
    longer curve where the nodes are too far apart.  Less than a thousandth longer is no worse: two
    sets of nodes on one geodesic differ by that much, and the search has the one of least energy.

    Args:
        energy: the energy that was minimised.
        found: the paths of the search.
        init: the given paths (B, k+1, d), or None.
        refine: see :func:`certify`.

    Returns:
        the shorter ones.

    Cost: that of :func:`certify` for given paths.
    """
    x = found.solution.nodes
    s = torch.linspace(0, 1, x.shape[1], dtype=x.dtype, device=x.device)
    if energy.exact_segments:
        found = _instead(
            energy, found, found.certificate.upper, energy.segments(x[:, [0, -1]])(s), refine
        )
    if init is not None:
        given = energy.confine(energy.curve(init)(s))
        given = torch.cat([x[:, :1], given[:, 1:-1], x[:, -1:]], 1)
        length = certify(energy, replace(found.solution, nodes=given), refine).certificate.length
        found = _instead(energy, found, length, given, refine)
    return found


def judged(energy: PathEnergy, found: Certified, ended: list[Status]) -> Certified:
    """Add what other estimates of the energy say of the paths.

    Args:
        energy: the energy that was minimised.
        found: the paths, with their certificates.
        ended: the solver's own statuses. They hold where only squared steps that are negative spoke
            against them: a judged length has none.

    Returns:
        the same with ``judged``, ``least_noise`` and the like; UNTRAINED in place of a status that
        was well, where a path runs through points that no network is trained on.

    Cost: that of :meth:`PathEnergy.judge` and :meth:`PathEnergy.noise_ratio` per path.
    """
    x, statuses = found.solution.nodes, list(found.solution.statuses)
    unknown = torch.full_like(found.certificate.length, torch.nan)
    length, error = energy.judge(x, JUDGE_SEED) if energy.fitted else (unknown, unknown)
    ratio = _noise_ratios(energy, x)
    # the noise of typical points scatters by sqrt(2 / D)
    share = 1 - max(QUIET, 3 * math.sqrt(2 / energy.dim))
    quiet = ratio.amin(-1) < share * ratio[:, [0, -1]].amin(-1).clamp(max=1)
    outside, coarse = energy.outside(x), ~energy.resolves(x)
    for i, status in enumerate(statuses):
        if status is Status.NEGATIVE_STEPS and not bool(length[i].isnan()):
            statuses[i] = _judge(ended[i], False, bool(outside[i]), bool(coarse[i]))
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


def _instead(
    energy: PathEnergy, found: Certified, length: Tensor, other: Tensor, refine: int
) -> Certified:
    """The paths ``other`` (B, n+1, d) in the place of those longer than ``length`` (B,)."""
    moving = (other[:, 0] != other[:, -1]).any(-1)
    rows = (found.certificate.length > ENOUGH * length) & moving
    if not bool(rows.any()):
        return found
    old, place = found.solution, torch.nonzero(rows).flatten().tolist()
    unknown = torch.full_like(old.gradient_norm, torch.nan)
    part = Solution(
        other[rows],
        unknown[rows],
        [Status.TOO_COARSE if old.statuses[i].ok else old.statuses[i] for i in place],
        old.iterations[rows.cpu()],
        [old.start[i] for i in place],
    )
    new = certify(energy, part, refine)
    nodes, smooth, norm = old.nodes.clone(), found.smooth.clone(), old.gradient_norm.clone()
    nodes[rows], smooth[rows], norm[rows] = part.nodes, new.smooth, torch.nan
    statuses = list(old.statuses)
    for i, status in zip(place, new.solution.statuses, strict=True):
        statuses[i] = status
    mixed = {}
    for item in fields(Certificate):
        values = getattr(found.certificate, item.name).clone()
        values[rows] = getattr(new.certificate, item.name)
        mixed[item.name] = values
    solution = replace(old, nodes=nodes, gradient_norm=norm, statuses=statuses)
    return Certified(solution, Certificate(**mixed), smooth)


def _lengths(squared_steps: Tensor) -> Tensor:
    return squared_steps.clamp(min=0).sqrt().sum(-1)


def _judge(status: Status, negative: bool, outside: bool, coarse: bool) -> Status:
    """What the certificate makes of a solver's own word."""
    if status is Status.SAME_POINT:
        return status
    # where no shortest path exists, a search may end in many ways for this one reason
    if outside and status not in (Status.NEGATIVE_STEPS, Status.NON_FINITE):
        return Status.NEGATIVE_STEPS if negative else Status.LEFT_DOMAIN
    if not status.ok:
        return status
    if negative:
        return Status.NEGATIVE_STEPS
    return Status.TOO_COARSE if coarse else status
