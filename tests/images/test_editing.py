"""Diffusion Edit Distance: closed forms, the laws of a distance, the law of its scale, the edit."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.boundary_value import geodesic
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.edit_picture import draw_edit, save_edit
from diffodesic.images.edit_result import distances_of
from diffodesic.images.editing import EditOptions, edit, edit_distance
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.potentials import DoubleWell
from support.checks import Draw, status_is_looked_at
from support.tiny import exact_model, pictures


def gaussian(dim: int, std: float = 1.0) -> GaussianMixture:
    return GaussianMixture(torch.zeros(1, dim, dtype=torch.float64), std=std)


@pytest.mark.parametrize("log_snr", [1.0, 3.0])
def test_gaussian_data_have_hyperbolic_distances(draw: Draw, log_snr: float):
    law, space = gaussian(3, 1.2), Hyperbolic(3, 1.44)
    x, y = 0.5 * draw(2, 6, 3)
    ends = space.point(x, log_snr), space.point(y, log_snr)
    assert not bool(space.escapes(*ends).any())
    # 64 segments of order 2, along splines of order 4
    found = edit_distance(law, x, y, log_snr=log_snr)
    torch.testing.assert_close(found, space.distance(*ends), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dim", [1, 3, 10])
def test_slope_in_the_anchor_is_the_dimension(dim: int):
    # data that fill dim of 12 coordinates; there they are so wide that no end of a path sees it
    std = torch.full((1, 12), 1e-6, dtype=torch.float64)
    std[:, :dim] = 30.0
    law = GaussianMixture(torch.zeros(1, 12, dtype=torch.float64), std=std)
    x = torch.zeros(12, dtype=torch.float64)
    y = x.clone()
    y[:dim] = 1.0
    levels = (6.0, 8.0)
    low, high = (float(edit_distance(law, x, y, log_snr=level)) for level in levels)
    slope = (high - low) / (levels[1] - levels[0])
    assert slope == pytest.approx(math.sqrt(2 * dim), rel=0.01)
    gap = float((x - y).norm())
    law_itself = math.sqrt(2 * dim) * (levels[1] + 2 * math.log(gap / math.sqrt(2 * dim)))
    assert high == pytest.approx(law_itself, rel=0.01)


def test_two_points_of_data_stay_finite():
    # the whole spacetime of two points is an arc of length pi
    law = GaussianMixture(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), std=0.0)
    x, y = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for level in (0.0, 1.0, 4.0):
        p = torch.sigmoid(torch.tensor(2 * math.exp(level), dtype=torch.float64))
        exact = 2 * float(torch.asin(p.sqrt()) - torch.asin((1 - p).sqrt()))
        assert exact <= math.pi
        # the metric lives on a short part of the path, which gets its share of the 64 segments
        assert float(edit_distance(law, x, y, log_snr=level)) == pytest.approx(exact, rel=1e-3)


def test_a_distance_is_symmetric_and_zero_only_at_home(draw: Draw):
    law = GaussianMixture(draw(4, 2), std=0.3)
    x, y = draw(2, 5, 2)
    forth, back = (edit_distance(law, *pair, nodes=24) for pair in ((x, y), (y, x)))
    # the two solves meet different nodes: within the error of 24 segments
    torch.testing.assert_close(forth, back, rtol=1e-3, atol=0)
    assert bool((forth > 0).all())
    assert not bool(edit_distance(law, x, x).any())


@pytest.mark.slow
@status_is_looked_at
def test_triangle_inequality_on_a_thousand_triples(draw: Draw):
    # eight mixtures in one to four dimensions, 125 triples each
    worst, ended = -math.inf, set()
    for i in range(8):
        dim = 1 + i % 4
        law = GaussianMixture(1.5 * draw(5, dim), std=0.35)
        space = Spacetime(law)
        x = law.sample(3 * 125, generator=torch.Generator().manual_seed(i)).reshape(3, 125, dim)
        a, b, c = space.point(x, 2.0)
        paths = [
            geodesic(space, *pair, nodes=24, solver=Relax(rtol=1e-4))
            for pair in ((a, b), (b, c), (a, c))
        ]
        ab, bc, ac = (distances_of(path) for path in paths)
        worst = max(worst, float((ac / (ab + bc)).max()))
        ended |= {status for path in paths for status in path.statuses}
    # a space cut at its lowest log SNR is a space of paths all the same
    assert ended <= {Status.CONVERGED, Status.LEFT_DOMAIN}
    # each length is that of a path, above its distance by the error of 24 segments at most
    assert worst < 1.02


@pytest.fixture(scope="module")
def law() -> GaussianMixture:
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
    return GaussianMixture(centres, std=0.3)


def test_an_edit_adds_noise_and_then_removes_it(law: GaussianMixture):
    found = edit(law, law.means[0], law.means[1], log_snr=3.0, nodes=32)
    first, last = found.phases()
    assert (first.kind, last.kind) == ("noise", "denoise")
    # the law is the same on both sides
    assert first.share == pytest.approx(0.5, abs=0.02)
    assert first.share + last.share == pytest.approx(1)
    assert (first.log_snr[0], last.log_snr[1]) == (3.0, 3.0)
    s, level = found.apex
    assert s == pytest.approx(0.5, abs=1 / 32)
    assert level == first.log_snr[1] < 0
    frames = found.frames(3)
    torch.testing.assert_close(frames[[0, 2]], law.means[:2], rtol=0, atol=1e-2)


def test_steps_account_for_the_whole_edit(law: GaussianMixture):
    found = edit(law, law.means[0], law.means[2], log_snr=2.0, nodes=32)
    steps = found.steps()
    assert len(steps) == 32
    assert sum(step.share for step in steps) == pytest.approx(1)
    total = float(found.geodesic.certificate.discrete_length)
    assert sum(step.length for step in steps) == pytest.approx(total)
    for step in steps:
        assert step.jeffreys == pytest.approx(step.length**2)
        # KL both ways sums to it; short steps cost half each way
        assert step.kl is not None
        assert sum(step.kl) == pytest.approx(step.jeffreys, rel=1e-6)
        assert min(step.kl) > 0


def test_a_law_on_a_grid_knows_the_relative_entropies_too():
    well = DoubleWell()
    found = edit(GridDenoiser(well), *torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double(), nodes=16)
    for step in found.steps():
        assert step.kl is not None
        assert sum(step.kl) == pytest.approx(step.jeffreys, rel=1e-6)
        assert min(step.kl) > 0


def test_an_edit_notes_a_path_that_did_not_end_well(law: GaussianMixture):
    assert edit(law, *law.means[:2], nodes=12).notices == ()
    hurried = edit(law, *law.means[:2], options=EditOptions(solver=Relax(iterations=1)))
    assert hurried.notices == (
        f"the geodesic ended with {Status.ITERATION_LIMIT.name}: {Status.ITERATION_LIMIT.value}",
    )
    assert hurried.as_dict()["notices"] == list(hurried.notices)


def test_nothing_to_edit(law: GaussianMixture, tmp_path):
    found = edit(law, law.means[0], law.means[0])
    assert (found.distance, found.steps(), found.phases()) == (0.0, (), ())
    assert found.geodesic.status is Status.SAME_POINT
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_edit(found, tmp_path / "never.png")
    (tmp_path / "edit.png").write_bytes(b"the picture of an earlier edit")
    save_edit(found, tmp_path)
    # an earlier file that no run of ours wrote is the user's
    assert {file.name for file in tmp_path.iterdir()} == {"edit.json", "edit.png", "run.json"}


def test_an_edit_is_written_and_drawn(law: GaussianMixture, tmp_path):
    found = edit(law, law.means[0], law.means[1], nodes=12)
    content = json.loads((save_edit(found, tmp_path) / "edit.json").read_text())
    assert content == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert content["distance"] == found.distance
    assert content["log_snr"] == 2.0
    assert len(content["steps"]) == 12
    assert (tmp_path / "edit.png").stat().st_size > 5000


def test_images_are_lifted_by_the_model():
    data = pictures(3).flatten(1) * 2 - 1
    model = exact_model(GaussianMixture(data, std=0.2), (1, 8, 8))
    fast = EditOptions(nodes=6, solver=Relax(iterations=4), flow_steps=6)
    images = pictures(2)
    with warnings.catch_warnings():
        # four iterations are no solve
        warnings.simplefilter("ignore", RuntimeWarning)
        found = edit(model, images[0], images[1], options=fast)
        alone = edit_distance(model, images[0], images[1], options=fast)
    assert found.distance == float(alone) > 0
    assert found.frames(3, flow_steps=6).shape == (3, 1, 8, 8)
    assert found.settings["estimator"] == "secant"


def test_a_solve_that_fails_is_a_warning(law: GaussianMixture):
    with pytest.warns(RuntimeWarning, match="iteration limit"):
        edit_distance(law, *law.means[:2], options=EditOptions(solver=Relax(iterations=1)))


def test_bad_input_is_refused(law: GaussianMixture):
    x, y = law.means[:2]
    with pytest.raises(ValueError, match="last axis must be 2"):
        edit_distance(law, x[:1], y[:1])
    with pytest.raises(ValueError, match="log_snr must be finite"):
        edit_distance(law, x, y, log_snr=math.inf)
    with pytest.raises(ValueError, match="one point"):
        edit(law, law.means, law.means)
    with pytest.raises(ValueError, match="frames must be at least 2"):
        edit(law, x, y, nodes=4, options=EditOptions(solver=Relax(iterations=1))).frames(1)
    model = exact_model(law_of_pictures(), (1, 8, 8))
    with pytest.raises(ValueError, match="outside the noise levels"):
        edit_distance(model, *pictures(2), log_snr=40.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        edit_distance(model, *(3 * pictures(2)))


def law_of_pictures() -> GaussianMixture:
    data: Tensor = pictures(3).flatten(1) * 2 - 1
    return GaussianMixture(data, std=0.2)
