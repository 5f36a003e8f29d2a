"""Schedules: round trips, derivatives, independent formulas, and errors that name the range."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffodesic.denoisers.schedules import (
    EDM,
    VP,
    Cosine,
    FlowMatching,
    LinearLogSNR,
    Schedule,
    Tabulated,
)
from diffodesic.numerics.derivatives import jvp

# forward mode compiles some of torch's own formulas when it is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


def _exploding_table() -> Tabulated:
    """A process that keeps no variance: alpha falls and sigma_t grows past 1."""
    t = torch.linspace(0, 1, 30, dtype=torch.float64)
    return Tabulated(alpha=1 - 0.9 * t**2, sigma=0.01 + 1.5 * t)


SCHEDULES: dict[str, Schedule] = {
    "vp": VP(),
    "linear-log-snr": LinearLogSNR(10.0, -10.0),
    "cosine": Cosine(),
    "cosine-plain": Cosine(offset=0.0),
    "flow": FlowMatching(),
    "flow-shifted": FlowMatching(shift=3.0),
    "edm": EDM(0.002, 80.0),
    "ddpm": Tabulated.ddpm_linear(),
    "stable-diffusion": Tabulated.scaled_linear(),
    "table": _exploding_table(),
}
CASES = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def _inside(bounds: tuple[float, float], count: int, seed: int = 0) -> Tensor:
    """Random points strictly inside an interval: off the knots of a table, away from its ends."""
    generator = torch.Generator().manual_seed(seed)
    part = 0.02 + 0.96 * torch.rand(count, generator=generator, dtype=torch.float64)
    return bounds[0] + (bounds[1] - bounds[0]) * part


@CASES
@settings(max_examples=30, deadline=None)
@given(part=st.floats(0, 1))
def test_round_trips_to_rounding(schedule: Schedule, part: float) -> None:
    low, high = schedule.time_range
    t = torch.tensor(low + (high - low) * part, dtype=torch.float64)
    assert abs(schedule.time(schedule.log_snr(t)) - t) <= 1e-10 * high
    low, high = schedule.log_snr_range
    log_snr = torch.tensor(low + (high - low) * part, dtype=torch.float64)
    assert abs(schedule.log_snr(schedule.time(log_snr)) - log_snr) <= 1e-10


@CASES
def test_float32_round_trip_is_as_good_as_the_conditioning_allows(schedule: Schedule) -> None:
    low, high = schedule.log_snr_range
    log_snr = torch.linspace(low, high, 501)
    t = schedule.time(log_snr)
    back = schedule.log_snr(t)
    assert t.dtype == back.dtype == torch.float32
    # one rounding of t moves lam by eps |t dlam/dt|; a handful of operations, each one rounding
    leaf = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(schedule.log_snr(leaf).sum(), leaf)
    unit = torch.finfo(torch.float32).eps
    largest = max(abs(schedule.time_range[0]), schedule.time_range[1])
    rounding = 8 * unit * (1 + log_snr.abs() + (slope * torch.clamp(t, max=largest)).abs())
    assert bool(((back - log_snr).abs() <= rounding).all())


@CASES
def test_falls_strictly_and_spans_its_range(schedule: Schedule) -> None:
    t = torch.linspace(*schedule.time_range, 4001, dtype=torch.float64)
    log_snr = schedule.log_snr(t)
    assert bool((log_snr.diff() < 0).all())
    assert (float(log_snr[-1]), float(log_snr[0])) == pytest.approx(
        schedule.log_snr_range, rel=1e-12
    )


@CASES
def test_alpha_sigma_and_log_snr_say_the_same(schedule: Schedule) -> None:
    t = _inside(schedule.time_range, 50)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(2 * torch.log(alpha / sigma), schedule.log_snr(t), rtol=1e-12,
                               atol=1e-12)  # fmt: skip
    torch.testing.assert_close(schedule.sigma(t), sigma / alpha, rtol=1e-12, atol=0)


@CASES
def test_derivatives_agree_with_finite_differences(schedule: Schedule) -> None:
    # gradcheck's step of 1e-7 is meant for unit scale: map the ranges to [0, 1], so that it fits
    # a thousand steps of DDPM and the fractions of a flow alike. Its own error is about 1e-9 of
    # the values plus 1e-14 of the third derivatives; for second derivatives, once more that.
    generator = torch.Generator().manual_seed(1)
    unit = (0.1 + 0.8 * torch.rand(6, generator=generator, dtype=torch.float64)).requires_grad_()
    for function, (low, high) in (
        (schedule.log_snr, schedule.time_range),
        (schedule.time, schedule.log_snr_range),
        (lambda t: schedule.alpha_sigma(t)[1], schedule.time_range),
    ):

        def scaled(u: Tensor, function=function, low=low, high=high) -> Tensor:
            return function(low + (high - low) * u)

        assert torch.autograd.gradcheck(
            scaled, (unit,), eps=1e-7, atol=1e-4, rtol=1e-5, check_forward_ad=True
        )
        assert torch.autograd.gradgradcheck(scaled, (unit,), eps=1e-7, atol=1e-4, rtol=1e-5)


@CASES
def test_derivatives_are_inverse_to_each_other(schedule: Schedule) -> None:
    t = _inside(schedule.time_range, 40, seed=2)
    one = torch.ones_like(t)
    log_snr, forward = jvp(schedule.log_snr, (t,), (one,))
    _, backward = jvp(schedule.time, (log_snr.detach(),), (one,))
    torch.testing.assert_close(forward * backward, one, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["vp", "linear-log-snr", "cosine", "ddpm", "stable-diffusion"])
def test_variance_is_preserved(name: str) -> None:
    alpha, sigma = SCHEDULES[name].alpha_sigma(_inside(SCHEDULES[name].time_range, 50))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=1e-13, atol=0)


def test_vp_integrates_its_rate() -> None:
    schedule, t = VP(0.2, 11.0), torch.tensor(0.37, dtype=torch.float64)
    grid = torch.linspace(0, 0.37, 3, dtype=torch.float64)  # the trapezoid is exact: beta is linear
    integral = torch.trapezoid(0.2 + 10.8 * grid, grid)
    assert float(schedule.alpha_sigma(t)[0]) == pytest.approx(math.exp(-float(integral) / 2), 1e-14)


def test_linear_log_snr_is_the_toy_of_the_spacetime_paper() -> None:
    t = torch.tensor([0.1, 0.35, 1.0], dtype=torch.float64)
    torch.testing.assert_close(LinearLogSNR(10.0, -10.0).log_snr(t), 10 - 20 * t)


def test_cosine_is_nichol_and_dhariwal() -> None:
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    expected = f / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(Cosine().alpha_sigma(t)[0] ** 2, expected, rtol=1e-12, atol=0)
    plain = Cosine(offset=0.0).log_snr(t)
    torch.testing.assert_close(plain, -2 * torch.log(torch.tan(math.pi / 2 * t)))


def test_flow_matching_shifts_its_time() -> None:
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    alpha, sigma = FlowMatching().alpha_sigma(t)
    torch.testing.assert_close(alpha, 1 - t, rtol=1e-13, atol=0)
    torch.testing.assert_close(sigma, t, rtol=1e-13, atol=0)
    shifted = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(FlowMatching(shift=3.0).alpha_sigma(t)[1], shifted)


def test_edm_time_is_sigma() -> None:
    t = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    alpha, sigma = EDM().alpha_sigma(t)
    torch.testing.assert_close(alpha, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(sigma, t)


def test_tables_hold_the_published_numbers() -> None:
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    expected = torch.exp(torch.log1p(-beta).cumsum(0))
    steps = torch.arange(1000)
    alpha, _ = Tabulated.ddpm_linear().alpha_sigma(steps)
    torch.testing.assert_close(alpha**2, expected, rtol=1e-11, atol=0)
    assert float(alpha[400] ** 2) == pytest.approx(0.194, abs=5e-4)
    last = Tabulated.scaled_linear().alpha_sigma(999)[0] ** 2
    assert float(last) == pytest.approx(0.00466, abs=5e-6)  # as distributed with the model


def test_a_general_table_keeps_both_its_columns() -> None:
    t = torch.linspace(0, 1, 30, dtype=torch.float64)
    alpha, sigma = _exploding_table().alpha_sigma(torch.arange(30))
    torch.testing.assert_close(alpha, 1 - 0.9 * t**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma, 0.01 + 1.5 * t, rtol=1e-12, atol=0)


def test_a_table_is_once_differentiable_at_its_knots() -> None:
    schedule = Tabulated.ddpm_linear()
    knots = schedule.log_snr(torch.tensor([1.0, 2.0, 40.0, 700.0], dtype=torch.float64))
    one = torch.ones_like(knots)
    left = jvp(schedule.time, (knots - 1e-9,), (one,))[1]
    right = jvp(schedule.time, (knots + 1e-9,), (one,))[1]
    # the slope itself moves by 1e-9 times the curvature, at most 1e3 here
    torch.testing.assert_close(left, right, rtol=1e-5, atol=0)


def test_a_table_between_its_times_follows_the_smooth_process_it_samples() -> None:
    smooth, t = VP(0.1, 20.0), torch.linspace(0.05, 0.95, 91, dtype=torch.float64)
    sample = torch.linspace(0.04, 0.96, 185, dtype=torch.float64)
    table = Tabulated(smooth.alpha_sigma(sample)[0] ** 2)
    measured = 0.04 + 0.92 * table.time(smooth.log_snr(t)) / 184
    # third-order interpolation: (spacing 5e-3)^3 times a third derivative of order 1
    assert float((measured - t).abs().max()) <= 1e-6


@CASES
@pytest.mark.parametrize("side", [0, 1])
def test_leaving_the_range_names_the_range(schedule: Schedule, side: int) -> None:
    name = type(schedule).__name__
    for function, bounds, word in (
        (schedule.log_snr, schedule.time_range, "native time"),
        (schedule.alpha_sigma, schedule.time_range, "native time"),
        (schedule.time, schedule.log_snr_range, "log SNR"),
    ):
        value = bounds[side] + (2 * side - 1) * 0.01 * (bounds[1] - bounds[0])
        with pytest.raises(ValueError, match=rf"{word} .* outside \[.*\], the range of {name}"):
            function(torch.tensor([sum(bounds) / 2, value], dtype=torch.float64))
        with pytest.raises(ValueError, match="nan is outside"):
            function(math.nan)


def test_ranges_are_checked_inside_transforms() -> None:
    t = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    schedule = Tabulated.ddpm_linear()
    log_snr = schedule.log_snr(999 * t)
    slopes = torch.func.vmap(torch.func.grad(schedule.time))(log_snr)
    torch.testing.assert_close(torch.func.jacfwd(schedule.time)(log_snr), torch.diag(slopes))
    with pytest.raises(ValueError, match="range of Tabulated"):
        torch.func.vmap(schedule.time)(log_snr + 30)


def test_numbers_and_integers_are_taken_in_float64() -> None:
    assert VP().log_snr(0.5).dtype == torch.float64
    assert Tabulated.ddpm_linear().sigma(torch.arange(3)).dtype == torch.float64
    assert VP().time(torch.zeros(2, dtype=torch.float32)).dtype == torch.float32


def test_schedules_are_values() -> None:
    assert VP() == VP(0.1, 20.0)
    assert VP() != VP(0.1, 10.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        VP().beta_min = 1.0  # type: ignore[misc]
    table = torch.linspace(0.9, 0.1, 5, dtype=torch.float64)
    schedule = Tabulated(table)
    table[2] = 0.0
    assert float(schedule.alpha_sigma(2)[0] ** 2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: VP(2.0, 1.0), "beta_min < beta_max"),
        (lambda: VP(time_range=(0.0, 1.0)), "finite log SNR"),
        (lambda: LinearLogSNR(-1.0, 1.0), "start"),
        (lambda: Cosine(offset=-1.0), "offset"),
        (lambda: Cosine(time_range=(0.0, 1.0)), "finite log SNR"),
        (lambda: FlowMatching(shift=0.0), "shift"),
        (lambda: FlowMatching(time_range=(0.5, 0.2)), "must increase"),
        (lambda: EDM(1.0, 0.5), "sigma_min < sigma_max"),
        (lambda: Tabulated(), "either alphas_cumprod"),
        (lambda: Tabulated(torch.tensor([0.9, 0.5]), sigma=torch.ones(2)), "either alphas"),
        (lambda: Tabulated(torch.tensor([0.9, 0.0])), "without signal"),
        (lambda: Tabulated(torch.tensor([0.1, 0.9])), "reverse it"),
        (lambda: Tabulated(torch.tensor(0.5)), r"\(T,\)"),
    ],
)
def test_wrong_constants_are_refused(build, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()
