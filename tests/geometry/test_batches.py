"""A pair is solved as alone, whatever its company in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.geometry import search
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
