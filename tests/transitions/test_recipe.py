"""The whole recipe on surfaces small enough for a test."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, Potential
from diffodesic.transitions.recipe import PathwayOptions, Pathways, pathways


def point(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def torus() -> Potential:
    """Minima at phi = -2 and 2: the pass over phi = 0 is 10 kT, that over the seam about 6 kT."""

    def energy(x: Tensor) -> Tensor:
        phi, psi = x.unbind(-1)
        along = 10 * ((torch.cos(phi) - math.cos(2)) / (1 - math.cos(2))) ** 2
        return along + 60 * torch.sin(phi / 2) ** 60 * 0.1 + 5 * (1 - torch.cos(psi))

    side = (-math.pi, math.pi)
    period = (2 * math.pi,) * 2
    return from_callable(energy, dim=2, kT=1, box=(side, side), unit="kT", period=period)


@pytest.fixture(scope="module")
def found() -> Pathways:
    options = PathwayOptions(paths=31, nodes=16, langevin_steps=64, descend=True)
    return pathways(torus(), point(-1.7, 0), point(2, 0), options)


def test_paths_go_the_way_of_the_lowest_pass(found: Pathways):
    # over the seam: the second state is the image below -pi
    assert float(found.states[1, 0]) < -math.pi
    torch.testing.assert_close(found.geodesic.nodes[[0, -1], :-1], found.states)
    assert float(found.mean[:, 0].max()) < -1
    assert found.lowest.energy < 8


def test_the_mean_starts_and_ends_in_the_states(found: Pathways):
    # the posterior at the basins' own stiffness lies within a standard deviation of the basin
    width = torch.exp(-found.geodesic.nodes[0, -1] / 2)
    assert float((found.mean[[0, -1]] - found.states).norm(dim=-1).max()) < float(width)


def test_the_typical_path_is_the_median_of_those_that_arrive(found: Pathways):
    height = found.paths.max_energy[found.hits]
    assert len(height) > 15
    below = int((height < found.paths.max_energy[found.typical]).sum())
    assert below == (len(height) - 1) // 2
    assert bool(found.hits[found.typical])


def test_every_part_is_timed_and_what_changed_is_said(found: Pathways):
    assert set(found.seconds) == {"pass", "geodesic", "paths", "statistics"}
    # the second state was at its minimum already
    (notice,) = found.notices
    assert notice.startswith("the first state was (-1.7, 0)")
    assert "is used instead" in notice


def test_too_few_paths_and_too_many_coordinates():
    with pytest.raises(ValueError, match="at least 30"):
        PathwayOptions(paths=29)
    ends = torch.zeros(2, 4, dtype=torch.float64)
    ends[:, 0] = point(-1, 1)
    with pytest.raises(ValueError, match=r"at most 3|up to 3"):
        pathways(DoubleWell(4), *ends)
