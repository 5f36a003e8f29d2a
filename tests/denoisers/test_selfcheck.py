"""Derivatives of a denoiser, looked at before a path is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from html import escape

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, Relax, Spacetime, Status, distance, geodesic
from diffodesic.denoisers.network import NetworkOptions, from_network
from diffodesic.denoisers.schedules import EDM, VP
from diffodesic.denoisers.selfcheck import self_check
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.path import Geodesic
from diffodesic.geometry.status import SearchWarning
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.placement import doubts
from diffodesic.models.model import as_model
from support.checks import status_is_looked_at
from support.pipelines import unet
from support.tiny import pictures, tiny_model


class Opaque(Denoiser):
    """A law known by its evaluations: a network, to everybody else."""

    closed_form = False

    def __init__(self, law: Denoiser) -> None:
        self.law, self.dim = law, law.dim
        self.mean, self.variance = law.mean, law.variance

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, sigma)


class Remote(Opaque):
    """One that runs elsewhere: values come back without a graph."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        with torch.no_grad():
            return self.law.posterior_mean(z, sigma)


class Quantised(Opaque):
    """Its backward pass goes through something else than its forward pass."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        m = self.law.posterior_mean(z, sigma)
        return m.detach() + 0.3 * (z - z.detach())


class Levelled(Opaque):
    """It takes another level of noise than the one that it is asked about."""

    def __init__(self, law: Denoiser, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(law)
        self.change = change

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        return self.law.posterior_mean(z, (-self.change(-2 * sigma.log()) / 2).exp())


class Turned(Opaque):
    """A law with a share of a rotation added."""

    def __init__(self, law: Denoiser, share: float) -> None:
        super().__init__(law)
        self.share = share

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        half = self.dim // 2
        turned = torch.cat([z[..., half:], -z[..., :half]], -1)
        return self.law.posterior_mean(z, sigma) + self.share * turned


@pytest.fixture
def law(draw) -> GaussianMixture:
    return GaussianMixture(draw(3, 4), std=0.4)


@pytest.fixture
def points(law: GaussianMixture, draw) -> Tensor:
    level = torch.tensor([[2.0], [0.1], [-1.0]], dtype=torch.float64)
    return torch.cat([law.means + 0.3 * draw(3, 4), level], -1)


def test_a_true_posterior_mean_passes(law, points):
    found = self_check(Opaque(law), points)
    # central differences at 1e-5 of the noise, and a slope over a tenth of an e-fold
    assert found.reverse < 1e-6
    assert found.asymmetry < 1e-6
    assert found.jumps < 1e-2
    assert found.gradient == "reverse"
    assert found.doubts() == ()


@pytest.mark.parametrize("kind", [Remote, Quantised])
def test_no_gradient_and_a_false_one_are_found(kind, law, points):
    found = self_check(kind(law), points)
    assert found.reverse > 0.1
    assert found.gradient == "forward"
    assert found.asymmetry < 1e-6


def test_asymmetry_is_that_of_the_jacobian(law, points):
    share = 0.2
    found = self_check(Turned(law, share), points, probes=256)
    jacobian = torch.stack(
        [law.jvp(points[:, :-1], (-points[:, -1] / 2).exp(), v)[1] for v in torch.eye(4).double()],
        -1,
    )
    # u and v are independent: E (u.Kv)^2 = |K|^2, for K = 2 S and, with a rotation in A, for 2 A
    even = (4 * jacobian.square().sum((-2, -1))).sum()
    odd = 3 * 4 * share**2 * 4
    assert found.asymmetry == pytest.approx(math.sqrt(odd / float(even)), rel=0.15)


@pytest.mark.parametrize("entries", [0.5, 4.0, 60.0])  # per e-fold; DDPM's table has 60
def test_a_table_of_noise_levels_is_named(law, points, entries):
    found = self_check(Levelled(law, lambda level: (level * entries).round() / entries), points)
    # on one side of a jump nothing changes
    assert found.jumps == pytest.approx(1, abs=0.02)
    (sentence,) = found.doubts()
    assert "rounded its time" in sentence


def test_a_table_beside_what_is_smooth_is_named(law, points):
    """The level of the preconditioning is exact, that of the network rounded."""

    class Half(Opaque):
        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            level = (-2 * sigma.log() * 4).round() / 4
            rounded = self.law.posterior_mean(z, (-level / 2).exp())
            return rounded + 0.3 * self.law.posterior_mean(z, sigma)

    assert self_check(Half(law), points).jumps > 0.9


def test_a_relu_on_the_level_is_named(law, points):
    kinked = Levelled(law, lambda level: level - 4 * (level - 0.13).relu())
    assert self_check(kinked, points).jumps > 1  # the slope changes its sign


@pytest.mark.parametrize("turns", [1, 10, 60, 100])  # radians per e-fold
def test_sinusoids_of_the_level_are_smooth(law, points, turns):
    fast = Levelled(law, lambda level: level + 0.2 * (turns * level).sin())
    # slopes over .1 and .002 agree, or the second derivative is looked at over steps of 4e-4
    assert self_check(fast, points).jumps < 0.2


def test_stock_networks_are_smooth_and_their_tables_are_not(monkeypatch):
    """Slopes over steps of .1 and .002 differ by several times for all of them."""
    pytest.importorskip("diffusers")
    monkeypatch.setattr("support.pipelines.calm", lambda network: network)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = unet().eval().requires_grad_(requires_grad=False)
    for name, part in network.named_modules():
        if name.endswith("time_emb_proj"):  # trained ones listen to their time
            part.weight.mul_(10)
    network.conv_out.weight.mul_(10)
    found = {}
    times = {
        "real": lambda t: t,
        "entries": torch.round,
        "100 entries": lambda t: 10 * (t / 10).round(),
    }
    for name, change in times.items():
        denoiser = from_network(
            lambda x, t, change=change: network(x, change(1000 * t)).sample,
            shape=(3, 8, 8),
            schedule=VP(),
            prediction="eps",
            options=NetworkOptions(dtype=torch.float32, trial=False),
        )
        z = torch.randn(3, denoiser.dim, generator=torch.Generator().manual_seed(0)).double()
        found[name] = self_check(denoiser, torch.cat([z, torch.tensor([[-3.0], [0.0], [3.0]])], -1))
    assert 0 < found["real"].jumps < 0.25
    assert found["real"].doubts() == ()
    for name in ("entries", "100 entries"):
        assert found[name].jumps == pytest.approx(1, abs=0.02)


def test_rounding_is_no_jump():
    """A network in half precision moves by steps of its own."""
    denoiser = tiny_model().running(precision="bfloat16").denoiser
    z = torch.randn(3, denoiser.dim, generator=torch.Generator().manual_seed(0)).double()
    found = self_check(denoiser, torch.cat([z, torch.tensor([[2.0], [1.0], [0.0]])], -1))
    assert found.jumps < 0.5


def test_the_sentence_reaches_warnings_and_the_stage_of_a_path(law, draw):
    space = Spacetime(Levelled(law, lambda level: (level * 60).round() / 60), probes=4)
    a, b = space.point(law.means[:2], 1.0)
    path = search(space, a, b, nodes=4, solver=Relax(iterations=1))
    (sentence,) = path.doubts
    assert "rounded its time" in sentence
    tensors, words = path.split()
    assert Geodesic.joined(space, tensors, json.loads(json.dumps(words))).doubts == path.doubts
    assert doubts(path)[-1] == sentence
    for ask in (geodesic, distance):
        with pytest.warns(SearchWarning), pytest.warns(RuntimeWarning, match="rounded its time"):
            ask(space, a, b, nodes=4, solver=Relax(iterations=1))


def test_an_asymmetric_network_without_gradients_is_named(law, points):
    class Both(Turned, Remote):
        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            with torch.no_grad():
                return Turned.posterior_mean(self, z, sigma)

    (sentence,) = self_check(Both(law, 0.8), points).doubts()
    assert "not symmetric" in sentence


def test_geodesics_take_the_gradient_that_there_is(law, draw):
    a, b = Spacetime(law).point(law.means[:2], 1.0)
    found = {}
    for kind in (Opaque, Remote):
        space = Spacetime(kind(law), probes=4)
        assert space.energy().check is None
        found[kind] = geodesic(space, a, b, nodes=32)
        assert found[kind].status is Status.CONVERGED
    energies = [path.objective for path in found.values()]
    assert [getattr(energy, "gradient", None) for energy in energies] == ["reverse", "forward"]
    assert getattr(energies[1], "check").reverse == math.inf  # noqa: B009
    # the same metric by two kinds of differences
    torch.testing.assert_close(found[Opaque].length, found[Remote].length, rtol=1e-5, atol=0)


def test_what_was_asked_for_is_kept(law):
    for space in (Spacetime(law), Spacetime(Opaque(law), gradient="reverse")):
        a, b = space.point(law.means[:2], 1.0)
        assert space.energy().settled(a[None], b[None]) is space.energy()


def test_the_shipped_kind_of_network_passes():
    denoiser = tiny_model().denoiser
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, denoiser.dim, generator=generator, dtype=torch.float64)
    found = self_check(denoiser, torch.cat([z, torch.tensor([[2.0], [1.0], [0.0]])], -1))
    assert found.gradient == "reverse"
    assert found.jumps < 0.1


class Refusing(Opaque):
    """One that is not finite far from the data, and says so."""

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        if bool((z.norm(dim=-1) > 50).any()):
            raise FloatingPointError("too far")
        return self.law.posterior_mean(z, sigma)


@status_is_looked_at
def test_a_pair_that_the_network_refuses_costs_no_other(law, draw):
    space = Spacetime(Refusing(law), probes=4)
    a, b = space.point(torch.stack([law.means[:2], 100 * law.means[:2]]).transpose(0, 1), 1.0)
    path = geodesic(space, a.flip(0), b.flip(0), nodes=8)
    assert path.statuses[0] is Status.NON_FINITE
    assert path.statuses[1] is not Status.NON_FINITE


def test_the_check_sees_several_pairs(law):
    class Torn(Opaque):
        """No gradient on one side of space."""

        def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
            m = self.law.posterior_mean(z, sigma)
            return torch.where(z[..., :1] > 5, m.detach(), m)

    space = Spacetime(Torn(law), probes=4)
    near, far = law.means[:2], law.means[:2] + torch.tensor([20.0, 0, 0, 0]).double()
    a, b = (space.point(torch.stack([near[i], far[i]]), 1.0) for i in (0, 1))
    assert space.energy().settled(a, b).gradient == "forward"
    assert space.energy().settled(a[:1], b[:1]).gradient == "reverse"


def test_the_sentence_is_a_notice_of_a_result_and_its_page_after_a_resume_too(tmp_path):
    law = GaussianMixture(2 * pictures(3).flatten(1) - 1, std=0.3)
    rounded = Levelled(law, lambda level: (level * 60).round() / 60)
    denoiser = from_network(
        lambda x, t: rounded(x.flatten(1), t).reshape(x.shape),
        shape=(1, 8, 8),
        schedule=EDM(0.002, 80.0),  # time is sigma itself
        prediction="x0",
        options=NetworkOptions(trial=False),  # the trial warns of it, too
    )
    model = as_model(denoiser, "rounded", source="here")
    options = InterpolateOptions(
        nodes=3, frames=2, flow_steps=1, baselines=(), solver=Relax(iterations=1)
    )
    for _ in range(2):
        found = interpolate(model, *pictures(2), options=options, checkpoint=tmp_path / "stages")
        (sentence,) = [notice for notice in found.notices if "rounded its time" in notice]
    page = (found.save(tmp_path / "out") / "report.html").read_text()
    assert escape(sentence) in page
