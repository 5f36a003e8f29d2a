"""Relative entropies by mismatched estimation against exact ones, with stated confidence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffodesic import Denoiser, GaussianMixture, Spacetime, geodesic
from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.metrics.spacetime.mismatched_estimation import (
    check_lengths,
    mismatch_length,
    mismatch_steps,
    relative_entropy,
)
from diffodesic.metrics.spacetime.reverse_paths import frozen_noise, walk
from support.tiny import tiny_model

# mixtures from one mode to modes far apart: (D, components, spread of the means, std, log SNR)
CASES = {
    "one mode": (4, 1, 0.0, 1.0, 0.0),
    "D = 1, overlapping": (1, 3, 1.5, 0.75, -0.5),
    "D = 1, apart": (1, 2, 4.0, 0.3, -2.0),
    "D = 2, apart": (2, 3, 3.0, 0.4, -0.5),
    "D = 16, apart": (16, 4, 2.0, 0.5, -2.5),
    "D = 64, apart": (64, 4, 0.8, 0.2, -2.3),
}


def exact_entropy(law: GaussianMixture, a: Tensor, b: Tensor) -> Tensor:
    """KL by the log-partition: ``(eta_a - eta_b).mu_a - psi_a + psi_b``."""
    space = Spacetime(law)
    first, second = space.eta(a), space.eta(b)
    psi = [law.log_partition(eta[..., :-1], -2 * eta[..., -1]) for eta in (first, second)]
    return ((first - second) * space.mu(a)).sum(-1) - psi[0] + psi[1]


def problem(name: str) -> tuple[GaussianMixture, Tensor, Tensor]:
    """A mixture, and two points between its modes at different noise."""
    dim, count, spread, std, level = CASES[name]
    generator = torch.Generator().manual_seed(7)
    means = spread * torch.randn(count, dim, generator=generator, dtype=torch.float64)
    law = GaussianMixture(means, std=std)
    first, second = means[:2].mean(0), means[:3].mean(0) + 0.2
    ends = [torch.cat([first, first.new_tensor([level])])]
    ends.append(torch.cat([second, second.new_tensor([level - 0.2])]))
    return law, ends[0], ends[1]


def posterior_of(law: GaussianMixture):
    """Samples of the exact posterior of an isotropic mixture."""

    def draw(z: Tensor, sigma: Tensor, count: int, generator: torch.Generator) -> Tensor:
        k = sigma.unsqueeze(-1) ** -2
        joint = torch.stack(
            [
                weight + GaussianMixture(mean[None], std=v.sqrt()).log_partition(k * z, k[:, 0])
                for weight, mean, v in zip(
                    law.log_weights, law.means, law.variances[:, 0], strict=True
                )
            ],
            -1,
        )
        index = torch.multinomial(joint.softmax(-1), count, replacement=True, generator=generator).T
        v = law.variances[index]
        gain = 1 / (1 + k * v)
        noise = torch.randn(*index.shape, law.dim, generator=generator, dtype=z.dtype)
        return gain * (law.means[index] + v * k * z) + (gain * v).sqrt() * noise

    return draw


def _met(rows: Tensor, exact: Tensor, share: float) -> None:
    """Three standard errors (99.7 %) beside a share of the value for the rule in k'."""
    error = rows.std(0) / len(rows) ** 0.5
    assert bool((error < 0.05 * exact).all()), "too few samples to say anything"
    assert bool(((rows.mean(0) - exact).abs() < 3 * error + share * exact).all())


def _hold(name: str, samples: int, levels: int, *, share: float, known: bool = False) -> None:
    law, a, b = problem(name)
    ends = torch.stack([a, b])
    rows = relative_entropy(
        law,
        ends,
        ends.flip(0),
        samples=samples,
        levels=levels,
        posterior=posterior_of(law) if known else None,
    )
    _met(rows, exact_entropy(law, ends, ends.flip(0)), share)


