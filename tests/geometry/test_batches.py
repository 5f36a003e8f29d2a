"""A pair is solved as alone, whatever its company in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.denoisers import NetworkOptions
from diffodesic.geometry import search
from diffodesic.geometry.energy import chord
from diffodesic.geometry.metric import MetricEnergy
from diffodesic.geometry.solvers.starts import first_paths
from support.checks import Draw
from support.rings import METRICS


def _pairs(name: str) -> tuple[dd.Metric, Tensor, Tensor]:
    """A metric of six modes in the plane, and 256 random pairs."""
    rng = torch.Generator().manual_seed(0)
    law = dd.GaussianMixture(2 * torch.randn(6, 2, generator=rng, dtype=torch.float64), std=0.4)
    a, b = 2 * torch.randn(2, 256, 2, generator=rng, dtype=torch.float64)
    level = 2 * torch.randn(2, 256, generator=rng, dtype=torch.float64).abs()
    metric = METRICS[name](law)
    if isinstance(metric, dd.Spacetime):
        return metric, metric.point(a, level[0]), metric.point(b, level[1])
    return metric, a, b


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score", "density", "score size", "conformal", "spacetime"])
def test_pairs_of_a_large_batch_are_those_of_small_ones(name: str):
    """256 random pairs, again in batches of eight, and of each batch the first alone."""
    metric, a, b = _pairs(name)
    together = search(metric, a, b, nodes=16, refine=2)
    for rows in torch.arange(256).split(8):
        for some in (rows, rows[:1]):
            few = search(metric, a[some], b[some], nodes=16, refine=2)
            assert few.statuses == tuple(together.statuses[i] for i in some.tolist())
            torch.testing.assert_close(few.length, together.length[some], rtol=1e-12, atol=0)


def test_a_pair_that_is_stuck_ends_though_another_one_stalls():
    """Both end in one round, and both blame nodes that are too far apart."""
    metric, a, b = _pairs("score")
    pair, stalls = 40, 59
    together = search(metric, a[[pair, stalls]], b[[pair, stalls]], nodes=16, refine=1)
    alone = search(metric, a[pair], b[pair], nodes=16, refine=1)
    assert alone.status is together.statuses[0] is dd.Status.TOO_COARSE
    torch.testing.assert_close(together.nodes[0], alone.nodes, rtol=1e-12, atol=0)


def test_the_longest_searches_of_a_batch_are_those_of_its_pairs_alone():
    """A start that differs in its last digit ends 1e-4 longer, after hundreds of steps."""
    rng = torch.Generator().manual_seed(0)
    law = dd.GaussianMixture(2 * torch.randn(6, 2, generator=rng, dtype=torch.float64), std=0.4)
    z, level = (2 * torch.randn(2, 32, *d, generator=rng, dtype=torch.float64) for d in ([2], []))
    space = dd.Spacetime(law)
    a, b = space.point(z, level.abs())
    together = search(space, a[10:22], b[10:22], nodes=16, refine=2)
    alone = search(space, a[18], b[18], nodes=16, refine=2)
    assert int(alone.iterations) > 100
    assert float(alone.length / together.length[8]) == pytest.approx(1, abs=1e-9)


def test_a_pair_does_not_see_its_company(draw: Draw):
    """Hundreds of steps between separate modes would make 1e-3 of a last digit."""
    law = dd.GaussianMixture(2 * draw(4, 5), std=0.4)
    space = dd.Spacetime(law)
    a, b = space.point(2 * draw(2, 3, 5), 2 * draw(2, 3).abs())
    together = search(space, a, b, nodes=12)
    alone = search(space, a[1], b[1], nodes=12)
    assert float(alone.length / together.length[1]) == pytest.approx(1, abs=1e-9)


def test_a_pair_that_a_network_refuses_leaves_the_others_their_arches():
    """NaN at clean points of one pair: both others keep their starts, and the lengths of alone."""
    rng = torch.Generator().manual_seed(0)
    law = dd.GaussianMixture(2 * torch.randn(6, 8, generator=rng, dtype=torch.float64), std=0.3)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x[:, :1] > 6, torch.nan, law(x, t))

    denoiser = dd.from_network(
        network,
        shape=(8,),
        schedule=dd.schedules.EDM(0.002, 80.0),
        prediction="x0",
        variance=4.0,
        options=NetworkOptions(trial=False),
    )
    space = dd.Spacetime(denoiser)
    a, b = (space.point(law.means[i : i + 2], log_snr=1.5) for i in (0, 2))
    lost = [torch.cat([end, end[:1]]) for end in (a, b)]
    for end in lost:
        end[2, 0] = 8.0
    alone = search(space, a, b, nodes=8, refine=1)
    together = search(space, *lost, nodes=8, refine=1)
    assert together.statuses[2] is dd.Status.NON_FINITE
    assert together.start[:2] == alone.start
    assert all("flow arch" in name for name in alone.start)
    torch.testing.assert_close(together.length[:2], alone.length, rtol=1e-12, atol=0)


class Sparing(MetricEnergy):
    """Flat space that knows a bent start for ends on the right alone."""

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        named = super().starts(a, b, nodes)
        return named if bool((a[:, 0] < 0).any()) else named | {"bent": named["chord"].square()}


def test_a_pair_without_paths_has_its_chord():
    def sparing(a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        line = chord(a, b, nodes)
        return {"bent": line.square()} if bool(a[0, 0] > 0) else {}

    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2)
    found = first_paths(sparing, a, b, 4)["bent"]
    assert torch.equal(found[0], chord(a, b, 4)[0])
    assert torch.equal(found[1], chord(a, b, 4)[1].square())


def test_a_start_that_a_pair_lacks_is_its_own_first_one():
    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.ones(2, 2)
    for rows in ([0, 1], [1, 0]):
        found = first_paths(Sparing(dd.Euclidean(2)).starts, a[rows], b, 4)
        assert list(found) == ["chord", "bent"]
        left, right = rows.index(0), rows.index(1)
        assert torch.equal(found["bent"][left], found["chord"][left])
        assert torch.equal(found["bent"][right], found["chord"][right].square())
