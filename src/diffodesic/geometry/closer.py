"""A closer look at paths whose search was misled by its nodes.

Free nodes see a metric at their own places alone, and a search may jump over what is dear between
them.  Where the certificate finds length there, or a path that was known before is shorter, the
pair is searched again among the C2 splines through its nodes, with the energy taken between them,
too (:mod:`diffodesic.geometry.solvers.spline_search`): through few nodes, then through all.

A search also ends in the valley of its start.  Where a path by hops between data is shorter than
what it found, the pair is searched again from there.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffodesic.geometry.certify import ENOUGH, Certified, certify, no_longer_than
from diffodesic.geometry.energy import PathEnergy, Problem, Solution, Solver, evaluate
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.solvers.spline_search import SplineEnergy
from diffodesic.geometry.solvers.starts import first_paths, respace
from diffodesic.geometry.status import Status

__all__ = ["look_closer"]

FEW = 12  # nodes of the first search
POINTS = 96  # of its energy
PIECES = (4, 16)  # points per segment of the searches on all nodes, one after another
ROUNDS = 100  # energy gradients of a search per pair
RTOL = 1e-5  # of their energy
FEW_RTOL = 1e-3  # of the first: the searches on all nodes go on from there
NEAR = 1.02  # starts whose segments are longer than a path by more are not measured between them


def look_closer(problem: Problem, found: Certified, solver: Solver, refine: int) -> Certified:
    """Search again, between the nodes, where nodes were misled; then keep what is shorter anyway.

    Args:
        problem: what was solved.
        found: its certified paths.
        solver: that searched. Only a ``Relax`` that explores is asked again, and only where a
            certificate looked between the nodes.
        refine: of the certificate.

    Returns:
        the paths, with those that were found anew in place; none is longer than ``init``, than the
        one segment of an upper bound, or, where no ``init`` was given, than the energy's starts.

    Cost: that of :func:`certify` for paths known before, and one energy of each of the hops; where
    one is shorter, a search from it. Per pair that was misled a search on 12 nodes with 8 points
    per segment from the best start, and from each of the energy's detours; then one on all nodes
    with 4, and where this one does not agree with its certificate, another with 16. Each takes at
    most 100 energy gradients per pair.
    """
    again = isinstance(solver, Relax) and solver.explore and refine > 1
    if isinstance(solver, Relax) and again and problem.init is None:
        found = _search_hops(problem, found, solver, refine)
    known, length = _known(problem, found, refine, starts=again)
    if isinstance(solver, Relax) and again and not problem.energy.exact_segments:
        rows = _coarse(found) | (found.certificate.length > ENOUGH * length)
        if bool(rows.any()):
            found = _search_between(problem, found, rows, solver, refine)
    return no_longer_than(problem.energy, found, known, length, refine)


def _search_between(
    problem: Problem, found: Certified, rows: Tensor, solver: Relax, refine: int
) -> Certified:
    """Search the pairs ``rows``, boolean (B,), through few nodes, then through all."""
    few = min(FEW, problem.nodes)
    rounds, rtol = min(solver.iterations, ROUNDS), max(solver.rtol, RTOL)
    bounded = replace(solver, iterations=rounds, rtol=rtol, newton=False)
    energy, x = problem.energy, found.solution.nodes
    curves = SplineEnergy(energy, -(-POINTS // few))
    init = None if problem.init is None else problem.init[rows]
    part = replace(problem, energy=curves, a=x[rows, 0], b=x[rows, -1], init=init, nodes=few)
    coarse = replace(bounded, coarsest=few, rtol=max(rtol, FEW_RTOL))
    for first in _first_ends(coarse, part):
        spread = respace(energy, curves.fine(first.nodes), problem.nodes)
        found = _better(energy, found, replace(first, nodes=spread), rows, refine, unsettled=True)
    for pieces in PIECES:
        part = replace(
            problem,
            energy=SplineEnergy(energy, pieces),
            a=x[rows, 0],
            b=x[rows, -1],
            init=found.solution.nodes[rows],
        )
        last = replace(bounded, coarsest=problem.nodes).solve(part)
        last = replace(last, start=found.take(rows).solution.start)
        found = _better(energy, found, last, rows, refine, pieces)
        rows = rows & _coarse(found)
        if not bool(rows.any()):
            break
    return found


def _first_ends(solver: Relax, problem: Problem) -> list[Solution]:
    """The ends of a search from the best start, and from each detour."""
    ends = [solver.solve(problem)]
    if problem.init is not None:
        return ends
    others = first_paths(problem.energy.detours, problem.a, problem.b, problem.nodes)
    for name, init in others.items():
        ends.append(replace(solver.solve(replace(problem, init=init)), start=[name] * len(init)))
    return ends


def _search_hops(problem: Problem, found: Certified, solver: Relax, refine: int) -> Certified:
    """Search from the shortest of the energy's hops, where it is shorter than what was found."""
    energy, x = problem.energy, found.solution.nodes
    # a path that is TOO_COARSE is left to the search between nodes, which tries all detours
    rows = ~_coarse(found) & (x[:, 0] != x[:, -1]).any(-1)
    if not bool(rows.any()):
        return found
    named = first_paths(energy.hops, x[rows, 0], x[rows, -1], problem.nodes)
    if not named:
        return found
    paths = torch.stack(list(named.values()), 1)
    with torch.no_grad():
        steps = evaluate(energy, paths, order=0).squared_steps
    length, which = steps.clamp(min=0).sqrt().sum(-1).nan_to_num(nan=torch.inf).min(1)
    shorter = length < found.certificate.length[rows]
    if not bool(shorter.any()):
        return found
    rows = rows.masked_scatter(rows, shorter)
    init = paths[torch.arange(len(paths), device=x.device), which][shorter]
    end = solver.solve(replace(problem, a=x[rows, 0], b=x[rows, -1], init=init))
    names = list(named)
    end = replace(end, start=[names[i] for i in which[shorter].tolist()])
    return _better(energy, found, end, rows, refine)


