"""The two geometries of latent noise that say nothing."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.problems import toy_mixture
from diffodesic import GaussianMixture, Pullback, Relax, Spacetime, counting, drop, geodesic
from diffodesic.metrics.counterexamples import FisherRao, decoded_chord, decoder_pullback
from diffodesic.metrics.spacetime.posterior_divergences import jeffreys
from support.checks import Draw, same


def _toy_metric(t: float) -> FisherRao:
    lam = 10 - 20 * t
    return FisherRao(toy_mixture(), log_snr=lam, alpha=math.sqrt(1 / (1 + math.exp(-lam))))


@pytest.mark.parametrize(
    ("t", "printed", "digits"),
    [(0.1, 2981, 0.5), (0.3, 54.9, 0.05), (0.5, 1.51, 5e-3), (0.7, 0.065, 5e-4)]
    + [(0.9, 0.0013, 5e-5), (1.0, 1.8e-4, 5e-6)],
)
def test_collapse_as_printed(t: float, printed: float, digits: float):
    one = torch.ones(1, dtype=torch.float64)
    value = float(_toy_metric(t).inner(one, one, one))
    # half of the last digit printed
    assert value == pytest.approx(printed, abs=digits)


def test_latents_of_pure_noise_are_hardly_different():
    ends = torch.tensor([[-3.0], [3.0]], dtype=torch.float64)
    assert float(_toy_metric(1.0).squared_steps(ends)) == pytest.approx(0.0066, abs=5e-5)


def test_fisher_rao_is_a_slice_of_spacetime(draw: Draw):
    law, lam = GaussianMixture(draw(4, 3), std=0.5), 0.7
    space = Spacetime(law)
    for alpha in (1.0, 0.4):
        metric = FisherRao(law, log_snr=lam, alpha=alpha)
        x, u, v = draw(3, 6, 3)
        zero = torch.zeros(6, 1, dtype=torch.float64)
        point = space.point(x / alpha, lam)
        du, dv = (torch.cat([w / alpha, zero], -1) for w in (u, v))
        same(metric.inner(x, u, v), space.inner(point, du, dv))
        same(metric.inner(x, u, u), metric.norm(x, u) ** 2)
        path = space.point(x / alpha, lam)
        same(metric.squared_steps(x), jeffreys(space, path[:-1], path[1:]))


def test_steps_of_fisher_rao_are_the_metric_at_order_two(draw: Draw):
    metric = FisherRao(GaussianMixture(draw(4, 2), std=0.5), log_snr=1.0)
    x, u = draw(2), draw(2)
    errors = []
    for h in (1e-2, 5e-3):
        ends = torch.stack([x - h * u / 2, x + h * u / 2])
        errors.append(float(metric.squared_steps(ends)[0] / h**2 - metric.inner(x, u, u)))
    assert math.log2(abs(errors[0] / errors[1])) == pytest.approx(2, abs=0.05)


def test_cost_of_fisher_rao_steps(draw: Draw):
    metric = FisherRao(GaussianMixture(draw(4, 2)), log_snr=1.0)
    with counting() as cost:
        metric.squared_steps(draw(9, 2))
    assert (cost.evaluations, cost.derivatives) == (9, 0)


@pytest.fixture
def clusters() -> GaussianMixture:
    means = torch.tensor([[-1.0, 0.0], [0.8, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return GaussianMixture(means, std=0.6)


def test_geodesics_of_the_decoder_decode_to_chords(clusters: GaussianMixture):
    # the decoder with 12 steps is itself a diffeomorphism; the solver knows nothing of its chords
    metric = decoder_pullback(clusters, log_snr=-3.0, steps=12)
    a, b = torch.tensor([[-5.0, 2.0], [4.0, -3.0]], dtype=torch.float64)
    path = geodesic(metric, a, b, nodes=6, solver=Relax(rtol=1e-10))
    chord = float((metric.f(b) - metric.f(a)).norm())
    assert float(path.certificate.discrete_length) == pytest.approx(chord, rel=1e-6)
    decoded = metric.f(path.nodes)
    line = torch.lerp(decoded[0], decoded[-1], torch.linspace(0, 1, 7)[:, None].double())
    assert float((decoded - line).norm(dim=-1).max()) < 1e-3 * chord


def test_the_preimage_of_a_chord(clusters: GaussianMixture):
    a, b = torch.tensor([[-5.0, 2.0], [4.0, -3.0]], dtype=torch.float64)
    errors = []
    for steps in (32, 64, 128):
        path = decoded_chord(clusters, a, b, log_snr=-3.0, nodes=8, steps=steps)
        assert torch.equal(path[[0, -1]], torch.stack([a, b]))
        decoded = drop(clusters, path, -3.0, steps=steps)
        line = torch.lerp(decoded[0], decoded[-1], torch.linspace(0, 1, 9)[:, None].double())
        errors.append(float((decoded - line).norm(dim=-1).max()))
        length = float(decoded.diff(dim=0).norm(dim=-1).sum() / (decoded[-1] - decoded[0]).norm())
    assert length == pytest.approx(1, abs=1e-6)
    # there and back by Heun's rule; what is left of its error falls at least as fast
    assert errors[2] < errors[1] / 3 < errors[0] / 9


@pytest.mark.parametrize("dim", [2, 5])
def test_any_diffeomorphism_pulls_back_its_chords(dim: int, draw: Draw):
    shear = 0.5 * draw(dim, dim).tril(-1)

    def f(x: torch.Tensor) -> torch.Tensor:
        # triangular, hence a diffeomorphism, with its inverse solved row by row
        return x + torch.tanh(x @ shear.T)

    def inverse(y: torch.Tensor) -> torch.Tensor:
        x = y.clone()
        for _ in range(dim):
            x = y - torch.tanh(x @ shear.T)
        return x

    a, b = draw(2, dim)
    metric = Pullback(f, dim)
    path = geodesic(metric, a, b, nodes=8, solver=Relax(rtol=1e-12))
    s = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    exact = inverse(torch.lerp(f(a), f(b), s))
    same(metric.squared_steps(exact).sqrt().sum(), (f(b) - f(a)).norm())
    torch.testing.assert_close(path.nodes, exact, rtol=0, atol=1e-4)


def test_errors_say_which_argument_is_wrong(clusters: GaussianMixture):
    with pytest.raises(ValueError, match="outside the noise levels"):
        FisherRao(clusters, log_snr=math.inf)
    with pytest.raises(ValueError, match="alpha must be a positive number"):
        FisherRao(clusters, log_snr=0.0, alpha=0.0)
