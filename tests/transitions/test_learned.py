"""The learned denoiser: what holds for any weights; opening a folder, and refusing one."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffodesic import Relax, Spacetime, geodesic, load
from diffodesic.numerics.cost import counting
from diffodesic.transitions.learned import (
    CoordinateNet,
    Coordinates,
    LearnedDenoiser,
    describe,
    energies_at_probes,
    load_denoiser,
)
from diffodesic.transitions.potentials import DoubleWell, MuellerBrown
from diffodesic.transitions.surfaces import alanine
from support.checks import same

TURN = 2 * math.pi
TORUS = Coordinates((TURN, TURN), (0.0, 0.0), (TURN, TURN), (0.3, 0.4), 0.03, TURN)
LINE = Coordinates((None, None), (0.2, -0.5), (1.0, 0.3), (0.1, 0.2), 0.01, 10.0)
MIXED = Coordinates(
    (None, 3.0, TURN), (0.2, 1.5, 0.0), (1.0, 3.0, TURN), (0.1, 0.0, 0.3), 0.03, TURN
)
COORDINATES = pytest.mark.parametrize(
    "coordinates", [TORUS, LINE, MIXED], ids=["torus", "line", "mixed"]
)


def denoiser(coordinates: Coordinates) -> LearnedDenoiser:
    """Any weights: a fresh network gives zero, so its last layer is drawn too."""
    torch.manual_seed(0)
    network = CoordinateNet(coordinates, width=16, blocks=2, harmonics=3)
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return LearnedDenoiser(network)


@COORDINATES
def test_a_shift_by_periods_shifts_the_mean(coordinates, draw, uniform):
    d = denoiser(coordinates)
    z, sigma = 2 * draw(20, coordinates.dim), uniform(0.02, 6.0, 20)
    turns = torch.tensor([length or 0.0 for length in coordinates.period], dtype=torch.float64)
    for count in (1, -2):
        same(d(z + count * turns, sigma), d(z, sigma) + count * turns)
    same(d.jvp(z + turns, sigma, turns + 1)[1], d.jvp(z, sigma, turns + 1)[1])


@COORDINATES
@pytest.mark.parametrize("forces", [True, False])
def test_without_noise_the_mean_is_the_point(coordinates, forces, draw):
    coordinates = coordinates if forces else replace(coordinates, width=(0.0,) * coordinates.dim)
    known = torch.tensor(coordinates.width) > 0
    d, z = denoiser(coordinates), draw(10, coordinates.dim)
    sizes = [
        (d(z, torch.tensor(sigma, dtype=torch.float64)) - z).abs().amax(0) for sigma in (1e-4, 1e-5)
    ]
    ratio = sizes[0] / sizes[1]
    # as sigma^2 with forces, as sigma without; F itself moves with log sigma
    assert float(sizes[1].max()) < 1e-3
    assert bool((ratio[known] > 60).all())
    assert bool((ratio[known] < 160).all())
    assert bool((ratio[~known] > 6).all())


def test_much_noise_on_a_circle_leaves_the_first_wave(draw):
    d = denoiser(TORUS)
    z = draw(10, 2)
    for sigma in (3.0, 6.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        shift = d(z, level) - z
        # sigma^2 times the first wave's damping, times a network of order one
        damped = sigma * math.sqrt(1 + 2 * sigma**2) * math.exp(-(sigma**2) / 2)
        ratio = shift.abs() / damped
        assert 0.01 < float(ratio.max()) < 10


@COORDINATES
def test_sizes_are_numbers_in_single_precision(coordinates):
    sigma = torch.logspace(-2, 3, 60)
    for size in (coordinates.shift(sigma), coordinates.precondition(sigma)[1]):
        assert bool((size > 0).all())
        assert bool(size.reciprocal().isfinite().all())


def test_the_network_of_the_caller_is_left_alone():
    network = CoordinateNet(LINE, width=8, blocks=1, harmonics=1).train()
    learned = LearnedDenoiser(network)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())
    assert not any(p.requires_grad for p in learned.network.parameters())


class Elsewhere(CoordinateNet):
    """Refuses points that are not where its weights are."""

    def forward(self, z: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        assert z.device == sigma.device == self.leave.weight.device == torch.device("meta")
        return torch.zeros(z.shape, dtype=z.dtype)


def test_points_go_where_the_weights_are(draw):
    learned, z = LearnedDenoiser(Elsewhere(TORUS, width=8).to("meta")), draw(3, 2)
    same(learned(z, torch.tensor(0.5)), z)


def test_lines_are_preconditioned_as_by_edm(uniform):
    sigma = uniform(0.05, 8.0, 6)
    coordinates = replace(LINE, width=(0.0, 0.0))
    skip, out, into = coordinates.precondition(sigma)
    s = torch.tensor(coordinates.spread, dtype=torch.float64)
    total = sigma[:, None] ** 2 + s**2
    same(skip, s**2 / total)
    same(out, sigma[:, None] * s / total.sqrt())
    same(into, total.rsqrt())
    # forces can only make the output smaller, and bound it by sigma^2/l
    _, known, _ = LINE.precondition(sigma)
    assert bool((known < out).all())
    assert bool((known <= sigma[:, None] ** 2 / torch.tensor(LINE.width)).all())


def test_units_do_not_matter(draw, uniform):
    d = denoiser(LINE)
    factor = 10.0
    scaled = Coordinates(LINE.period, (2.0, -5.0), (10.0, 3.0), (1.0, 2.0), 0.1, 100.0)
    network = CoordinateNet(scaled, width=16, blocks=2, harmonics=3).double()
    network.load_state_dict(d.network.state_dict())
    z, sigma = draw(5, 2), uniform(0.05, 5.0, 5)
    other = LearnedDenoiser(network)(factor * z, factor * sigma)
    torch.testing.assert_close(other, factor * d(z, sigma), rtol=1e-6, atol=1e-6)


@COORDINATES
def test_derivatives_are_those_of_differences(coordinates, draw, uniform):
    d = denoiser(coordinates)
    z, sigma, v = draw(4, coordinates.dim), uniform(0.3, 2.0, 4), draw(4, coordinates.dim)
    h = 1e-6
    numeric = (d(z + h * v, sigma) - d(z - h * v, sigma)) / (2 * h)
    torch.testing.assert_close(d.jvp(z, sigma, v)[1], numeric, rtol=1e-6, atol=1e-7)
    z, sigma = z[:2].requires_grad_(), sigma[:2].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z, s: torch.cat([m.flatten() for m in d.moments(z, s)]), (z, sigma)
    )


def test_it_serves_spacetime():
    # F = 0 on lines is the posterior of a Gaussian, whose lengths are known
    network = CoordinateNet(replace(LINE, spread=(0.5, 0.5)), width=8, blocks=1, harmonics=1)
    d = LearnedDenoiser(network)
    space = Spacetime(d, estimator="exact")
    ends = torch.tensor([[0.1, -0.5, 2.0], [0.5, -0.3, 2.5]], dtype=torch.float64)
    with counting() as cost:
        path = geodesic(space, *ends, nodes=16, solver=Relax(iterations=200))
    exact = space.gaussian.distance(*ends)
    # the polyline's excess falls as n^-2: that of a chord of a hyperbola of this length
    assert 0 <= float(path.length - exact) < 0.01 * float(exact)
    assert cost.evaluations > 0
    shifted = d.mean + torch.zeros(1, 2, dtype=torch.float64)
    same(d(shifted, torch.tensor([0.7])), shifted)


def test_points_keep_their_type(draw):
    d, z = denoiser(TORUS), draw(3, 2)
    level = torch.tensor(0.5)
    assert d(z.float(), level).dtype == torch.float32
    torch.testing.assert_close(d(z.float(), level).double(), d(z, level), rtol=1e-5, atol=1e-5)


def test_another_potential_is_refused():
    coordinates = replace(TORUS, potential="alanine", kT=2.494, unit="kJ/mol")
    d = denoiser(coordinates)
    d.check(alanine())
    denoiser(TORUS).check(alanine().at(1.0))  # samples alone say nothing of kT
    cases = [
        (alanine().at(1.0), "trained on alanine, with kT 2.494; alanine has kT 1.0"),
        (DoubleWell(dim=3), "with coordinates 2"),
        (MuellerBrown(), "with periods"),
    ]
    for potential, message in cases:
        with pytest.raises(ValueError, match=message):
            d.check(potential)
    with pytest.raises(ValueError, match="with name other"):
        denoiser(replace(coordinates, potential="other")).check(alanine())


def test_a_potential_is_known_by_its_energies():
    coordinates = replace(
        LINE, potential="double-well", kT=1.0, energies=energies_at_probes(DoubleWell())
    )
    d = denoiser(coordinates)
    d.check(DoubleWell())
    renamed, wider = copy.copy(DoubleWell()), copy.copy(DoubleWell())
    renamed.name = "other"
    d.check(renamed)
    wider.box = tuple((2 * low, 2 * high) for low, high in wider.box)
    for potential in (DoubleWell(barrier=3.0), wider):
        with pytest.raises(ValueError, match="other energies, or in another box"):
            d.check(potential)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"centre": (0.0,)}, "one entry per coordinate"),
        ({"sigma_min": 20.0}, "sigma_min < sigma_max"),
        ({"sigma_min": 0.0}, "sigma_min < sigma_max"),
    ],
)
def test_coordinates_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        replace(LINE, **change)


def saved(folder: Path, coordinates: Coordinates) -> LearnedDenoiser:
    d = denoiser(coordinates)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(describe(d.network)))
    save_file(d.network.state_dict(), folder / "weights.safetensors")
    return d


def test_a_folder_opens_again(tmp_path, draw):
    d = saved(tmp_path, MIXED)
    again = load_denoiser(tmp_path)
    assert again.coordinates == MIXED
    assert again.log_snr_range == d.log_snr_range
    # folders from before energies were kept
    config = json.loads((tmp_path / "config.json").read_text())
    del config["law"]["energies"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_denoiser(tmp_path).coordinates == MIXED
    z = draw(4, 3)
    # weights are kept in single precision
    torch.testing.assert_close(
        again(z, torch.tensor(0.5)), d(z, torch.tensor(0.5)), rtol=1e-6, atol=1e-6
    )


def test_folders_that_hold_no_denoiser(tmp_path):
    with pytest.raises(ValueError, match=r"lacks config\.json and weights"):
        load_denoiser(tmp_path)
    saved(tmp_path, LINE)
    with pytest.raises(ValueError, match="load_denoiser"):
        load(tmp_path)
    weights = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(weights[:99])
    with pytest.raises(ValueError, match="does not hold the weights"):
        load_denoiser(tmp_path)
    bad = {k: v * math.nan for k, v in denoiser(LINE).network.float().state_dict().items()}
    save_file(bad, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        load_denoiser(tmp_path)
    for text, message in (
        ('{"prediction": "edm"}', "diffodesic.load"),
        ("{", "no trained denoiser of coordinates"),
        ("[]", "no trained denoiser of coordinates"),
        ('{"law": {}}', "no trained denoiser of coordinates"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_denoiser(tmp_path)
