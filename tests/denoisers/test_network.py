"""Foreign networks: an exact mixture in disguise must give back the oracle, d/dsigma included."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.network import (
    NetworkDenoiser,
    NetworkError,
    NetworkOptions,
    Prediction,
    from_network,
)
from diffodesic.denoisers.schedules import (
    EDM,
    VP,
    Cosine,
    FlowMatching,
    LinearLogSNR,
    Schedule,
    Tabulated,
)
from diffodesic.numerics.cost import counting
from support.disguise import disguised

# forward mode compiles some of torch's own formulas when it is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")

UNTRIED = NetworkOptions(trial=False)
SHAPE, SIGMA_DATA = (2, 3), 0.8
_TIMES = torch.linspace(0, 1, 60, dtype=torch.float64)
SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "linear-log-snr": LinearLogSNR(10.0, -10.0),
    "cosine": Cosine(),
    "flow": FlowMatching(),
    "flow-shifted": FlowMatching(shift=3.0),
    "edm": EDM(),
    "ddpm": Tabulated.ddpm_linear(),
    "stable-diffusion": Tabulated.scaled_linear(),
    "table": Tabulated(alpha=1 - 0.9 * _TIMES**2, sigma=0.01 + 20 * _TIMES**2),
}
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
EVERY_PREDICTION = pytest.mark.parametrize("prediction", PREDICTIONS)


def _randn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


ORACLE = GaussianMixture(_randn(4, 6, seed=10), torch.tensor([0.1, 0.2, 0.3, 0.4]), std=0.35)


def _points(seed: int, count: int = 7) -> tuple[Tensor, Tensor]:
    """Noisy data at log SNR from -5 to 6.5, inside the range of every schedule above."""
    log_snr = torch.linspace(-5, 6.5, count, dtype=torch.float64)
    sigma = torch.exp(-log_snr / 2)
    x0 = ORACLE.sample(count, generator=torch.Generator().manual_seed(seed))
    return x0 + sigma.unsqueeze(-1) * _randn(count, 6, seed=seed + 1), sigma


def _wrap(
    prediction: Prediction, schedule: Schedule, options: NetworkOptions | None = None
) -> NetworkDenoiser:
    return from_network(
        disguised(ORACLE, prediction, schedule, SIGMA_DATA),
        shape=SHAPE,
        schedule=schedule,
        prediction=prediction,
        sigma_data=SIGMA_DATA,
        options=options,
    )


# 1e-8 throughout: sigma^2 div m is at most 150 * 6, assembled from terms up to sigma times larger
# that cancel, and time passes twice through a schedule: about 1e5 roundings of 1e-16 remain.
def _assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@EVERY_SCHEDULE
@EVERY_PREDICTION
def test_gives_back_the_oracle(schedule: Schedule, prediction: Prediction) -> None:
    z, sigma = _points(seed=20)
    model = _wrap(prediction, schedule)
    m, second = model.moments(z, sigma)
    expected_m, expected_second = ORACLE.moments(z, sigma)
    _assert_close(model(z, sigma), expected_m)
    _assert_close(m, expected_m)
    _assert_close(second, expected_second)


@EVERY_SCHEDULE
@EVERY_PREDICTION
def test_derivative_in_sigma(schedule: Schedule, prediction: Prediction) -> None:
    z, sigma = _points(seed=30)
    model, weight = _wrap(prediction, schedule), _randn(7, 6, seed=32)

    def slope(denoiser: NetworkDenoiser | GaussianMixture, level: Tensor, part: int) -> Tensor:
        leaf = level.clone().requires_grad_()
        value = denoiser.moments(z, leaf)[part]
        total = (value * weight).sum() if part == 0 else value.sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        return gradient

    for part in (0, 1):
        actual, expected = slope(model, sigma, part), slope(ORACLE, sigma, part)
        assert bool((expected.abs() > 1e-6).any())
        # one power of sigma^-1 = e^3.25 more than the value it differentiates
        _assert_close(actual * sigma, expected * sigma)
    h = 1e-5 * sigma
    change = (model(z, sigma + h) - model(z, sigma - h)) * weight
    # central differences: h^2 of third derivatives, 1e-10, beside rounding 1e-16 / 1e-5
    _assert_close(change.sum(-1) / 2e-5, slope(ORACLE, sigma, 0) * sigma, 1e-7)


@EVERY_PREDICTION
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), log_snr=st.floats(-5, 6.5))
def test_gives_back_the_oracle_anywhere(prediction: Prediction, seed: int, log_snr: float) -> None:
    sigma = torch.tensor(math.exp(-log_snr / 2), dtype=torch.float64)
    z = (1 + sigma) * _randn(6, seed=seed)
    for schedule in (SCHEDULES["vp"], SCHEDULES["flow"], SCHEDULES["ddpm"]):
        _assert_close(_wrap(prediction, schedule)(z, sigma), ORACLE(z, sigma))


def test_vp_ve_and_flow_matching_are_one_process() -> None:
    z, sigma = _points(seed=40)
    direction = _randn(7, 6, seed=42)
    models = [
        _wrap("eps", SCHEDULES["vp"]),
        _wrap("eps", SCHEDULES["edm"]),
        _wrap("flow", SCHEDULES["flow"]),
        _wrap("v", SCHEDULES["ddpm"]),
    ]
    images = [(*f.jvp(z, sigma, direction), f.score(z, sigma)) for f in models]
    for other in images[1:]:
        for first, second in zip(images[0], other, strict=True):
            # the score divides by sigma^2 = e^-6.5: three digits fewer than the mean
            torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["eps", "edm"])
def test_works_under_every_transform(prediction: Prediction) -> None:
    z, sigma = _points(seed=50, count=3)
    model = _wrap(prediction, SCHEDULES["ddpm"])

    def energy(denoiser: NetworkDenoiser | GaussianMixture, p: Tensor, level: Tensor) -> Tensor:
        value, product = denoiser.jvp(p, level, p.detach())
        return (value * product).sum() + denoiser.moments(p, level)[1].sum()

    for argument in (0, 1):
        gradients = [
            torch.func.grad(lambda p, s, d=d: energy(d, p, s), argnums=argument)(z, sigma)
            for d in (model, ORACLE)
        ]
        _assert_close(gradients[0] * sigma[0], gradients[1] * sigma[0])
    _assert_close(
        torch.func.vmap(torch.func.jacfwd(model, argnums=1))(z, sigma),
        torch.func.vmap(torch.func.jacrev(ORACLE, argnums=1))(z, sigma),
    )


def test_chunks_change_nothing_but_the_calls() -> None:
    z, sigma = _points(seed=60, count=17)
    whole = _wrap("eps", SCHEDULES["vp"]).moments(z, sigma)
    for chunk in (1, 7, 1000):
        sizes: list[int] = []
        network = disguised(ORACLE, "eps", SCHEDULES["vp"], SIGMA_DATA)
        model = _wrap("eps", SCHEDULES["vp"], NetworkOptions(chunk=chunk))
        model.fn = lambda x, t, f=network, seen=sizes: (seen.append(len(x)), f(x, t))[1]
        assert model(z, sigma).shape == z.shape
        calls = -(-17 // chunk)
        assert (len(sizes), sum(sizes), max(sizes)) == (calls, 17, -(-17 // calls))
        for actual, expected in zip(model.moments(z, sigma), whole, strict=True):
            # matrix products of other sizes add in another order
            _assert_close(actual, expected, 1e-12)


class _Smooth(nn.Module):
    """A small smooth network with the preconditioning of EDM left to the caller."""

    def __init__(self, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(70)
        width = 64
        first = torch.randn(width, dim + 1, generator=generator, dtype=torch.float64)
        second = torch.randn(dim, width, generator=generator, dtype=torch.float64)
        self.first = nn.Parameter((first / dim**0.5).to(dtype))
        self.second = nn.Parameter((second / width**0.5).to(dtype))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        flat = torch.cat([x.flatten(1), noise.unsqueeze(-1)], -1)
        return (torch.tanh(flat @ self.first.T) @ self.second.T).reshape(x.shape)


def _smooth(dim: int = 48, dtype: torch.dtype = torch.float32) -> NetworkDenoiser:
    return from_network(
        _Smooth(dim, dtype), shape=(dim,), schedule=EDM(), prediction="edm", sigma_data=0.5
    )


def test_a_float32_network_serves_float64_geometry() -> None:
    single, double = _smooth(), _smooth(dtype=torch.float64)
    z, sigma = _randn(5, 48, seed=71), torch.logspace(-1, 1, 5, dtype=torch.float64)
    out, tangent = single.jvp(z, sigma, z)
    assert out.dtype == tangent.dtype == torch.float64
    expected, expected_tangent = double.jvp(z, sigma, z)
    # rounding of float32 over sums of 64 terms of order 1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(tangent, expected_tangent, rtol=0, atol=1e-4)
    assert double(z.float(), sigma.float()).dtype == torch.float32


def test_dtype_and_device_follow_the_network() -> None:
    module, seen = _Smooth(4), []

    def look(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype, x.device.type, t.device.type))
        return torch.zeros(x.shape)

    z, sigma = _randn(3, 4, seed=72), torch.ones(3, dtype=torch.float64)
    model = from_network(look, shape=(4,), schedule=VP(), prediction="x0", options=UNTRIED)
    assert model(z, sigma).dtype == torch.float64
    moved = replace(model, dtype=torch.float32, device="meta")(z, sigma)
    assert (moved.dtype, moved.device.type) == (torch.float64, "cpu")
    assert seen == [
        (torch.float64, torch.float64, "cpu", "cpu"),
        (torch.float32, torch.float32, "meta", "meta"),
    ]
    bound = from_network(module.forward, shape=(4,), schedule=VP(), prediction="x0")
    assert bound(z, sigma).dtype == torch.float64


def test_conditions_are_bound_and_repeated() -> None:
    seen: list[dict[str, object]] = []

    def network(x: Tensor, t: Tensor, **condition: object) -> Tensor:
        seen.append(condition)
        return x

    model = from_network(
        network,
        shape=(4,),
        schedule=VP(),
        prediction="x0",
        options=NetworkOptions(
            condition={"label": torch.tensor(3), "mode": "plain"},
            chunk=2,
            dtype=torch.float32,
            trial=False,
        ),
    )
    z = _randn(3, 4, seed=73)
    model.given({"prompt": torch.ones(5, 7, dtype=torch.float64)})(z, torch.tensor(1.0))
    assert [tuple(call["label"].shape) for call in seen] == [(2,), (1,)]  # type: ignore[attr-defined]
    prompt, label = seen[0]["prompt"], seen[0]["label"]
    assert isinstance(prompt, Tensor)
    assert isinstance(label, Tensor)
    assert (prompt.dtype, tuple(prompt.shape)) == (torch.float32, (2, 5, 7))
    assert (label.dtype, label.tolist()) == (torch.int64, [3, 3])
    assert seen[0]["mode"] == "plain"
    model(z, torch.tensor(1.0))
    assert "prompt" not in seen[-1]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.float64, 1e-6)])
@pytest.mark.parametrize("dim", [2, 48, 768])
def test_finite_differences_measure_the_jacobian(
    dtype: torch.dtype, bound: float, dim: int
) -> None:
    # one level per decade of a usual range; the error is relative to |J v|, for each point
    sigma = torch.logspace(-2, 1, 7, dtype=torch.float64).repeat_interleave(4)
    z = 0.5 * _randn(28, dim, seed=80) + sigma.unsqueeze(-1) * _randn(28, dim, seed=81)
    v = _randn(28, dim, seed=82)
    exact = _smooth(dim, torch.float64).jvp(z, sigma, v)
    model = replace(_smooth(dim, dtype), jvp_mode="finite-difference")
    measured = model.jvp(z.to(dtype), sigma.to(dtype), v.to(dtype))
    for expected, actual in zip(exact, measured, strict=True):
        error = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(error.detach().max()) <= bound


def test_finite_differences_agree_on_an_exact_mixture() -> None:
    z, sigma = _points(seed=83)
    model = replace(_wrap("x0", SCHEDULES["edm"]), jvp_mode="finite-difference")
    _, expected = ORACLE.jvp(z, sigma, z)
    _, actual = model.jvp(z, sigma, z)
    assert float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).max()) <= 1e-6
    _assert_close(model.moments(z, sigma)[1], ORACLE.moments(z, sigma)[1], 1e-5)


def test_finite_differences_cost_two_evaluations() -> None:
    z, sigma = _points(seed=84)
    model = replace(_wrap("x0", SCHEDULES["vp"]), jvp_mode="finite-difference")
    with counting() as cost:
        model.jvp(z, sigma, z)
    assert (cost.evaluations, cost.derivatives) == (14, 0)
    with counting() as cost:
        replace(model, jvp_mode="forward").jvp(z, sigma, z)
    assert (cost.evaluations, cost.derivatives) == (7, 7)


def test_finite_differences_are_linear_in_the_direction_and_take_zero() -> None:
    z, sigma = _points(seed=85)
    model = replace(_wrap("x0", SCHEDULES["vp"]), jvp_mode="finite-difference")
    v = _randn(7, 6, seed=86)
    _, once = model.jvp(z, sigma, v)
    for scale in (1e-9, -1.0, 1e9):
        # the same two points, up to the rounding of h
        _assert_close(model.jvp(z, sigma, scale * v)[1] / scale, once, 1e-9)
    value, zero = model.jvp(z, sigma, torch.zeros(6, dtype=torch.float64))
    assert float(zero.abs().max()) == 0
    _assert_close(value, ORACLE(z, sigma))
    broadcast = model.jvp(z[0], sigma, v.unsqueeze(1))[1]
    assert broadcast.shape == (7, 7, 6)


def test_finite_differences_are_differentiable() -> None:
    start, level = _points(seed=87)
    slopes = []
    model = _wrap("x0", SCHEDULES["ddpm"])
    for denoiser in (ORACLE, replace(model, jvp_mode="finite-difference")):
        leaves = [t.clone().requires_grad_() for t in (start, level, start)]
        value, product = denoiser.jvp(*leaves)
        slopes.append(torch.autograd.grad((value * product).sum(), leaves))
    for expected, actual in zip(*slopes, strict=True):
        # second differences: one more power of 1/h, with h sigma about 1e-5
        assert float((actual - expected).norm() / expected.norm()) <= 1e-5


def test_networks_without_forward_mode_are_told_what_to_do() -> None:
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * ctx.saved_tensors[0].cos()

    def network(x: Tensor, t: Tensor) -> Tensor:
        return Reverse.apply(x + t[:, None])

    given: dict[str, Any] = {"shape": (4,), "schedule": VP(), "prediction": "x0"}
    z = _randn(3, 4, seed=90, dtype=torch.float32)
    with pytest.raises(NetworkError, match="finite-difference"):
        from_network(network, **given)
    model = from_network(network, **given, options=UNTRIED)
    with pytest.raises(NetworkError, match="finite-difference"):
        model.jvp(z, torch.tensor(1.0), z)
    tangent = replace(model, jvp_mode="finite-difference").jvp(z, torch.tensor(1.0), z)[1]
    assert bool(torch.isfinite(tangent).all())


def test_defaults_come_from_the_schedule_and_sigma_data() -> None:
    model = _wrap("eps", SCHEDULES["vp"])
    assert model.log_snr_range == VP().log_snr_range
    assert model.variance == pytest.approx(SIGMA_DATA**2)
    assert model.dim == 6
    assert not model.closed_form
    narrow = from_network(
        lambda x, t: x,
        shape=(4,),
        schedule=VP(),
        prediction="x0",
        options=NetworkOptions(log_snr_range=(-3.0, 4.0), trial=False),
    )
    assert (narrow.log_snr_range, narrow.variance) == ((-3.0, 4.0), 1.0)


def test_leaving_the_schedule_names_its_range() -> None:
    model = _wrap("edm", EDM(0.01, 10.0))
    with pytest.raises(ValueError, match=r"outside .* the range of EDM"):
        model(torch.zeros(6, dtype=torch.float64), torch.tensor(20.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prediction": "noise"}, "one of x0, eps, v, score, flow, edm"),
        ({"jvp_mode": "reverse"}, "one of auto, forward, double-vjp, finite-difference"),
        ({"prediction": "edm"}, "sigma_data"),
        ({"variance": 0.0}, "variance"),
        ({"options": NetworkOptions(chunk=0)}, "at least 1"),
        ({"options": NetworkOptions(log_snr_range=(-30.0, 0.0))}, "within the schedule's"),
        ({"options": NetworkOptions(log_snr_range=(1.0, 0.0))}, "must increase"),
    ],
)
def test_wrong_options_are_refused(options: dict, words: str) -> None:
    defaults = {"shape": (4,), "schedule": VP(), "prediction": "x0"}
    with pytest.raises(ValueError, match=words):
        from_network(lambda x, t: x, **{**defaults, **options})


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (lambda x, t: torch.cat([x, x], 1), "returned shape"),
        (lambda x, t: (x, t), "returned a tuple"),
        (lambda x, t: x / 0, "not finite, at sigma in"),
        (nn.Linear(4, 4, dtype=torch.float16).forward, "ruins derivatives"),
    ],
)
def test_wrong_outputs_are_refused(fn: Callable[..., Tensor], words: str) -> None:
    model = from_network(fn, shape=(4,), schedule=VP(), prediction="x0", options=UNTRIED)
    with pytest.raises(NetworkError, match=words):
        model(torch.ones(2, 4), torch.tensor(1.0))
