"""Arches along the probability flow: closed form for Gaussian data, typical noise, exact ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture
from diffodesic.metrics.spacetime.flow_arches import CROSSINGS, DEPTHS, even_means, flow_arches
from diffodesic.numerics.curves import Spline

DIM, VARIANCE, TOP = 200, 0.5, 2.0


def gaussian(mean: Tensor | float = 0.0) -> GaussianMixture:
    return GaussianMixture((torch.zeros(1, DIM) + mean).double(), std=math.sqrt(VARIANCE))


def ends(rng: torch.Generator, mean: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Two points of noisy data at one level."""
    scale = math.sqrt(VARIANCE + math.exp(-TOP))
    z = mean + scale * torch.randn(2, DIM, generator=rng, dtype=torch.float64)
    first, last = torch.cat([z, torch.full((2, 1), TOP).double()], -1)
    return first, last


def test_points_are_slerps_of_flow_lines_in_closed_form(rng: torch.Generator):
    # z - mean grows like sqrt(v + sigma^2); Heun's rule at steps of 1/4, lines between: 2e-3
    mean = torch.randn(DIM, generator=rng, dtype=torch.float64)
    a, b = ends(rng, mean)
    path = flow_arches(gaussian(mean), a, b, 12, lowest=-9.0)["flow arch 3"]
    s = torch.linspace(0, 1, 13, dtype=torch.float64)
    torch.testing.assert_close(path[:, -1], TOP - 12 * s * (1 - s))
    growth = ((VARIANCE + (-path[:, -1]).exp()) / (VARIANCE + math.exp(-TOP))).sqrt()
    u, v = a[:-1] - mean, b[:-1] - mean
    angle = torch.arccos((u @ v) / (u.norm() * v.norm()))
    left, right = ((1 - s) * angle).sin() / angle.sin(), (s * angle).sin() / angle.sin()
    unit = left[:, None] * u / u.norm() + right[:, None] * v / v.norm()
    size = torch.lerp(u.norm(), v.norm(), s) * growth
    error = (path[:, :-1] - mean - unit * size[:, None]).norm(dim=-1) / size
    assert float(error.max()) < 2e-3


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("crossing", CROSSINGS)
def test_ends_are_exact_and_noise_is_typical(depth: float, crossing: str, rng: torch.Generator):
    law = gaussian()
    a, b = ends(rng)
    path = flow_arches(law, a, b, 16, lowest=-9.0)[f"{crossing}flow arch {depth:g}"]
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    z, sigma = path[:, :-1], (-path[:, -1] / 2).exp()
    # |z - m|^2 / sigma^2 D of Gaussian data is (sigma^2 / (v + sigma^2)) (1 +- sqrt(2 / D))
    ratio = (z - law(z, sigma)).square().mean(-1) / sigma**2
    typical = sigma**2 / (VARIANCE + sigma**2)
    assert float((ratio / typical - 1).abs().max()) < 4 * math.sqrt(2 / DIM)


def test_the_straight_line_loses_the_noise_that_arches_keep(rng: torch.Generator):
    law = gaussian()
    a, b = ends(rng)
    middle = flow_arches(law, a, b, 8, lowest=-9.0)["flow arch 2"][4, :-1]
    assert float(torch.lerp(a, b, 0.5)[:-1].norm() / a[:-1].norm()) < 0.8
    assert float(middle.norm() / a[:-1].norm()) > 1.0


def test_no_arch_goes_below_the_lowest_level(rng: torch.Generator):
    a, b = ends(rng)
    for path in flow_arches(gaussian(), a, b, 16, lowest=0.5).values():
        assert float(path[:, -1].min()) == pytest.approx(0.5)


def test_late_arches_follow_one_end_and_then_the_other(rng: torch.Generator):
    a, b = ends(rng)
    found = flow_arches(gaussian(), a, b, 12, lowest=-9.0)
    early, late = found["flow arch 2"], found["late flow arch 2"]
    for node, end in ((3, a), (9, b)):
        direction = end[:-1] / end[:-1].norm()
        assert float(late[node, :-1] @ direction / late[node, :-1].norm()) > 1 - 1e-6
        assert float(early[node, :-1] @ direction / early[node, :-1].norm()) < 0.99


