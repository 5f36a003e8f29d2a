"""All distances of a set: a symmetric matrix, whole or resumed, the same however it is cut."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.geometry.status import Status
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.editing import edit_distance
from diffodesic.images.pairs import NODES, PairwiseOptions
from support.tiny import exact_model

FAST = PairwiseOptions(nodes=24, solver=Relax(rtol=1e-3))


@pytest.fixture(scope="module")
def law() -> GaussianMixture:
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    return GaussianMixture(centres, std=0.3)


@pytest.fixture(scope="module")
def points(law: GaussianMixture) -> Tensor:
    return law.sample(7, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def found(law: GaussianMixture, points: Tensor) -> PairwiseDistances:
    return pairwise(law, points, options=FAST)


def test_the_matrix_is_symmetric_with_a_zero_diagonal(found: PairwiseDistances):
    matrix = found.matrix
    assert matrix.shape == (7, 7)
    assert torch.equal(matrix, matrix.T)
    assert not bool(matrix.diagonal().any())
    assert bool((found.lengths > 0).all())
    assert found.complete
    assert found.log_snr == 2.0
    assert found.tally() == {Status.CONVERGED: 21}
    assert found.unsound == 0


def test_every_entry_is_the_distance_of_its_pair(law, points, found):
    i, j = torch.triu_indices(7, 7, 1)
    alone = edit_distance(law, points[i], points[j], options=FAST)
    torch.testing.assert_close(found.lengths, alone, rtol=1e-8, atol=0)


def test_batches_do_not_matter(law, points, found):
    cut = pairwise(law, points, options=FAST.but(batch=4))
    torch.testing.assert_close(cut.lengths, found.lengths, rtol=1e-8, atol=0)
    torch.testing.assert_close(cut.apexes, found.apexes, rtol=1e-6, atol=1e-6)


def test_an_interrupted_run_goes_on(law, points, found, tmp_path):
    file, said = tmp_path / "distances.npz", []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairwise(law, points, file=file, options=FAST.but(batch=5), progress=stop)
    half = PairwiseDistances.load(file)
    assert (half.solved, half.complete) == (10, False)
    with pytest.raises(ValueError, match="10 of 21 are solved"):
        half.neighbours(1)
    whole = pairwise(law, points, file=file, options=FAST.but(batch=5), progress=said.append)
    assert said[:3] == [f"{solved} of 21 pairs" for solved in (0, 5, 10)]
    assert said[3] == "note: goes on from an earlier run, which has solved 10 of 21 pairs"
    assert said[4:6] == ["10 of 21 pairs", "15 of 21 pairs"]
    torch.testing.assert_close(whole.lengths, found.lengths, rtol=1e-8, atol=0)
    assert whole.seconds > half.seconds
    # nothing is left to do: the file is the result
    said.clear()
    again = pairwise(law, points, file=file, progress=said.append, options=FAST)
    assert said == ["note: goes on from an earlier run, which has solved 21 of 21 pairs"]
    assert torch.equal(again.lengths, whole.lengths)


def test_a_file_of_other_data_or_settings_is_refused(law, points, tmp_path):
    file = tmp_path / "distances.npz"
    pairwise(law, points[:3], file=file, options=FAST)
    with pytest.raises(ValueError, match=r"points was .* and is .* now"):
        pairwise(law, points[1:4], file=file, options=FAST)
    with pytest.raises(ValueError, match="nodes"):
        pairwise(law, points[:3], file=file, nodes=6, options=FAST)
    with pytest.raises(ValueError, match=r"\(log_snr was 2.0 and is 1.0 now, "):
        pairwise(law, points[:3], file=file, log_snr=1.0, options=FAST)
    damaged = bytearray(file.read_bytes())
    damaged[200] ^= 1  # one bit of the matrix
    for content in (b"nothing of the kind", damaged, damaged[:300]):
        (tmp_path / "noise.npz").write_bytes(content)
        with pytest.raises(ValueError, match="no file of distances"):
            PairwiseDistances.load(tmp_path / "noise.npz")


def test_another_denoiser_is_refused(law, points, tmp_path):
    """Its points are the same numbers: only the denoiser's own answers tell."""
    file = tmp_path / "distances.npz"
    pairwise(law, points[:3], file=file, options=FAST)
    other = GaussianMixture(law.means * 1.01, std=0.5)
    with pytest.raises(ValueError, match=r"\(model.answers was .* and is .* now\); remove it to"):
        pairwise(other, points[:3], file=file, options=FAST)


