"""What other estimates of a path make of its certificate and of its status."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffodesic import Status, geodesic
from diffodesic.geometry.certify import certify, judged
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Solution, chord
from diffodesic.geometry.metric import MetricEnergy
from diffodesic.geometry.status import SearchWarning
from diffodesic.metrics.elementary import Conformal, Euclidean
from diffodesic.numerics.curves import Polyline


class Quiet(MetricEnergy):
    """Flat space whose points carry ``middle`` of their noise half-way, and all of it at the ends.

    Paths whose second coordinate is 1 are refused.
    """

    def __init__(self, dim: int, middle: float) -> None:
        super().__init__(Euclidean(dim))
        self.middle = middle

    def noise_ratio(self, x: Tensor) -> Tensor:
        if bool((x[..., 1] == 1).any()):
            raise FloatingPointError("refused")
        return 1 - (1 - self.middle) * 4 * x[..., 0] * (1 - x[..., 0])


def rated(
    energy: PathEnergy, *second: float, told: float | None = None
) -> tuple[list[Status], Tensor]:
    """Statuses of chords along the first coordinate, and their least noise.

    ``told`` is the length that a search was told of them.
    """
    a = torch.zeros(len(second), energy.dim, dtype=torch.float64)
    a[:, 1] = torch.tensor(second)
    b = a.clone()
    b[:, 0] = 1
    norm, taken = torch.zeros(len(a)).double(), torch.zeros(len(a), dtype=torch.long)
    ended = [Status.CONVERGED] * len(a)
    length = None if told is None else norm + told
    solution = Solution(chord(a, b, 4), norm, ended, taken, ["chord"] * len(a), length)
    found = judged(energy, certify(energy, solution, 2), solution)
    return found.solution.statuses, found.certificate.least_noise


@pytest.mark.parametrize(
    ("dim", "middle", "status"),
    [
        (785, 0.75, Status.CONVERGED),
        (785, 0.65, Status.UNTRAINED),
        # the noise of 64 coordinates is itself known to a fifth only
        (65, 0.65, Status.CONVERGED),
        (65, 0.4, Status.UNTRAINED),
    ],
)
def test_a_path_through_too_little_noise_is_a_guess(dim: int, middle: float, status: Status):
    assert rated(Quiet(dim, middle), 0.0)[0] == [status]


def test_a_path_whose_noise_the_network_refuses_leaves_the_others():
    statuses, least = rated(Quiet(785, 0.9), 0.0, 1.0)
    assert statuses == [Status.CONVERGED] * 2
    assert float(least[0]) == pytest.approx(0.9)
    assert bool(least[1].isnan())


class Longer(MetricEnergy):
    """Flat space whose steps find the more length the more of them there are; ``judge`` says 1."""

    fitted = True

    def __init__(self, said: float) -> None:
        super().__init__(Euclidean(785))
        self.said = said

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        found = super().evaluate(x, order=order)
        return replace(found, squared_steps=found.squared_steps * (x.shape[-2] - 1))

    def judge(self, x: Tensor, seed: int, *, within: float | None = None) -> tuple[Tensor, Tensor]:
        return x.new_full((len(x),), self.said), x.new_zeros(len(x))


def test_a_judged_length_hides_nothing_between_nodes():
    assert rated(Longer(1.0), 0.0)[0] == [Status.CONVERGED]
    assert rated(Longer(math.nan), 0.0)[0] == [Status.TOO_COARSE]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (0.95, Status.CONVERGED),  # as much as one sample scatters
        (0.85, Status.TOO_COARSE),
        (math.nan, Status.CONVERGED),  # nobody judged
    ],
)
def test_a_path_longer_than_its_search_was_told_has_not_converged(told: float, status: Status):
    assert rated(Longer(1.0), 0.0, told=told)[0] == [status]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_between_the_nodes_has_not_converged(value: float):
    # eight segments of midpoints .46875, .5078, ...: none in the band, but a finer grid's is
    def factor(x: Tensor) -> Tensor:
        inside = ((x[..., 0] - 0.5).abs() < 0.006) & (x[..., 1] < 1)
        return torch.where(inside, value, torch.ones_like(x[..., 0]))

    a = torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    b = a + torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.warns(SearchWarning, match="between the nodes"):
        path = geodesic(Conformal(factor, 2), a, b, nodes=8, refine=16)
    assert bool(path.certificate.discrete_length.isfinite().all())
    assert path.statuses == (Status.NON_FINITE, Status.CONVERGED)
    assert float(path.length[1]) == pytest.approx(1)


class Swung(MetricEnergy):
    """Flat space whose segments are exact, and whose smooth curve is not finite."""

    exact_segments = True

    def curve(self, nodes: Tensor) -> Polyline:
        return Polyline(nodes * torch.nan)


def test_segments_stand_for_a_path_whose_smooth_curve_is_not_finite():
    statuses, _ = rated(Swung(Euclidean(2)), 0.0)
    assert statuses == [Status.CONVERGED]
