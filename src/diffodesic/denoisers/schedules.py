r"""Noise schedules: native time t <-> (alpha, sigma_t) <-> log SNR, differentiable both ways.

A Gaussian process ``x_t = alpha x0 + sigma_t eps`` is the core process ``z = x0 + sigma eps`` seen
at another scale,

    z = x_t / alpha,    sigma = sigma_t / alpha,    lam = log SNR = -2 log sigma.

A schedule is then two monotone maps and a scale: lam(t), its inverse t(lam), and alpha(lam)::

    VP            lam = -log(exp B - 1),  B = beta_min t + (beta_max - beta_min) t^2/2 (2011.13456)
    LinearLogSNR  lam = start + (end - start) t                                        (2107.00630)
    Cosine        alpha = cos a / cos b,  a = (t + s)/(1 + s) pi/2,  b = a(t = 0)      (2102.09672)
                  lam = 2 log cos a - log sin(a - b) - log sin(a + b)
    FlowMatching  sigma = shift t / (1 - t),  alpha = 1/(1 + sigma)        (2210.02747, 2403.03206)
    EDM           alpha = 1,  t = sigma                                                (2206.00364)
    Tabulated     lam at t = 0 .. T-1 (2006.11239), t(lam) a monotone C1 cubic between them

The first three and tables of ``alphas_cumprod`` are variance preserving: alpha^2 = sigmoid(lam).
The formulas are written so that nothing cancels: a round trip costs a few units of rounding.  They
are differentiable, so that a derivative in sigma reaches the network's time; looking up a table
would make it zero.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from diffodesic.numerics.derivatives import untransformed
from diffodesic.numerics.monotone_cubic import MonotoneCubic

__all__ = [
    "EDM",
    "VP",
    "Cosine",
    "FlowMatching",
    "LinearLogSNR",
    "Schedule",
    "Tabulated",
]


def _real(value: Tensor | float) -> Tensor:
    """A floating tensor: floating tensors as they are, numbers and integers in float64."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value
    return torch.as_tensor(value, dtype=torch.float64)


class Schedule(ABC):
    """A noise schedule: log SNR falls strictly as the native time grows.

    Numbers and integer tensors are taken in float64; floating tensors keep dtype and device.
    ``time_range`` is the lowest and the highest native time.
    """

    time_range: tuple[float, float]

    @cached_property
    def log_snr_range(self) -> tuple[float, float]:
        """Lowest and highest log SNR."""
        low, high = self.time_range
        ends = self._log_snr(torch.tensor([high, low], dtype=torch.float64))
        return float(ends[0]), float(ends[1])

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Log SNR at native times (...) within ``time_range``, strictly falling."""
        t = _real(t)
        if problem := self._outside(t, self.time_range, "native time"):
            raise ValueError(problem)
        return self._log_snr(t)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """Native time at log SNRs (...) within ``log_snr_range``, the inverse of `log_snr`."""
        log_snr = _real(log_snr)
        if problem := self._outside(log_snr, self.log_snr_range, "log SNR"):
            raise ValueError(problem)
        return self._time(log_snr)

    def alpha(self, log_snr: Tensor | float) -> Tensor:
        """Signal scale ``alpha`` at a log SNR (...); ``sigma_t = alpha exp(-lam/2)``."""
        return self._alpha(_real(log_snr))

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Coefficients ``(alpha, sigma_t)`` of ``x_t = alpha x0 + sigma_t eps`` at times (...)."""
        log_snr = self.log_snr(t)
        alpha = self._alpha(log_snr)
        return alpha, alpha * torch.exp(-log_snr / 2)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level of the core process, ``sigma_t / alpha``, at native times (...)."""
        return torch.exp(-self.log_snr(t) / 2)

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor: ...

    def _alpha(self, log_snr: Tensor) -> Tensor:
        """``alpha`` of a variance-preserving process; other processes override it."""
        return torch.exp(F.logsigmoid(log_snr) / 2)

    def _outside(self, value: Tensor, bounds: tuple[float, float], name: str) -> str:
        """A sentence if a value leaves ``bounds`` by more than float32 rounding, or nothing."""
        low, high = bounds
        slack, plain = 1e-7 * (high - low), untransformed(value)
        inside = plain >= low - slack - 1e-6 * abs(low)
        inside &= plain <= high + slack + 1e-6 * abs(high)
        if bool(inside.all()):
            return ""
        first = float(plain[~inside].flatten()[0])
        return (
            f"{name} {first:.6g} is outside [{low:.6g}, {high:.6g}], the range of "
            f"{type(self).__name__}; keep the noise inside it"
        )


def _check_times(time_range: tuple[float, float], low: float, high: float) -> None:
    if not low <= time_range[0] < time_range[1] <= high:
        raise ValueError(
            f"time_range is {time_range}; it must increase within [{low:g}, {high:g}] "
            "and leave out times without a finite log SNR"
        )


@dataclass(frozen=True)
class VP(Schedule):
    """Variance-preserving diffusion with a linear rate beta(t), continuous in t (2011.13456).

    Args:
        beta_min: rate at t = 0, positive.
        beta_max: rate at t = 1, above ``beta_min``.
        time_range: usable times, within (0, 1].

    Raises:
        ValueError: if the rates or the times are out of order.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    time_range: tuple[float, float] = (1e-5, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"need 0 < beta_min < beta_max: {self.beta_min}, {self.beta_max}")
        _check_times(self.time_range, 1e-12, 1.0)

    def _log_snr(self, t: Tensor) -> Tensor:
        total = t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2)
        return -total - torch.log(-torch.expm1(-total))

    def _time(self, log_snr: Tensor) -> Tensor:
        total = -F.logsigmoid(log_snr)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * total)
        return 2 * total / (self.beta_min + root)