@pytest.mark.parametrize("damage", ["flip", "half", "empty", "text"])
def test_a_damaged_file_is_put_aside_and_its_pairs_are_solved_again(law, points, tmp_path, damage):
    file = tmp_path / "distances.npz"
    first = pairwise(law, points[:3], file=file, options=FAST)
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    broken = {"flip": content, "half": content[:400], "empty": b"", "text": b"no archive"}[damage]
    file.write_bytes(broken)
    with pytest.warns(RuntimeWarning, match=r"kept as .*npz\.damaged, and all pairs are solved ag"):
        again = pairwise(law, points[:3], file=file, options=FAST)
    assert torch.equal(first.lengths, again.lengths)
    assert (tmp_path / "distances.npz.damaged").read_bytes() == broken
    assert torch.equal(PairwiseDistances.load(file).lengths, first.lengths)


def test_an_archive_of_something_else_is_refused_and_left_alone(law, points, tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.arange(3))
    before = (tmp_path / "mine.npz").read_bytes()
    with pytest.raises(ValueError, match="no file of distances"):
        pairwise(law, points[:3], file=tmp_path / "mine.npz", options=FAST)
    assert (tmp_path / "mine.npz").read_bytes() == before


def test_what_is_saved_can_be_read(found: PairwiseDistances, tmp_path: Path):
    with np.load(found.save(tmp_path / "a.npz"), allow_pickle=False) as file:
        assert np.array_equal(file["matrix"], found.matrix.numpy())
    content = json.loads(found.save(tmp_path / "a.json").read_text())
    assert content["log_snr"] == 2.0
    assert content["lengths"] == found.lengths.tolist()
    assert content["pairs"][0] == [0, 1]
    assert set(content["statuses"]) == {"CONVERGED"}
    with pytest.raises(ValueError, match=r"neither .npz nor .json"):
        found.save(tmp_path / "a.txt")


def test_scikit_learn_takes_it_as_precomputed(found: PairwiseDistances):
    labels = np.arange(7)
    model = KNeighborsClassifier(1, metric="precomputed").fit(found.matrix.numpy(), labels)
    assert (model.predict(found.matrix.numpy()) == labels).all()
    nearest = model.kneighbors(found.matrix.numpy(), 3, return_distance=False)[:, 1:]
    assert np.array_equal(nearest, found.neighbours(2).numpy())


def test_the_accuracy_is_measured_and_kept(law, points, tmp_path):
    file = tmp_path / "distances.npz"
    checked = pairwise(law, points[:4], check=3, file=file, options=FAST)
    assert checked.accuracy is not None
    mean, largest = checked.accuracy
    # lengths of an exact denoiser are bounds from above: finer paths are shorter
    assert 0 < mean <= largest < 0.1
    assert PairwiseDistances.load(file).accuracy == checked.accuracy


def test_a_file_takes_the_accuracy_of_more_pairs_and_keeps_it_for_fewer(law, points, tmp_path):
    file = tmp_path / "distances.npz"
    pairwise(law, points[:4], check=1, file=file, options=FAST)
    fresh = pairwise(law, points[:4], check=6, options=FAST).accuracy
    for asked in (6, 2, 0, 100):  # of six pairs in all
        found = pairwise(law, points[:4], check=asked, file=file, options=FAST)
        assert found.accuracy == fresh
        assert found.checked == PairwiseDistances.load(file).checked == 6