@pytest.mark.parametrize("name", CASES)
def test_relative_entropy_both_ways_is_exact(name):
    _hold(name, 1000, 32, share=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_at_64_levels_the_rule_is_within_half_a_per_cent(name):
    _hold(name, 3000, 64, share=0.005)


@pytest.mark.parametrize("name", ["D = 1, apart", "D = 16, apart"])
def test_known_posteriors_need_no_step_in_y(name):
    _hold(name, 1500, 24, share=0.01, known=True)


@pytest.mark.parametrize("dim", [1, 4])
def test_gaussian_at_one_noise_level_has_no_scatter_and_order_four(dim):
    law = GaussianMixture(torch.zeros(1, dim, dtype=torch.float64))
    ends = torch.zeros(2, dim + 1, dtype=torch.float64)
    ends[1, 0] = 1.5
    exact = exact_entropy(law, *ends)
    errors = []
    for levels in (8, 16, 32):
        rows = relative_entropy(law, *ends, samples=2, levels=levels)
        torch.testing.assert_close(rows[0], rows[1], rtol=1e-12, atol=0)
        errors.append(abs(float(rows.mean() / exact - 1)))
    # halved steps: a sixteenth of the error, and what the end of the levels leaves, e^-9
    assert errors[1] < errors[0] / 8 + 2e-4
    assert errors[2] < errors[1] / 8 + 2e-4


def test_one_step_of_any_width_has_the_exact_law_on_gaussian_data():
    law = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), std=0.8)
    hub = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)
    noise = frozen_noise(2, samples=20_000, levels=5, seed=1)
    *_, (_, means) = walk(law, hub, hub.unsqueeze(1), noise)
    _, s = Spacetime(law).gaussian.posterior(hub)
    # the mean becomes the clean sample: variance s^2, to e^-9; 3 sd of a sample variance
    spread = means[:, 0, 0].var(0)
    torch.testing.assert_close(spread, s.square().expand(2), rtol=3 * (2 / 40_000) ** 0.5, atol=0)


@pytest.mark.parametrize("hubs", ["all", "alternate"])
@pytest.mark.parametrize("segments", [4, 5])
def test_steps_are_what_their_hubs_say(hubs, segments):
    law, a, b = problem("D = 2, apart")
    s = torch.linspace(0, 1, segments + 1, dtype=torch.float64)[:, None]
    x = torch.lerp(a, b, s)
    rows = mismatch_steps(law, x, samples=800, levels=48, hubs=hubs)
    forth, back = exact_entropy(law, x[:-1], x[1:]), exact_entropy(law, x[1:], x[:-1])
    from_right = torch.arange(segments) % 2 == 0  # hubs at nodes 1, 3, ...
    exact = forth + back if hubs == "all" else 2 * torch.where(from_right, back, forth)
    _met(rows, exact, 0.01)


def test_a_path_across_modes_is_met_within_its_error():
    law = GaussianMixture(
        torch.tensor([[-2.5], [2.0], [0.5]], dtype=torch.float64),
        torch.tensor([0.3, 0.3, 0.4]),
        std=0.75,
    )
    space = Spacetime(law)
    a, b = space.point(law.means[:2], log_snr=torch.tensor([2.0, 1.0], dtype=torch.float64))
    nodes = geodesic(space, a, b, nodes=24).nodes
    exact = float(space.squared_steps(nodes).sqrt().sum())
    for hubs in ("all", "alternate"):
        length, error = mismatch_length(law, nodes, samples=300, levels=32, hubs=hubs)
        assert error < 0.02 * exact
        assert abs(length - exact) < 3 * error + 0.01 * exact


def test_rows_do_not_depend_on_company_and_repeat_with_the_seed(draw):
    law = GaussianMixture(draw(3, 2), std=0.4)
    x = draw(2, 3, 6, 3)
    both = mismatch_steps(law, x, samples=3, levels=8, seed=1)
    assert both.shape == (3, 2, 3, 5)
    assert bool((both > 0).all())
    pieces = mismatch_steps(law, x, samples=3, levels=8, seed=1, chunk=5)
    alone = mismatch_steps(law, x[1, 2], samples=3, levels=8, seed=1)
    torch.testing.assert_close(pieces, both, rtol=1e-10, atol=0)
    torch.testing.assert_close(alone, both[:, 1, 2], rtol=1e-10, atol=0)
    other = mismatch_steps(law, x, samples=3, levels=8, seed=2)
    assert not torch.equal(both, other)
    assert math.isnan(mismatch_length(law, x[0, 0], samples=1, levels=8)[1])


def test_noise_of_its_own_at_every_node_averages_out_along_the_path():
    law, a, b = problem("D = 1, overlapping")
    x = torch.lerp(a, b, torch.linspace(0, 1, 17, dtype=torch.float64)[:, None])
    own, same = (
        mismatch_steps(law, x, samples=200, levels=12, shared=shared).sum(-1).std()
        for shared in (False, True)
    )
    # 17 hubs: a quarter of the scatter
    assert own < same / 3


def test_single_precision_and_networks_go_through(draw):
    law = GaussianMixture(draw(3, 2), std=0.4)
    x = draw(6, 3)
    exact = mismatch_steps(law, x, samples=2, levels=8)
    single = GaussianMixture(law.means.float(), std=0.4)
    rough = mismatch_steps(single, x.float(), samples=2, levels=8)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-2, atol=1e-4)
    network = tiny_model().denoiser
    steps = mismatch_steps(network, draw(4, network.dim + 1), samples=1, levels=6)
    assert bool(torch.isfinite(steps).all())
    assert bool((steps > 0).all())


