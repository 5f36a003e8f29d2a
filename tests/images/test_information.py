"""Distances under shared noise on images: their cost, and what they are on the shipped digits."""

from __future__ import annotations

import pytest
import torch

import diffodesic as dd
from diffodesic.images.information import IemOptions, MeanOptions
from support.tiny import exact_model, pictures, tiny_model

KIND = torch.float64

# of digits 3, 33, 83, 87 of the package, all pairs: 65 levels, 12 other noises with both signs
DIGITS = [40.829, 41.908, 41.117, 38.330, 35.298, 34.228]


def test_shipped_digits_are_known_to_two_per_cent_at_136_evaluations_a_pair():
    model, (images, _) = dd.load("mnist"), dd.shipped_digits()
    images = images[[3, 33, 83, 87]]
    with dd.counting() as cost:
        found = IemOptions().among(model, images)
    assert cost.evaluations == 4 * found.evaluations
    assert 2 * found.evaluations <= 160
    expected = torch.tensor(DIGITS, dtype=KIND)
    torch.testing.assert_close(found.distance, expected, rtol=0.02, atol=0)
    assert bool((found.error < 0.01 * expected).all())


def test_a_model_answers_as_its_mixture_does():
    a, b = pictures(2)
    law = dd.GaussianMixture((2 * pictures(6)[2:] - 1).flatten(1), std=0.3)
    options = IemOptions(snr=30.0, levels=17)
    model = dd.iem(exact_model(law, (1, 8, 8)), a, b, options=options)
    own = dd.iem(law, 2 * a.flatten() - 1, 2 * b.flatten() - 1, options=options)
    # the range of the model has a last level at the noisy end, that of the mixture is chosen
    torch.testing.assert_close(model.distance, own.distance, rtol=0.01, atol=0)


def test_means_at_one_level_of_gaussian_data():
    centre = torch.zeros(1, 64, dtype=KIND)
    model = exact_model(dd.GaussianMixture(centre, std=0.5), (1, 8, 8))
    a, b = pictures(2)
    found = MeanOptions(log_snr=1.0).between(model, a, b)
    shrunk = 0.25 / (0.25 + 2.718281828459045**-1)
    assert float(found.distance) == pytest.approx(2 * shrunk * float((a - b).norm()), rel=1e-6)
    assert found.evaluations == 4


@pytest.mark.parametrize("options", [IemOptions(levels=9), MeanOptions()])
def test_shapes_and_broadcasting(options):
    model, images = tiny_model(), pictures(5)
    row = options.between(model, images[0], images[1:])
    assert row.distance.shape == row.error.shape == (4,)
    assert options.between(model, images[0], images[1]).distance.shape == ()
    every = options.among(model, images)
    torch.testing.assert_close(every.distance[:4], row.distance, rtol=1e-4, atol=0)
    if row.profile is not None:
        assert row.profile.shape == (9, 4)


def test_levels_outside_the_model_and_pictures_that_do_not_fit():
    model, (a, b) = tiny_model(), pictures(2)
    with pytest.raises(ValueError, match="outside the noise levels that this model knows"):
        dd.iem(model, a, b, snr=1e9)
    with pytest.raises(ValueError, match="outside the noise levels that this model knows"):
        MeanOptions(log_snr=90.0).between(model, a, b)
    with pytest.raises(ValueError, match=r"this model takes \(1, 8, 8\)"):
        dd.iem(model, a[:, :4], b)
    with pytest.raises(TypeError, match="did you mean 'snr'"):
        dd.iem(model, a, b, snrs=3.0)  # type: ignore[call-arg]


def test_all_pairs_are_kept_in_a_file_and_read_again(tmp_path):
    model, images, file = tiny_model(), pictures(4), tmp_path / "distances.npz"
    options = IemOptions(levels=9)
    first = dd.pairwise(model, images, metric="iem", options=options, file=file)
    assert first.complete
    assert torch.equal(first.lengths, options.among(model, images).distance)
    assert first.neighbours(1).shape == (4, 1)
    # half as many images take half the time, not a quarter
    assert first.seconds_for(2) == first.seconds / 2
    again = dd.pairwise(model, images, metric="iem", options=options, file=file)
    assert again.seconds == first.seconds
    assert torch.equal(again.errors, first.errors)
    with pytest.raises(ValueError, match="other data or settings"):
        dd.pairwise(model, images, metric="iem", options=options.but(seed=1), file=file)
    with pytest.raises(ValueError, match="no file of distances of this kind"):
        dd.pairwise(model, images, file=file)


def test_pairwise_takes_the_options_of_its_metric_alone():
    model, images = tiny_model(), pictures(3)
    with pytest.raises(ValueError, match="options are MeanOptions; the metric iem takes IemOpt"):
        dd.pairwise(model, images, metric="iem", options=MeanOptions())
    with pytest.raises(ValueError, match="no arguments of the metric mean"):
        dd.pairwise(model, images, metric="mean", check=2)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="unknown metric 'lpips'; choose diffed, iem or mean"):
        dd.pairwise(model, images, metric="lpips")  # type: ignore[call-overload]
