"""Fine energy against closed forms; double exposures that were made are told from real pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic.images.faults import SHARES, blends, double_exposure, fine_energy
from diffodesic.images.features import Features


class Pixels(Features):
    """Euclidean distance of pixels."""

    name, size, distance_name = "pixels", 1, "pixels"

    def pooled(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).flatten(1).norm(dim=-1)


def wave(number: int, size: int = 32) -> Tensor:
    """A cosine of ``number`` half periods over the rows, flat where it meets the borders."""
    at = torch.arange(size, dtype=torch.float64) + 0.5
    return torch.cos(math.pi * number * at / size).expand(1, 3, size, size)


@pytest.mark.parametrize(("number", "above"), [(4, False), (15, False), (17, True), (31, True)])
def test_a_wave_has_its_energy_on_its_side_of_the_cut(number: int, above: bool):
    # number / 64 cycles per pixel; the mean square of a cosine is 1/2
    found = fine_energy(wave(number), cut=0.25)
    torch.testing.assert_close(found, torch.tensor([0.5 * above], dtype=torch.float64))


def test_all_energy_but_the_mean_is_the_variance(draw):
    images = draw(4, 3, 10, 14)
    wanted = images.var((-2, -1), correction=0).mean(-1)
    torch.testing.assert_close(fine_energy(images, cut=0.0), wanted)


def test_borders_are_no_edges():
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64)
    square = torch.fft.fft2(ramp).abs().square()
    far = torch.fft.fftfreq(64).abs() > 0.25
    wrapped = float(square[..., far].sum() / 64**4)
    assert float(fine_energy(ramp)) < 1e-3 * wrapped


def test_blur_lowers_it_and_noise_raises_it(draw):
    images = draw(2, 1, 24, 24)
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert bool((fine_energy(blurred) < 0.3 * fine_energy(images)).all())
    assert bool((fine_energy(images + draw(2, 1, 24, 24)) > 1.5 * fine_energy(images)).all())


@pytest.mark.parametrize(
    ("shape", "cut", "words"),
    [((3, 8, 8), 0.25, r"must be \(N, C, H, W\)"), ((1, 3, 8, 8), 0.5, "below 1/2, got 0.5")],
)
def test_bad_input_of_fine_energy_is_refused(shape: tuple[int, ...], cut: float, words: str):
    with pytest.raises(ValueError, match=words):
        fine_energy(torch.zeros(shape), cut=cut)


def test_a_real_picture_is_0_and_a_blend_is_1(draw):
    real, ends = draw(9, 3, 6, 6), draw(2, 3, 6, 6)
    frames = torch.cat([real[4:5], blends(ends)[2:3], torch.lerp(ends[:1], ends[1:], SHARES[0])])
    found = double_exposure(frames, real, ends, Pixels())
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))


def test_half_way_between_a_picture_and_a_blend_is_a_half(draw):
    ends, other = draw(2, 3, 6, 6), 3 * draw(1, 3, 6, 6)
    middle = (ends[:1] + ends[1:]) / 2
    # the blends lie on a line through the middle: seen from across it, the middle is the nearest
    along = (ends[1:] - ends[:1]).flatten()
    across = other - along.view_as(other) * (other.flatten() @ along) / (along @ along)
    real = middle + across
    found = double_exposure(middle + across / 2, real, ends, Pixels())
    assert float(found) == pytest.approx(0.5)


def test_the_ends_themselves_are_no_double_exposures(draw):
    ends = draw(2, 3, 6, 6)
    assert float(double_exposure(ends, ends, ends, Pixels()).max()) == 0