def test_errors_say_what_to_change(draw):
    law = GaussianMixture(draw(3, 2))
    with pytest.raises(ValueError, match="last axis must be 3"):
        mismatch_steps(law, draw(4, 2))
    with pytest.raises(ValueError, match=r"\(..., n\+1, D\+1\)"):
        mismatch_steps(law, draw(3))
    with pytest.raises(ValueError, match="samples and levels"):
        mismatch_steps(law, draw(4, 3), levels=4)
    with pytest.raises(ValueError, match="hubs is 'some'"):
        mismatch_steps(law, draw(4, 3), hubs="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="that of one path"):
        mismatch_length(law, draw(2, 4, 3))
    network = tiny_model().denoiser
    assert isinstance(network, NetworkDenoiser)
    close = torch.zeros(3, network.dim + 1, dtype=torch.float64)
    close[:, -1] = network.log_snr_range[1] - 1
    with pytest.raises(ValueError, match="last level"):
        mismatch_steps(network, close)


class Counted(Denoiser):
    """Counts its calls, and refuses points beyond ``limit``."""

    dim, learned, log_snr_range = 64, True, (-10.0, 10.0)

    def __init__(self, limit: float = math.inf) -> None:
        self.calls, self.limit = 0, limit

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        if float(z.abs().max()) > self.limit:
            raise FloatingPointError("too far")
        return z.tanh() / (1 + sigma.unsqueeze(-1) ** 2)


def paths(count: int, nodes: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(count, nodes, 64, generator=generator, dtype=torch.float64).cumsum(1)
    return torch.cat([z, torch.zeros(count, nodes, 1).double()], -1)


def test_paths_are_judged_in_the_calls_of_one_and_each_as_if_alone():
    denoiser, x = Counted(), paths(8, nodes=7)
    together, errors = check_lengths(denoiser, x, seed=3)
    calls, denoiser.calls = denoiser.calls, 0
    alone = [check_lengths(denoiser, path[None], seed=3) for path in x]
    assert calls == denoiser.calls / 8
    torch.testing.assert_close(together, torch.cat([one[0] for one in alone]))
    torch.testing.assert_close(errors, torch.cat([one[1] for one in alone]))
    length, _ = mismatch_length(denoiser, x[2], samples=1, levels=8, hubs="alternate", seed=3)
    assert float(together[2]) == pytest.approx(length)


def test_samples_are_added_to_the_paths_that_need_them():
    denoiser, x = Counted(), paths(8)
    once = check_lengths(denoiser, x, seed=3)[1]
    length, error = check_lengths(denoiser, x, seed=3, within=0.05)
    assert bool((error < 0.05 * length).all())
    # company does not matter here either
    alone = [check_lengths(denoiser, path[None], seed=3, within=0.05) for path in x]
    torch.testing.assert_close(length, torch.cat([one[0] for one in alone]))
    torch.testing.assert_close(error, torch.cat([one[1] for one in alone]))
    # of two parts one sample knows no error; a wish that cannot be met ends
    assert bool(once.isnan().all())
    assert bool(check_lengths(denoiser, x, seed=3, within=1e-9)[1].isfinite().all())


@pytest.mark.parametrize("within", [None, 0.02])
def test_standard_errors_of_checks_are_those_of_other_noise(within: float | None):
    generator = torch.Generator().manual_seed(4)
    means = 0.8 * torch.randn(4, 64, generator=generator, dtype=torch.float64)
    law = GaussianMixture(means, std=0.3)
    a, b = Spacetime(law).point(means[:2], -1.5)
    x = torch.lerp(a, b, torch.linspace(0, 1, 33, dtype=a.dtype)[:, None])
    found = [check_lengths(law, x[None], seed, within=within) for seed in range(40)]
    length, error = (torch.cat(part) for part in zip(*found, strict=True))
    # 40 draws know a standard deviation to 11 %
    assert 0.7 < float(error.square().mean().sqrt() / length.std()) < 1.6


def test_a_path_that_cannot_be_judged_leaves_the_others():
    x = paths(4, nodes=7)
    x[0, :] = x[0, :1]  # stays where it is
    x[1, :, -1] = 8.0  # too clean
    x[2, 2, :-1] *= 1e3  # the network refuses it
    length, error = check_lengths(Counted(limit=100.0), x, seed=3)
    assert length.isnan().tolist() == error.isnan().tolist() == [True, True, True, False]
    torch.testing.assert_close(length[3:], check_lengths(Counted(), x[3:], seed=3)[0])
