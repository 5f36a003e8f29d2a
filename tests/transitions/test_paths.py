"""Transition paths: their statistics, their costs, their memory, and what is refused."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffodesic import Spacetime, geodesic
from diffodesic.experiments import landscapes
from diffodesic.experiments.alanine import free as alanine_paths
from diffodesic.experiments.experiment import Context
from diffodesic.numerics.cost import counting
from diffodesic.transitions.annealing import PathOptions, constant_noise, straight_line
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.minimum_energy import lowest_pass
from diffodesic.transitions.paths import TransitionPaths, transition_paths
from diffodesic.transitions.potentials import (
    DoubleWell,
    Ring,
)
from diffodesic.transitions.saddles import channels
from diffodesic.transitions.surfaces import alanine
from support.checks import Draw, same

A, B = (torch.tensor([x, 0.0], dtype=torch.float64) for x in (-1.0, 1.0))
LINE = straight_line(A, B, 5 * torch.linspace(-1, 1, 17, dtype=torch.float64) ** 2)


def well_paths(**options) -> TransitionPaths:
    store, progress = options.pop("store", None), options.pop("progress", None)
    chosen = PathOptions(**{"paths": 40, "langevin_steps": 8, "step": 2e-3, "seed": 3} | options)
    return transition_paths(DoubleWell(), LINE, chosen, store=store, progress=progress)


def test_every_state_counts_and_is_counted():
    highest = torch.full((40,), -math.inf, dtype=torch.float64)

    class Watched(DoubleWell):
        def _gradient(self, x):
            energy, slope = super()._gradient(x)
            if len(x) == 40:  # not the two states
                highest.copy_(torch.maximum(highest, energy))
            return energy, slope

    with counting() as spent:
        found = transition_paths(
            Watched(), LINE, PathOptions(40, langevin_steps=8, step=2e-3, correct=False)
        )
    same(found.max_energy, highest)
    same(DoubleWell()(found.peak), found.max_energy)
    assert found.evaluations == 40 * (1 + 8 * 17)
    # the check of the two states and the step size are no part of the paths
    assert spent.energies >= found.evaluations
    assert found.frames.shape == (40, 17, 2)
    same(found.energies, DoubleWell()(found.frames))
    assert bool((found.max_energy >= found.energies.amax(-1)).all())


def test_frames_may_be_fewer_and_keep_the_ends():
    every, few = well_paths(), well_paths(frames=5)
    assert few.kept.tolist() == [0, 4, 8, 12, 16]
    assert torch.equal(few.frames, every.frames[:, ::4])
    assert torch.equal(few.max_energy, every.max_energy)


def test_statistics_of_known_numbers():
    found = well_paths()
    mean, spread = found.profile()
    same(mean, found.energies.mean(0))
    same(spread, found.energies.std(0, correction=0))
    same(found.standard_error, float(found.max_energy.std() / math.sqrt(40)))
    low, high = found.interval(0.95)
    same(high - low, 2 * 1.959963984540054 * found.standard_error)
    with pytest.raises(ValueError, match="at least 30 paths"):
        well_paths(paths=29).interval()
    with pytest.raises(ValueError, match="between 0 and 1"):
        found.interval(1.0)


def test_seeds_repeat_and_blocks_differ():
    first, again, other = well_paths(), well_paths(), well_paths(seed=4)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, other.frames)
    blocks = well_paths(block=20)
    assert not torch.equal(blocks.frames[:20], blocks.frames[20:])


def test_stored_blocks_resume_and_refuse_other_settings(tmp_path):
    whole = well_paths(block=10)
    part = well_paths(block=10, paths=20, store=tmp_path)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("block-*")}
    with counting() as spent:
        rest = well_paths(block=10, store=tmp_path)
    for name, stamp in kept.items():
        assert (tmp_path / name).stat().st_mtime_ns == stamp
    # two blocks of ten were drawn, two were read; the check of the states is a few thousand
    assert spent.energies < whole.evaluations / 2 + 10_000
    assert torch.equal(part.frames, whole.frames[:20])
    assert torch.equal(rest.frames, whole.frames)
    assert torch.equal(rest.max_energy, whole.max_energy)
    same(rest.accepted, whole.accepted)
    with pytest.raises(ValueError, match=r"other settings \(seed was 3 and is 4 now\)"):
        well_paths(block=10, store=tmp_path, seed=4)


def test_a_store_serves_any_number_of_paths(tmp_path):
    for paths in (40, 55, 12):
        found = well_paths(paths=paths, block=10, store=tmp_path)
        assert len(found) == paths
        assert torch.equal(found.frames, well_paths(paths=paths, block=10).frames)
        assert found.evaluations == well_paths(paths=paths, block=10).evaluations


def test_a_store_knows_a_potential_by_what_it_is(tmp_path):
    shallow, deep = DoubleWell(barrier=5.0), DoubleWell(barrier=8.0)
    few = PathOptions(4, langevin_steps=2, step=1e-3)
    for potential in (shallow, deep, shallow):
        folder = tmp_path / str(potential.barrier)
        transition_paths(potential, LINE, few, store=folder)
    with pytest.raises(ValueError, match="other settings"):
        transition_paths(deep, LINE, few, store=folder)


def test_a_trace_is_the_whole_of_one_path():
    found = well_paths(block=15, langevin_steps=5)
    for index in (0, 14, 15, 39):  # the last block is a short one
        states = found.trace(index)
        assert states.shape == (1 + 5 * len(found.nodes), found.potential.dim)
        assert torch.equal(states[5::5], found.frames[index])
        assert float(found.potential(states).max()) == float(found.max_energy[index])
    with pytest.raises(ValueError, match="no path 40"):
        found.trace(40)


@pytest.mark.parametrize("left", [0, 100])
def test_frames_that_were_lost_are_drawn_again(left, tmp_path):
    whole = well_paths(block=10, store=tmp_path).frames.clone()
    (tmp_path / "frames.bin").write_bytes((tmp_path / "frames.bin").read_bytes()[:left])
    with pytest.warns(RuntimeWarning, match="its frames are not those that were drawn"):
        assert torch.equal(well_paths(block=10, store=tmp_path).frames, whole)


def test_one_flipped_bit_of_a_stored_frame_is_found(tmp_path):
    whole = well_paths(block=10, store=tmp_path).frames.clone()
    content = bytearray((tmp_path / "frames.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "frames.bin").write_bytes(content)
    with pytest.warns(RuntimeWarning, match="block-00002") as seen:
        assert torch.equal(well_paths(block=10, store=tmp_path).frames, whole)
    assert len(seen) == 1  # the other blocks are believed


def test_stored_frames_are_mapped_and_not_read(tmp_path):
    found = well_paths(block=10, store=tmp_path)
    assert (tmp_path / "frames.bin").stat().st_size == 8 * found.frames.numel()
    assert not list(tmp_path.glob(".*"))
    # a view of the file: what is written there is seen
    frames = found.frames.clone()
    (tmp_path / "frames.bin").write_bytes(bytes(8 * found.frames.numel()))
    assert torch.equal(found.frames, torch.zeros_like(frames))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames": 1}, "at least 2"), ({"frames": 0}, "at least 2"), ({"step": 0.0}, "above 0")],
)
def test_frames_and_steps_that_say_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        well_paths(**options)


def test_an_interrupted_run_keeps_its_finished_blocks(tmp_path):
    def stop(text: str) -> None:
        if text.startswith("paths 21"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        well_paths(block=10, store=tmp_path, progress=stop)
    assert len(list(tmp_path.glob("block-*"))) == 2
    assert torch.equal(well_paths(block=10, store=tmp_path).frames, well_paths(block=10).frames)


def test_paths_arrive_and_cross_the_pass():
    found = well_paths(langevin_steps=32)
    assert float(found.hits().double().mean()) == 1
    assert float(found.hits(A, radius=0.3).double().mean()) == 0
    # no path from side to side stays below the saddle
    assert float(found.max_energy.min()) > 9.9
    (only,) = channels(found)
    torch.testing.assert_close(only.saddle, torch.zeros(2).double(), rtol=0, atol=1e-6)
    assert only.share == 1.0
    # the peaks are above the saddle, by no more than the spread of heights, and beside it
    assert 0 < only.above < 3
    assert only.away < 0.3
    assert abs(only.energy - 10) < 1e-6


def test_a_geodesic_feeds_the_sampler():
    potential = DoubleWell()
    space = Spacetime(GridDenoiser(potential, points=64))
    path = geodesic(space, space.point(A, 4.0), space.point(B, 4.0), nodes=24)
    found = transition_paths(potential, path, PathOptions(30, langevin_steps=16))
    assert torch.equal(found.nodes, path.nodes)
    assert found.settings["kT"] == 1.0
    with pytest.raises(ValueError, match="belongs to kT = 1"):
        transition_paths(potential.at(2.0), path)


def test_lines():
    noise = torch.tensor([4.0, 1.0, 4.0], dtype=torch.float64)
    expected = torch.tensor([[-1, 0, 4], [0, 0, 1], [1, 0, 4]], dtype=torch.float64)
    same(straight_line(A, B, noise), expected)
    flat = constant_noise(A, B, 2.0, nodes=4)
    assert flat.shape == (5, 3)
    assert set(flat[:, -1].tolist()) == {2.0}


def test_states_on_a_slope_are_named():
    path = constant_noise(A / 2, B, 4.0, nodes=4)
    with pytest.warns(
        RuntimeWarning, match=r"first state is no minimum.*5\.625.*is \(-1, 0\) with U = 0"
    ):
        transition_paths(DoubleWell(), path, PathOptions(2, langevin_steps=1, step=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transition_paths(
            DoubleWell(), constant_noise(A, B, 4.0, nodes=4), PathOptions(2, langevin_steps=1)
        )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"paths": 0}, "must be at least 1"),
        ({"langevin_steps": 0}, "must be at least 1"),
        ({"step": 10.0, "correct": False}, "explode"),
        ({"step": -1.0}, "step must be above 0"),
    ],
)
def test_wrong_settings_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        well_paths(**options)


def test_a_typo_names_the_function_and_the_nearest_option():
    message = (
        r"transition_paths\(\) has no option 'pahts'; "
        r"did you mean options=diffodesic.transitions.PathOptions\(paths"
    )
    with pytest.raises(TypeError, match=message):
        transition_paths(DoubleWell(), LINE, pahts=3)  # type: ignore[call-arg]


def test_wrong_paths_are_named():
    with pytest.raises(ValueError, match=r"needs one path \(n\+1, 3\)"):
        transition_paths(DoubleWell(), LINE[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        transition_paths(DoubleWell(), LINE * math.nan)


class Torn(DoubleWell):
    """A double well without an energy (NaN), or with a wall, left of x = -.99."""

    def __init__(self, beyond: float, edge: float = -0.99) -> None:
        super().__init__()
        self.beyond, self.edge = beyond, edge

    def energy(self, x):
        return torch.where(x[..., 0] < self.edge, self.beyond, super().energy(x))


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_state_without_an_energy_is_refused(beyond: float):
    # the paths used to stay there, with MaxEnergy -inf and no word
    with pytest.raises(ValueError, match=rf"at the first state \(-1, 0\) .* has U = {beyond}"):
        transition_paths(Torn(beyond), LINE, PathOptions(5, langevin_steps=8, step=1e-2))


def test_a_path_over_points_without_an_energy_has_no_highest():
    # uncorrected steps cross the edge, beside the states that were checked
    torn, options = Torn(math.nan, -1.05), PathOptions(20, langevin_steps=8, step=2e-3)
    loose = transition_paths(torn, LINE, replace(options, correct=False))
    assert bool(loose.max_energy.isnan().all())
    assert bool(transition_paths(torn, LINE, options).max_energy.isfinite().all())


def test_few_paths_that_do_not_move_are_refused():
    with pytest.raises(ValueError, match="do not follow their nodes; give a smaller step"):
        well_paths(paths=5, step=50.0)


def test_images_of_one_state_give_the_same_paths():
    potential = alanine()
    states = torch.tensor([[-1.1442, 2.5375], [0.8054, 1.0419]], dtype=torch.float64)
    turn = torch.tensor([2 * math.pi, -4 * math.pi], dtype=torch.float64)
    drawn = [
        transition_paths(
            potential,
            constant_noise(states[0] + shift, states[1] + shift, 3.0, nodes=8),
            PathOptions(5, langevin_steps=4, step=1e-3),
        )
        for shift in (torch.zeros(2).double(), turn)
    ]
    # the same noise on the same surface; a shift of 4 pi costs a few digits per step
    torch.testing.assert_close(drawn[0].frames + turn, drawn[1].frames, rtol=0, atol=1e-8)
    torch.testing.assert_close(drawn[0].max_energy, drawn[1].max_energy, rtol=0, atol=1e-6)


def test_ring_keeps_walkers_in_its_valley():
    found = transition_paths(
        Ring(),
        constant_noise(A, B, 0.0, nodes=8),
        PathOptions(30, langevin_steps=16, step=1e-3),
    )
    # held at sigma = 1 near the origin the posterior is the ring: its valley, not its crest
    radius = found.frames.norm(dim=-1)
    assert 0.9 < float(radius.mean()) < 1.1


def test_paths_of_two_ways_are_compared_pair_by_pair(draw: Draw):
    """A gap of 1/10 of the spread over 30 paths is seen where both ways share their noise."""
    ours = transition_paths(
        DoubleWell(),
        constant_noise(A, B, 2.0, nodes=4),
        PathOptions(30, langevin_steps=1, step=1e-3),
    )
    arrived = torch.zeros_like(ours.frames) + B
    ours = replace(ours, max_energy=draw(30), frames=arrived)
    lowest = lowest_pass(DoubleWell(), A, B, nodes=17)
    wobble = draw(30)
    wobble = (wobble - wobble.mean()) / wobble.std()

    def judged(change: torch.Tensor) -> landscapes.Result:
        line = replace(ours, max_energy=ours.max_energy + change)
        sampled = {"geodesic": ours, "line + profile": line}
        return landscapes.Result(DoubleWell(), lowest, 2.0, sampled)

    lower = judged(0.1 + 0.02 * wobble)
    assert lower.gap.measured == pytest.approx(0.1)
    assert lower.gap.error == pytest.approx(0.02 / math.sqrt(30))
    assert lower.verdict.startswith("shape matters, the geodesic's paths cross lower")
    assert judged(-0.1 + 0.02 * wobble).verdict.startswith("shape matters against")
    unseen = judged(0.1 + wobble)
    half = 1.96 / math.sqrt(30)
    assert unseen.verdict.startswith("no difference seen")
    assert f"[{0.1 - half:.3g}, {0.1 + half:.3g}]" in unseen.verdict


@pytest.mark.slow
def test_the_landscapes_run_small(monkeypatch):
    monkeypatch.setattr(landscapes, "PROBLEMS", landscapes.PROBLEMS[2:4])
    outcome = landscapes.run(Context(Path(), quick=True))
    names = [number.quantity for number in outcome.numbers]
    assert len(names) == 8 * len(landscapes.PROBLEMS)
    assert len(outcome.notes) == len(landscapes.PROBLEMS)
    # 16 steps per node are too few to arrive on the dual channel, and the table says so
    assert "nothing is said" in outcome.notes[0]
    assert "shape" in outcome.notes[1]


@pytest.mark.slow
def test_the_papers_surface_runs_small(data_folder, tmp_path):
    outcome = alanine_paths.run(Context(tmp_path, quick=True, data=data_folder))
    found = {number.quantity: number.measured for number in outcome.numbers}
    assert abs(found["lowest pass: MaxEnergy"] - 36.34) < 0.02
    # no path stays below the pass, to the spacing of its grid
    for name, value in found.items():
        if name.endswith("MaxEnergy") and value == value:
            assert value > 36.3
    with pytest.raises(ValueError, match="--data DIR"):
        alanine_paths.run(Context(tmp_path, quick=True))
