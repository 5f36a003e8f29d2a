"""The search with probes drawn anew follows what is true, not the probes, and says how it ended."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffodesic import GaussianMixture, Spacetime, Status, geodesic
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Problem, chord
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.metrics.spacetime.estimators.secant import Secant

DIM = 30


class Probed(PathEnergy):
    """``|P dx|^2`` by a few random probes of P, whose truth is ``|dx|^2`` with a bowl over it.

    The metric is ``(1 + |x|^2) I``; each draw sees it along 3 of 30 directions only.
    """

    dim = DIM
    fitted = True

    def __init__(self, seed: int = 0, bias: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.probes = torch.randn(3, DIM, generator=generator, dtype=torch.float64) / 3**0.5
        self.bias = bias

    def redrawn(self, seed: int) -> Probed:
        return Probed(seed, self.bias)

    def _steps(self, x: Tensor, probes: Tensor | None) -> Tensor:
        middle, dx = (x[..., 1:, :] + x[..., :-1, :]) / 2, x.diff(dim=-2)
        size = dx if probes is None else dx @ probes.mT
        return (1 + middle.square().sum(-1)) * size.square().sum(-1)

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            steps = self._steps(leaf, self.probes)
            (slope,) = torch.autograd.grad(steps.sum(), leaf)
        n = x.shape[-2] - 1
        return Evaluation(steps.detach(), steps.detach() < 0, n / 2 * slope if order else None)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (1 + x.square().sum(-1)) * (u * v).sum(-1)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """A detour with noise in every direction."""
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype)[:, None]
        generator = torch.Generator().manual_seed(7)
        bend = torch.randn(DIM, generator=generator, dtype=a.dtype)
        return {"detour": chord(a, b, nodes) + 0.5 * torch.sin(torch.pi * s) * bend}

    def truth(self, x: Tensor) -> Tensor:
        return self._steps(x, None).sqrt().sum(-1)

    def judge(self, x: Tensor, seed: int, *, within: float | None = None) -> tuple[Tensor, Tensor]:
        own = self.truth(x)
        # a judge that is biased finds every path longer than the start
        start = next(iter(self.starts(x[:, 0], x[:, -1], x.shape[1] - 1).values()))
        return own + self.bias * (x - start).flatten(1).norm(dim=-1), torch.zeros_like(own)


def pairs(count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ends = torch.randn(2, count, DIM, generator=generator, dtype=torch.float64) / DIM**0.5
    return ends[0], ends[1]


def test_the_judged_length_falls_and_the_path_ends_near_the_chord():
    # around the origin of a bowl so shallow the shortest path is nearly the chord
    energy, (a, b) = Probed(), pairs()
    solver = Redraw(scale=1.0, rounds=3, draws=6, judgements=40, rtol=1e-3)
    found = solver.solve(Problem(energy, a, b, 16))
    straight = energy.truth(chord(a, b, 16))
    start = energy.truth(energy.starts(a[0], b[0], 16)["detour"])
    assert found.statuses == [Status.CONVERGED] * 2
    assert bool((energy.truth(found.nodes) < 1.1 * straight).all())
    assert float(start) > 1.5 * float(straight[0])


def test_fixed_probes_leave_what_they_do_not_see():
    # three directions of thirty: nothing lowers the energy across them, however long the search
    class Fixed(Probed):
        def redrawn(self, seed: int) -> Probed:
            return self

    (a, b) = pairs(1)
    solver = Redraw(scale=1.0, rounds=3, draws=6, judgements=40, rtol=1e-3)
    fixed, drawn = (solver.solve(Problem(energy, a, b, 16)).nodes for energy in (Fixed(), Probed()))
    truth = Probed().truth
    assert float(truth(fixed)) > 1.2 * float(truth(drawn))


def test_the_start_is_kept_where_no_path_is_judged_shorter():
    energy, (a, b) = Probed(bias=100.0), pairs()
    found = Redraw(scale=1.0).solve(Problem(energy, a, b, 16))
    assert found.statuses == [Status.START_KEPT] * 2
    start = energy.truth(energy.starts(a[0], b[0], 16)["detour"])
    torch.testing.assert_close(energy.truth(found.nodes)[0], start, rtol=1e-2, atol=0)


def test_judgements_that_run_out_are_said():
    energy, (a, b) = Probed(), pairs()
    found = Redraw(scale=1.0, judgements=1, rtol=1e-6).solve(Problem(energy, a, b, 16))
    assert found.statuses == [Status.ITERATION_LIMIT] * 2


def test_a_pair_is_not_changed_by_its_company():
    energy, (a, b) = Probed(), pairs(3)
    solver = Redraw(scale=1.0)
    together = solver.solve(Problem(energy, a, b, 16)).nodes
    for i in range(3):
        alone = solver.solve(Problem(energy, a[i : i + 1], b[i : i + 1], 16)).nodes[0]
        torch.testing.assert_close(together[i], alone)


def test_a_given_path_is_begun_with(rng: torch.Generator):
    energy, (a, b) = Probed(), pairs(1)
    init = chord(a, b, 16) + torch.randn(1, 17, DIM, generator=rng, dtype=torch.float64) / 100
    init[:, 0], init[:, -1] = a, b
    found = Redraw(scale=1.0).solve(Problem(energy, a, b, 16, init=init))
    assert found.start == ["given"]
    assert float(energy.truth(found.nodes)) <= 1.001 * float(energy.truth(init))


def test_on_a_learned_law_with_known_truth_it_is_near_the_exact_distance(rng: torch.Generator):
    # the secant of few probes, on noisy ends between far modes, against the exact geodesic
    means = torch.randn(6, 64, generator=rng, dtype=torch.float64)
    law = GaussianMixture(means, std=0.3)
    network = copy.copy(law)
    network.closed_form, network.learned = False, True
    exact = Spacetime(law)
    noise = torch.randn(2, 64, generator=rng, dtype=torch.float64)
    a, b = exact.point(means[:2] + 0.37 * noise, log_snr=2.0)
    best = geodesic(exact, a, b, nodes=32).length
    probes = torch.ones(2, 64, dtype=torch.float64)
    path = search(Spacetime(network, estimator=Secant(network, probes)), a, b, nodes=32)
    true_length = exact.squared_steps(path.nodes).sqrt().sum()
    assert float(best) <= float(true_length) < 1.3 * float(best)
    # of the quick judge: five standard errors, and the bias of its rule of eight levels
    error = float((path.length - true_length).abs())
    assert error < 5 * float(path.certificate.judged_error) + 0.05 * float(true_length)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"draws": 0}, {"nodes": 1}, {"rtol": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="must be"):
        replace(Redraw(), **wrong)


def test_draws_that_lead_away_are_left_for_others():
    # the first two draws see a bowl that is elsewhere: the judge finds their path longer
    class Misled(Probed):
        def redrawn(self, seed: int) -> Probed:
            return Elsewhere(seed) if seed <= 2 else Probed(seed)

    class Elsewhere(Probed):
        def _steps(self, x: Tensor, probes: Tensor | None) -> Tensor:
            return super()._steps(x - 0.4 * torch.sin(9 * torch.arange(DIM, dtype=x.dtype)), probes)

    (a, b) = pairs(1)
    energy, solver = Misled(), Redraw(scale=1.0, rounds=8, judgements=40)
    found = solver.solve(Problem(energy, a, b, 16))
    start = energy.truth(energy.starts(a[0], b[0], 16)["detour"])
    assert found.statuses == [Status.CONVERGED]
    assert float(energy.truth(found.nodes)) < 0.9 * float(start)


def test_paths_of_several_draws_are_averaged():
    judged = []

    class Seen(Probed):
        def judge(
            self, x: Tensor, seed: int, *, within: float | None = None
        ) -> tuple[Tensor, Tensor]:
            judged.append(x.clone())
            return super().judge(x, seed, within=within)

    (a, b) = pairs(1)
    energy, solver = Seen(), Redraw(scale=1.0, judgements=2, draws=3)
    solver.solve(Problem(energy, a, b, 16))
    x, scale, means = judged[0], torch.full((1,), 1.0, dtype=torch.float64), []
    for seeds in (range(1, 4), range(4, 7)):
        ends = []
        for seed in seeds:
            found = solver._descend(energy.redrawn(seed), x, scale, Problem(energy, a, b, 16))
            x, scale = found.result, found.scale
            ends.append(x)
        x = torch.stack(ends).mean(0)
        means.append(x)
    torch.testing.assert_close(judged[1], means[0])
    # with those before the last judgement
    torch.testing.assert_close(judged[2], (means[0] + means[1]) / 2)


def test_the_judge_chooses_the_start_among_those_that_probes_call_shortest():
    class Two(Probed):
        """A start that the probes do not see bend, and a straighter one whose bend they see."""

        def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
            s = torch.sin(torch.pi * torch.linspace(0, 1, nodes + 1, dtype=a.dtype))[:, None]
            seen, hidden = torch.linalg.svd(self.probes).Vh[[0, -1]]
            line = chord(a, b, nodes)
            return {"hidden": line + s * hidden, "seen": line + 0.5 * s * seen}

    (a, b) = pairs(1)
    choose = [Redraw(starts=starts, judgements=1) for starts in (1, 2)]
    found = [solver.solve(Problem(Two(), a, b, 16)).start for solver in choose]
    assert found == [["hidden"], ["seen"]]


def test_doubtful_segments_do_not_hold_a_descent_that_is_judged():
    class Doubtful(Probed):
        def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
            found = super().evaluate(x, order=order)
            # every step away from the start is in doubt
            bend = (x - chord(x[:, 0], x[:, -1], x.shape[1] - 1)).flatten(1).norm(dim=-1)
            return replace(found, doubtful=(bend < 1).unsqueeze(-1).expand_as(found.doubtful))

        def redrawn(self, seed: int) -> Doubtful:
            return Doubtful(seed)

    (a, b) = pairs(1)
    solver = Redraw(scale=1.0, rounds=3, draws=6, judgements=40, rtol=1e-3)
    held, free = (solver.solve(Problem(energy, a, b, 16)) for energy in (Doubtful(), Probed()))
    torch.testing.assert_close(held.nodes, free.nodes)


def test_a_step_that_probes_do_not_see_does_not_make_the_path_swing_out():
    class Sunken(Probed):
        """Whose probes find one step of the longest paths to be nothing, as three of 784 may."""

        def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
            found, steps = super().evaluate(x, order=order), x.shape[-2] - 1
            unseen = torch.arange(steps) == 10
            seen = torch.where(unseen & (steps == 16), 0.0, found.squared_steps)
            return replace(found, squared_steps=seen)

        def redrawn(self, seed: int) -> Sunken:
            return Sunken(seed, self.bias)

    energy, (a, b) = Sunken(), pairs(1)
    found = Redraw(scale=1.0).solve(Problem(energy, a, b, 16))
    assert found.length is not None
    # the bend between eight nodes, which the judge did not see, is a few per cent
    assert float(energy.truth(found.nodes)) < 1.05 * float(found.length)


def known_network() -> tuple[Spacetime, Spacetime, Tensor, Tensor]:
    """The spacetime of a network that is exact, that of its law, and two pairs of noisy points."""
    draw = torch.Generator().manual_seed(1)
    law = GaussianMixture(torch.randn(8, 64, generator=draw, dtype=torch.float64), std=0.3)
    network = copy.copy(law)
    network.closed_form, network.learned = False, True
    space = Spacetime(network, estimator="secant")
    noise = torch.randn(4, 64, generator=draw, dtype=torch.float64)
    a, b = space.point(law.means[:4] + 0.47 * noise, log_snr=2.0).chunk(2)
    return space, Spacetime(law), a, b


def lengths(space: Spacetime, x: Tensor) -> Tensor:
    return space.squared_steps(x).sqrt().sum(-1)


@pytest.mark.parametrize("nodes", [32, 64])
def test_a_path_is_not_longer_than_a_given_one_that_few_nodes_cannot_follow(nodes: int):
    space, exact, a, b = known_network()
    init = geodesic(exact, a, b, nodes=32).nodes
    found = search(space, a, b, nodes=nodes, init=init)
    assert found.statuses == (Status.START_KEPT,) * 2
    # eight nodes make it half as long again; the smooth curve through 32 is longer by some per cent
    assert bool((lengths(exact, found.nodes) < 1.05 * lengths(exact, init)).all())


def test_a_path_is_not_longer_than_itself():
    space, exact, a, b = known_network()
    first = search(space, a, b, nodes=32)
    again = search(space, a, b, nodes=32, init=first.nodes)
    # the judge has one sample
    assert bool((lengths(exact, again.nodes) < 1.05 * lengths(exact, first.nodes)).all())


def test_a_length_that_is_judged_settles_within_its_error():
    space, exact, a, b = known_network()
    fixed, settled = search(space, a, b, nodes=32), search(space, a, b, nodes=None)
    assert settled.nodes.shape[-2] <= 129
    assert bool((lengths(exact, settled.nodes) < 1.05 * lengths(exact, fixed.nodes)).all())