@pytest.mark.parametrize(
    ("solver", "closer"),
    [
        (
            Redraw(nodes=3, starts=1, rounds=2, draws=1, judgements=2),
            Redraw(nodes=6, starts=1, rounds=2, draws=1, judgements=2, rtol=1e-3),
        ),
        (
            Relax(splines=(2, 2, 3), iterations=3, polish=False, rtol=1e-2),
            Relax(splines=(4, 2, 3), iterations=3, polish=False, rtol=1e-3),
        ),
    ],
)
def test_the_check_of_a_network_searches_on_twice_the_nodes(law, points, solver, closer):
    law, options = exact_model(law, (1, 1, 2)).denoiser, PairwiseOptions(nodes=4, solver=solver)
    found = pairwise(law, points[:2], check=1, options=options)
    finer = pairwise(law, points[:2], options=options.but(nodes=8, solver=closer))
    lost = float(1 - finer.lengths / found.lengths)
    assert lost != 0
    assert found.accuracy == pytest.approx((lost, abs(lost)), rel=1e-6)


def test_time_grows_with_the_pairs(found: PairwiseDistances):
    assert found.seconds_for(7) == pytest.approx(found.seconds)
    assert found.seconds_for(10_000) == pytest.approx(found.seconds / 21 * 49_995_000)


def test_bad_input_is_refused(law, points):
    kinds: list[Any] = [-1, 2.5, "two", None]
    for bad in kinds:
        with pytest.raises(ValueError, match=f"^check must be at least 0, got {bad!r}"):
            pairwise(law, points, check=bad, progress=pytest.fail)  # before anything is solved
    with pytest.raises(ValueError, match="batch must be at least 1"):
        PairwiseOptions(batch=0)
    with pytest.raises(ValueError, match="at least 2 points"):
        pairwise(law, points[:1])
    with pytest.raises(ValueError, match=r"ending .npz"):
        pairwise(law, points, file="distances.json")


def test_equal_points_are_at_distance_zero(law, points):
    twice = torch.cat([points[:2], points[:1]])
    found = pairwise(law, twice, options=FAST)
    assert float(found.matrix[0, 2]) == 0
    assert found.tally()[Status.SAME_POINT] == 1


@pytest.mark.slow
def test_handwritten_digits_obey_the_triangle_and_know_their_class():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = torch.tensor(images / 8 - 1, dtype=torch.float64)
    law = GaussianMixture.from_data(data, bandwidth=0.15)
    found = pairwise(law, data[:12], check=4)
    mean, largest = found.accuracy or (math.nan, math.nan)
    assert 0 < mean <= largest < 0.03
    matrix = found.matrix
    detour = (matrix[:, :, None] + matrix[None, :, :]).amin(1)
    # a detour by another digit saves at most what coarse paths waste
    assert bool((matrix <= detour * 1.03).all())
    assert found.settings["nodes"] == NODES
    # digits 0 and 10 are zeros, 1 and 11 are ones
    assert labels[10] == 0
    assert labels[11] == 1
    assert matrix[0, 10] < matrix[0, 1:10].min()


def test_triangles_are_every_side_against_the_detour_by_every_third_point(found, tmp_path):
    excess, error = found.triangles()
    assert len(excess) == 7 * 6 * 5 // 2
    assert float(excess.max()) < 1e-3  # a metric, up to the accuracy of the paths
    assert bool(error.isnan().all())  # exact lengths have no standard error
    lengths = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)  # of 01, 02 and 12
    errors = torch.tensor([0.0, 0.3, 0.4], dtype=torch.float64)
    estimated = replace(found, count=3, lengths=lengths, errors=errors, apexes=lengths)
    estimated = replace(estimated, statuses=found.statuses[:3])
    excess, error = PairwiseDistances.load(estimated.save(tmp_path / "d.npz")).triangles()
    assert excess.tolist() == [1 - 5 - 2, 5 - 1 - 2, 2 - 1 - 5]
    torch.testing.assert_close(error, torch.full((3,), 0.5, dtype=torch.float64))