@dataclass(frozen=True)
class LinearLogSNR(Schedule):
    """Variance-preserving diffusion whose log SNR is linear in t in [0, 1] (2107.00630).

    Args:
        start: log SNR at t = 0.
        end: log SNR at t = 1, below ``start``.

    Raises:
        ValueError: if ``end`` is not below ``start``.
    """

    start: float = 10.0
    end: float = -10.0
    time_range: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def __post_init__(self) -> None:
        if not -math.inf < self.end < self.start < math.inf:
            raise ValueError(f"start = {self.start} must be above end = {self.end}, both finite")

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * t

    def _time(self, log_snr: Tensor) -> Tensor:
        return (log_snr - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Variance-preserving cosine schedule, continuous in t in (0, 1) (2102.09672).

    Args:
        offset: s of Nichol and Dhariwal; 0 gives ``lam = -2 log tan(pi t/2)`` (2301.11093).
        time_range: usable times; the log SNR is infinite at 1, and at 0.

    Raises:
        ValueError: if the offset is negative or the times are out of order.
    """

    offset: float = 0.008
    time_range: tuple[float, float] = (1e-4, 1.0 - 1e-4)

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset = {self.offset} must not be negative; the paper has 0.008")
        _check_times(self.time_range, 1e-12, 1.0 - 1e-12)

    def _log_snr(self, t: Tensor) -> Tensor:
        rate, first = self._angle()
        cosine = torch.sin(rate * (1 - t))  # cos a, exact near t = 1
        product = torch.sin(rate * t) * torch.sin(rate * t + 2 * first)
        return 2 * torch.log(cosine) - torch.log(product)

    def _time(self, log_snr: Tensor) -> Tensor:
        rate, first = self._angle()
        signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        sine = torch.sqrt(noise + math.sin(first) ** 2 * signal)
        cosine = math.cos(first) * torch.sqrt(signal)
        return (torch.atan2(sine, cosine) - first) / rate

    def _angle(self) -> tuple[float, float]:
        """Angle per unit of time, and angle at t = 0."""
        rate = math.pi / 2 / (1 + self.offset)
        return rate, rate * self.offset


@dataclass(frozen=True)
class FlowMatching(Schedule):
    """Linear interpolation ``x_t = (1 - t) x0 + t eps``, rectified flow (2210.02747, 2403.03206).

    Args:
        shift: where a network counts time u before the shift ``t = shift u/(1 + (shift - 1) u)``
            of the sampler, that shift; where it is given the shifted time itself, 1.
        time_range: usable native times; the log SNR is infinite at 0 and 1.

    Raises:
        ValueError: if the shift is not positive or the times are out of order.
    """

    shift: float = 1.0
    time_range: tuple[float, float] = (1e-4, 1.0 - 1e-4)

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift = {self.shift} must be a positive number")
        _check_times(self.time_range, 1e-12, 1.0 - 1e-12)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t) - math.log(self.shift))

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2 - math.log(self.shift))

    def _alpha(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr / 2)


@dataclass(frozen=True)
class EDM(Schedule):
    """Variance-exploding diffusion whose native time is the noise level itself (2206.00364).

    Args:
        sigma_min: lowest noise level, in data units.
        sigma_max: highest noise level, in data units.

    Raises:
        ValueError: if the levels are out of order, or their squares no numbers of float32.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    time_range: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        if not 1e-18 <= self.sigma_min < self.sigma_max <= 1e18:
            raise ValueError(
                "need sigma_min < sigma_max, both between 1e-18 and 1e18: "
                f"{self.sigma_min}, {self.sigma_max}"
            )
        object.__setattr__(self, "time_range", (self.sigma_min, self.sigma_max))

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2)

    def _alpha(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)