def _better(
    energy: PathEnergy,
    found: Certified,
    end: Solution,
    rows: Tensor,
    refine: int,
    pieces: int = 1,
    *,
    unsettled: bool = False,
) -> Certified:
    """Put the ends of a search for ``rows`` in place where they are shorter, or as short and ok."""
    # the caller has not set this search's limit: where it is reached, a path is coarse as before
    statuses: list[Status] = [
        Status.TOO_COARSE if unsettled or status is Status.ITERATION_LIMIT else status
        for status in end.statuses
    ]
    iterations = found.solution.iterations[rows.cpu()] + end.iterations
    new = certify(energy, replace(end, statuses=statuses, iterations=iterations), refine, pieces)
    old = found.take(rows)
    now, then = old.certificate.length, new.certificate.length
    shorter = (then < now) | now.isnan() | (_well(new) & ~_well(old) & (then <= ENOUGH * now))
    best = rows.clone()
    best[rows] = shorter
    return found.put(best, new.take(shorter))


def _well(found: Certified) -> Tensor:
    """Which paths ended well, (B,)."""
    ok = [status.ok for status in found.solution.statuses]
    return torch.tensor(ok, device=found.smooth.device)


def _coarse(found: Certified) -> Tensor:
    """Which paths are TOO_COARSE, (B,)."""
    coarse = [status is Status.TOO_COARSE for status in found.solution.statuses]
    return torch.tensor(coarse, device=found.smooth.device)


def _known(
    problem: Problem, found: Certified, refine: int, *, starts: bool
) -> tuple[Tensor, Tensor]:
    """The shortest path (B, n+1, d) that was known before a search, and its length (B,)."""
    energy, x = problem.energy, found.solution.nodes
    s = torch.linspace(0, 1, x.shape[1], dtype=x.dtype, device=x.device)
    known, length = x.clone(), torch.full_like(found.certificate.length, torch.inf)
    paths: list[tuple[Tensor, Tensor]] = []
    if problem.init is not None:
        given = energy.confine(energy.curve(problem.init)(s))
        every = torch.ones_like(length, dtype=torch.bool)
        paths.append((every, torch.cat([x[:, :1], given[:, 1:-1], x[:, -1:]], 1)))
    elif starts:
        paths = _near(energy, x, found.certificate.length)
    for rows, path in paths:
        well = [Status.CONVERGED] * int(rows.sum())
        old = found.take(rows).solution
        nodes = replace(old, nodes=path[rows], statuses=well, knots=None)
        rated = certify(energy, nodes, refine)
        # what has a negative square has no length
        sound = [status is not Status.NEGATIVE_STEPS for status in rated.solution.statuses]
        shorter = rated.certificate.length < length[rows]
        better = rows.clone()
        better[rows] = shorter & torch.tensor(sound, device=length.device)
        known[better] = path[better]
        length[better] = rated.certificate.length[better[rows]]
    if energy.exact_segments:
        upper, one = found.certificate.upper, energy.segments(x[:, [0, -1]])(s)
        known = torch.where((upper < length)[:, None, None], one, known)
        length = torch.minimum(upper, length)
    return known, length


def _near(energy: PathEnergy, x: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Which pairs (B,) have a start that may be as short as ``length`` (B,), and these starts."""
    near = []
    with torch.no_grad():
        for start in first_paths(energy.starts, x[:, 0], x[:, -1], x.shape[1] - 1).values():
            steps = evaluate(energy, start, order=0).squared_steps
            rows = steps.clamp(min=0).sqrt().sum(-1) <= NEAR * length
            if bool(rows.any()):
                near.append((rows, start))
    return near