def test_a_batch_of_pairs_at_several_levels_is_every_pair_alone(rng: torch.Generator):
    a, b = ends(rng)
    pairs = [(a, b), (torch.cat([a[:-1], a.new_tensor([1.0])]), b)]
    law: Denoiser = gaussian()
    starts, stops = (torch.stack(each) for each in zip(*pairs, strict=True))
    together = flow_arches(law, starts, stops, 6, lowest=-9.0)
    for i, (first, last) in enumerate(pairs):
        for name, path in flow_arches(law, first, last, 6, lowest=-9.0).items():
            # steps of the flow are equal shares of the way: other counts differ by Heun's error
            torch.testing.assert_close(together[name][i], path, rtol=0, atol=1e-2)


def test_ends_at_different_levels_keep_typical_noise(rng: torch.Generator):
    law, scale = gaussian(), math.sqrt(VARIANCE + math.exp(2.0))
    clean = ends(rng)[0]
    noisy = torch.cat(
        [scale * torch.randn(DIM, generator=rng, dtype=torch.float64), clean[-1:] - 4]
    )
    for path in flow_arches(law, clean, noisy, 16, lowest=-9.0).values():
        size = path[:, :-1].square().mean(-1) / (VARIANCE + (-path[:, -1]).exp())
        assert float((size - 1).abs().max()) < 4 * math.sqrt(2 / DIM)


def test_an_arch_from_below_the_lowest_level_keeps_to_the_level_of_its_end(
    rng: torch.Generator,
):
    a, b = ends(rng)
    b[-1] = 1.0
    for path in flow_arches(gaussian(), a, b, 16, lowest=2.5).values():
        assert float(path[:, -1].min()) == 1.0
        size = path[:, :-1].square().mean(-1) / (VARIANCE + (-path[:, -1]).exp())
        assert float(size[:-1].min()) > 1 - 4 * math.sqrt(2 / DIM)


def test_a_pair_with_an_end_below_the_lowest_level_leaves_the_arches_of_others(
    rng: torch.Generator,
):
    a, b = ends(rng)
    low = torch.cat([a[:-1], a.new_tensor([-1.0])])
    both = flow_arches(gaussian(), torch.stack([a, low]), torch.stack([b, b]), 8, lowest=0.0)
    alone = flow_arches(gaussian(), a, b, 8, lowest=0.0)
    for name, path in alone.items():
        # other steps of the flow's rule: its error
        torch.testing.assert_close(both[name][0], path, rtol=0, atol=1e-2)


def test_means_move_by_equal_steps_along_the_same_curve(rng: torch.Generator):
    law, (a, b) = gaussian(), ends(rng)
    path = flow_arches(law, a, b, 32, lowest=-9.0, depths=(4.0,))["flow arch 4"]
    even = even_means(law, path)
    assert torch.equal(even[[0, -1]], path[[0, -1]])

    def spread(nodes: Tensor) -> float:
        shown = law(nodes[:, :-1], (-nodes[:, -1] / 2).exp())
        steps = shown.diff(dim=0).norm(dim=-1)
        return float(steps.std() / steps.mean())

    assert spread(path) > 0.3
    assert spread(even) < 0.2 * spread(path)  # lengths are known between 33 nodes
    # no node leaves the curve: the nearest of its dense points is a small part of a step away
    dense = Spline(path)(torch.linspace(0, 1, 3201, dtype=torch.float64))
    off = torch.cdist(even, dense).amin(-1)
    assert float(off.max()) < 0.05 * float(path.diff(dim=0).norm(dim=-1).max())


def test_crossings_are_named_by_the_caller(rng: torch.Generator):
    a, b = ends(rng)
    own = flow_arches(gaussian(), a, b, 8, -9.0, depths=(2.0,), crossings={"half ": 0.25})
    assert list(own) == ["half flow arch 2"]
    assert torch.equal(own["half flow arch 2"][[0, -1]], torch.stack([a, b]))