class Tabulated(Schedule):
    """A table of noise levels at the discrete times 0 .. T-1, continuous between them.

    Time is a monotone C1 piecewise cubic of log SNR, through the table; its inverse is exact, and
    differentiable to third order.

    Args:
        alphas_cumprod: alpha^2 of a variance-preserving process, (T,), falling within (0, 1).
        alpha: signal scale (T,), with ``sigma`` and in place of ``alphas_cumprod``.
        sigma: noise scale sigma_t (T,).

    Raises:
        ValueError: if not one table is given, or its log SNR is infinite or not falling.
    """

    def __init__(
        self,
        alphas_cumprod: Tensor | None = None,
        *,
        alpha: Tensor | None = None,
        sigma: Tensor | None = None,
    ) -> None:
        log_scale = None
        if alpha is not None and sigma is not None and alphas_cumprod is None:
            a, s = alpha.detach().to(torch.float64), sigma.detach().to(torch.float64)
            log_snr, log_scale = 2 * (a.log() - s.log()), torch.log(a**2 + s**2) / 2
        elif alphas_cumprod is not None and alpha is None and sigma is None:
            log_snr = torch.logit(alphas_cumprod.detach().to(torch.float64))
        else:
            raise ValueError("give either alphas_cumprod alone, or both alpha and sigma")
        if log_snr.ndim != 1 or len(log_snr) < 2 or not bool(torch.isfinite(log_snr).all()):
            raise ValueError(
                "a table must be (T,), T >= 2, with a finite log SNR at every time; "
                "leave out entries without noise or without signal"
            )
        if not bool((log_snr.diff() < 0).all()):
            raise ValueError(
                "the log SNR of a table must fall strictly with time; reverse it, or "
                "leave out repeated entries"
            )
        last = len(log_snr) - 1
        self.time_range = (0.0, float(last))
        knots = log_snr.flip(0)
        self._times = MonotoneCubic(knots, torch.arange(last, -1.0, -1.0, dtype=torch.float64))
        self._log_scale = None if log_scale is None else MonotoneCubic(knots, log_scale.flip(0))

    @classmethod
    def ddpm_linear(cls, steps: int = 1000, *, start: float = 1e-4, end: float = 0.02) -> Tabulated:
        """DDPM's table (2006.11239): beta linear in time, from ``start`` to ``end``."""
        beta = torch.linspace(start, end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - beta, 0))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, *, start: float = 0.00085, end: float = 0.012
    ) -> Tabulated:
        """Stable Diffusion's table (2112.10752): sqrt(beta) linear in time."""
        beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - beta, 0))

    def _log_snr(self, t: Tensor) -> Tensor:
        # The knots run from high noise to low: time T-1 is the first.
        return self._times.inverse(t, (self.time_range[1] - t.detach()).floor().long())

    def _time(self, log_snr: Tensor) -> Tensor:
        return self._times(log_snr)

    def _alpha(self, log_snr: Tensor) -> Tensor:
        alpha = super()._alpha(log_snr)
        return alpha if self._log_scale is None else alpha * torch.exp(self._log_scale(log_snr))
