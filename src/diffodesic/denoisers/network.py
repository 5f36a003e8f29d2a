r"""Networks as denoisers: any prediction, on any schedule, converted to E[x0 | z].

A network sees ``x_t = alpha x0 + sigma_t eps`` and its own time t; the core sees
``z = x_t / alpha`` and ``sigma = sigma_t / alpha``.  :mod:`diffodesic.denoisers.predictions` says
what becomes of its output, and :mod:`diffodesic.denoisers.trial` what it must be.

Jacobian products are taken in one of three ways,

    forward             dual numbers: one evaluation and one derivative
    double-vjp          J v = d/du (J^T u . v), with reverse mode only: two derivatives
    finite-difference   (m(z + h v) - m(z - h v)) / 2h: two evaluations, no derivative,

with h from ``Denoiser.displacement`` and the rounding unit of the network.  Relative error of the
last on smooth networks, D = 2 to 3072: 1e-4 to 1e-3 in float32, 1e-9 in float64.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from diffodesic.denoisers.callables import networks_of, unknown_words
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.differentiable import (
    autocast,
    differentiable,
    full_float32,
    is_differentiated,
)
from diffodesic.denoisers.jvp_modes import EXACT_MODES, JvpMode, product_is_right, tested_mode
from diffodesic.denoisers.predictions import Prediction, inputs_of
from diffodesic.denoisers.schedules import Schedule
from diffodesic.denoisers.trial import (
    FALSE_GRADIENT,
    NO_GRADIENT,
    NetworkError,
    NonFiniteError,
    Trial,
    check_output,
)
from diffodesic.numerics import checks, derivatives
from diffodesic.numerics.cost import record

__all__ = [
    "JvpMode",
    "NetworkDenoiser",
    "NetworkError",
    "NetworkOptions",
    "NonFiniteError",
    "Prediction",
    "from_network",
]

NO_ROOM = (
    "out of memory with one input per call: take smaller images, precision bfloat16, or a device "
    "with more memory"
)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How a network is called, beside what it predicts; every field has a usual value.

    Args:
        condition: further keyword arguments of the network.  Tensors describe one sample and are
            repeated over the batch, in the network's device and floating dtype; other values are
            passed as they are.
        log_snr_range: lowest and highest log SNR at which the network can be trusted; default the
            range of the schedule.
        chunk: largest number of inputs in one call; default all.  Without gradients it bounds
            memory; reverse mode keeps the graph of every chunk.
        dtype: dtype of the network; default that of its parameters, else that of ``z``.
        device: device of the network; default that of its parameters, else that of ``z``.
        autocast: dtype of evaluations where torch finds it safe (bfloat16); derivatives keep the
            network's, and finite differences take larger steps.
        integer_time: for networks that take integer times only: their output at other times is
            interpolated linearly between the two nearest, at twice the evaluations.
        trial: call the network a few times when it is wrapped (:meth:`NetworkDenoiser.trial`), so
            that what is no function of one point and one level is refused by a sentence.
    """

    condition: Mapping[str, Any] = field(default_factory=dict, repr=False)
    log_snr_range: tuple[float, float] | None = None
    chunk: int | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    autocast: torch.dtype | None = None
    integer_time: bool = False
    trial: bool = True


def from_network(
    fn: Callable[..., Tensor],
    *,
    shape: tuple[int, ...],
    schedule: Schedule,
    prediction: Prediction,
    sigma_data: float | None = None,
    mean: Tensor | float = 0.0,
    variance: float | None = None,
    jvp_mode: JvpMode = "forward",
    options: NetworkOptions | None = None,
) -> NetworkDenoiser:
    """Make a denoiser of a network and the conventions that it was trained with.

    Args:
        fn: the network, ``fn(x_t (N, *shape), t (N,), **condition) -> (N, *shape)``, with t the
            native time of ``schedule`` (``log(sigma)/4`` for ``"edm"``).  Put it in eval mode, and
            freeze its parameters, or every call keeps a graph for their gradients.
        shape: shape of one input, such as (C, H, W); D is its product.
        schedule: the process of training; for ``"edm"`` only its range of log SNR matters.
        prediction: what ``fn`` returns, a line of the table of ``predictions``.
        sigma_data: standard deviation s of EDM's preconditioning, in data units.
        mean: mean of the data, a number or (D,).
        variance: variance of one coordinate of the data; default ``sigma_data**2``, else 1.
        jvp_mode: how Jacobian products are taken, a line of the table above.  ``"auto"`` is the
            first that runs at one point and agrees there with the others, in its value and its
            gradient; the trial takes place when a product is first needed.
        options: how the network is called; see :class:`NetworkOptions`.

    Returns:
        the denoiser ``m(z, sigma)``, in the dtype and on the device of ``z``.

    Raises:
        TypeError: for what is no schedule.
        ValueError: if an argument is unknown, missing or contradicts another.
        NetworkError: if the trial finds a fault.

    Cost: one evaluation of ``fn`` per point; the trial 20 evaluations and 3 derivatives at most.
    """
    checks.of_kind(schedule, "schedule", Schedule)
    given = dict(vars(options or NetworkOptions()))
    tried = given.pop("trial")
    given["log_snr_range"] = given["log_snr_range"] or schedule.log_snr_range
    denoiser = NetworkDenoiser(
        fn,
        shape=tuple(shape),
        schedule=schedule,
        prediction=prediction,
        sigma_data=sigma_data,
        mean=mean,
        variance=variance if variance is not None else (sigma_data or 1.0) ** 2,
        jvp_mode=jvp_mode,
        **given,
    )
    if tried:
        denoiser.trial()
    return denoiser


@dataclass(eq=False)
class NetworkDenoiser(Denoiser):
    """A network seen as a posterior mean, made by :func:`from_network`.

    Attributes:
        auto_mode: the ``jvp_mode`` that ``"auto"`` stands for, once it has been tried; shared by
            all copies.  The other fields are arguments of :func:`from_network` and fields of
            :class:`NetworkOptions`.

    Raises:
        ValueError: if a field is unknown, missing or contradicts another.
    """

    learned = True
    fn: Callable[..., Tensor] = field(repr=False)
    _: KW_ONLY
    shape: tuple[int, ...]
    schedule: Schedule
    prediction: Prediction
    log_snr_range: tuple[float, float]
    sigma_data: float | None = None
    mean: Tensor | float = 0.0
    variance: float = 1.0
    jvp_mode: JvpMode = "forward"
    condition: Mapping[str, Any] = field(default_factory=dict, repr=False)
    chunk: int | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    autocast: torch.dtype | None = None
    integer_time: bool = False
    auto_mode: list[JvpMode] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        checks.of_kind(self.schedule, "schedule", Schedule)
        self.dim = math.prod(self.shape)
        for name, value, known in (
            ("prediction", self.prediction, get_args(Prediction)),
            ("jvp_mode", self.jvp_mode, get_args(JvpMode)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        if self.prediction == "edm" and not (self.sigma_data and self.sigma_data > 0):
            raise ValueError("an edm network needs sigma_data, a positive number")
        if not 0 < self.variance < math.inf:
            raise ValueError(f"variance is {self.variance}; it must be positive and finite")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1, or None")
        low, high = self.schedule.log_snr_range
        if not low - 1e-6 <= self.log_snr_range[0] < self.log_snr_range[1] <= high + 1e-6:
            raise ValueError(
                f"log_snr_range {self.log_snr_range} must increase within the schedule's "
                f"[{low:.6g}, {high:.6g}]"
            )

    def given(self, condition: Mapping[str, Any]) -> NetworkDenoiser:
        """The same network under a condition, added to those already bound.

        Args:
            condition: keyword arguments of the network, by name.

        Returns:
            the denoiser.

        Raises:
            NetworkError: for arguments that the network does not take.
        """
        if unknown := unknown_words(self.fn, condition):
            raise NetworkError(f"this network takes no {' or '.join(unknown)}; leave it out")
        return replace(self, condition={**self.condition, **condition})

    def trial(self) -> None:
        """Call the network a few times, and look whether it is a function of point and level.

        What is doubtful but may be meant, a table of times or a level that is ignored, is a
        ``RuntimeWarning``.

        Raises:
            NetworkError: for every other fault that :mod:`diffodesic.denoisers.trial` lists; the
                message says what to change.

        Cost: 20 evaluations and 3 derivatives, for a network in order.
        """
        low, high = self.log_snr_range
        middle = min(max(0.0, low), high)
        # a number of inputs other than the last axis, so that t cannot be broadcast over it
        count = min(3 if self.shape[-1] != 3 else 2, self.chunk or 3)
        z, sigma = self._noisy(torch.tensor([middle, high, low][:count], dtype=torch.float64))
        # a thousandth of an e-fold, inside the range: a twentieth of an entry of DDPM's table
        near = sigma[:1] * math.exp(5e-4 if middle - low > 0.01 else -5e-4)
        try:
            doubts = self._trial(z, sigma, near).run()
        except torch.OutOfMemoryError:
            try:
                doubts = self._trial(z[:1], sigma[:1], near).run()
            except torch.OutOfMemoryError as error:
                raise NetworkError(NO_ROOM) from error
        for doubt in doubts:
            if doubt not in (NO_GRADIENT, FALSE_GRADIENT):
                warnings.warn(doubt, RuntimeWarning, stacklevel=3)
            elif self.jvp_mode in EXACT_MODES:
                raise NetworkError(doubt)
        if self.jvp_mode in EXACT_MODES and not product_is_right(self, z[:1], sigma[:1]):
            raise NetworkError(
                f'jvp_mode="{self.jvp_mode}" gives another derivative of the network than '
                'differences of its values; give jvp_mode="auto", or "finite-difference"'
            )

    def _trial(self, z: Tensor, sigma: Tensor, near: Tensor) -> Trial:
        """The trial at points (N, D) and levels (N,), ``near`` a level close to the first."""
        x, t = (part.to(*self._place(part)) for part in self._inputs(z, sigma)[2:])
        close = self._inputs(z[:1], near)[3].to(t)
        return Trial(
            self._ask,
            networks_of(self.fn),
            x.reshape(-1, *self.shape),
            t.round().long() if self.integer_time else t,
            close - t[:1],
            tuple(self.condition),
            torch.finfo(self.autocast).eps if self.autocast else 0.0,
        )

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,); out of memory halves ``chunk`` and warns."""
        return self._in_chunks(self._convert, z, sigma)

    def _in_chunks(self, call: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """A function of rows (N, ...), called on at most ``chunk`` of them at a time."""
        while True:
            size = derivatives.piece(len(rows[0]), self.chunk)
            try:
                pieces = zip(*(part.split(size) for part in rows), strict=True)
                return torch.cat([call(*piece) for piece in pieces])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise NetworkError(NO_ROOM) from error
                self.chunk = size // 2
            warnings.warn(
                f"out of memory with {size} inputs per call: {self.chunk} from now on; set chunk "
                "(--chunk) to it to save the attempt",
                RuntimeWarning,
                stacklevel=4,
            )

    def jvp(self, z: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Denoiser.jvp`, by ``jvp_mode``; its module lists what the modes cost."""
        mode = self._tested_mode() if self.jvp_mode == "auto" else self.jvp_mode
        if mode == "finite-difference":
            return self.difference(z, sigma, v)
        if mode == "double-vjp":
            return self._double_vjp(z, sigma, v)
        try:
            return super().jvp(z, sigma, v)
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and "functorch" not in str(error):
                raise
            raise NetworkError(
                'the network does not support forward-mode derivatives; use jvp_mode="auto", or '
                '"finite-difference"'
            ) from error

    def _double_vjp(self, z: Tensor, sigma: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``(m, J v)`` by differentiating the linear map ``u -> J^T u``."""
        z, v = (t.contiguous() for t in torch.broadcast_tensors(z, v))
        value, pull = torch.func.vjp(lambda p: self(p, sigma), z)  # type: ignore[misc]
        v = v.expand_as(value)  # sigma may have widened the batch
        start = torch.zeros_like(value)
        _, push = torch.func.vjp(lambda u: pull(u)[0], start)  # type: ignore[misc]
        (tangent,) = push(v)
        count = tangent.numel() // self.dim
        record(derivatives=2 * count)
        return value, derivatives.track_vjp(tangent, count)

    def _tested_mode(self) -> JvpMode:
        """The mode that ``"auto"`` stands for, tried out once at log SNR 0 or near it."""
        if not self.auto_mode:
            level = min(max(0.0, self.log_snr_range[0]), self.log_snr_range[1])
            z, sigma = self._noisy(torch.tensor([level], dtype=torch.float64))
            modes = {mode: replace(self, jvp_mode=mode) for mode in EXACT_MODES}
            self.auto_mode.append(tested_mode(modes, z, sigma))
        return self.auto_mode[0]

    def _noisy(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, D) as noisy data of the mean and variance are at levels (N,), and sigma."""
        generator, sigma = torch.Generator().manual_seed(0), (-log_snr / 2).exp()
        noise = torch.randn(len(log_snr), self.dim, generator=generator, dtype=torch.float64)
        spread = (self.variance + sigma**2).sqrt().unsqueeze(-1)
        return torch.as_tensor(self.mean).to(noise) + spread * noise, sigma

    def rounding_unit(self, dtype: torch.dtype) -> float:
        """The coarsest rounding unit on the way through the network."""
        used = {dtype, self._dtype_and_device()[0] or dtype, self.autocast or dtype}
        return max(torch.finfo(kind).eps for kind in used)

    def _convert(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for one chunk, ``z`` (n, D) and ``sigma`` (n,)."""
        skip, gain, x, t = self._inputs(z, sigma)
        return skip * z + gain * self._call(x, t, sigma)

    def _inputs(self, z: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Skip, gain, and the network's own x (n, D) and t (n,)."""
        return inputs_of(self.prediction, self.schedule, self.sigma_data or 1.0, z, sigma)

    def _call(self, x: Tensor, t: Tensor, sigma: Tensor) -> Tensor:
        """The network on ``x`` (n, D), in the network's shape, dtype and device, and back."""
        device, dtype = self._place(x)
        inputs = x.reshape(-1, *self.shape).to(device=device, dtype=dtype)
        out = self._at(inputs, t.to(device=device, dtype=dtype))
        return self._finite(out.reshape(-1, self.dim).to(x), sigma)

    def _finite(self, out: Tensor, sigma: Tensor) -> Tensor:
        """What the network returned at levels (n,), or an error where it is not finite."""
        finite = derivatives.untransformed(torch.isfinite(out.detach()))
        if not bool(finite.all()):
            low, high = derivatives.untransformed(sigma).aminmax()
            raise NonFiniteError(
                f"fn returned {int((~finite).sum())} values that are not finite, at sigma in "
                f"[{float(low):.4g}, {float(high):.4g}]; narrow log_snr_range"
            )
        return out

    def _at(self, inputs: Tensor, time: Tensor) -> Tensor:
        """The network's answer at real times, between those that it takes where it must be."""
        if not self.integer_time:
            return check_output(self._ask(inputs, time), inputs)
        # rounding may lead beyond the ends of a table, by less than an entry
        time = time.clamp(*self.schedule.time_range)
        before, share = time.floor(), _wide(time - time.floor(), inputs)
        low, high = (
            check_output(self._ask(inputs, t.long()), inputs) for t in (before, time.ceil())
        )
        return low + share * (high - low)

    def _ask(self, inputs: Tensor, time: Tensor) -> object:
        """What ``fn`` returns for inputs (n, *shape) and times (n,), under the condition."""
        bound = self._conditions(len(inputs), inputs.dtype, inputs.device)
        # fast kernels for evaluations, others only where a derivative needs them
        derived = is_differentiated(inputs, time)
        with (
            full_float32(),
            differentiable() if derived else autocast(inputs.device, self.autocast),
        ):
            return self.fn(inputs, time, **bound)

    def _place(self, x: Tensor) -> tuple[torch.device | str, torch.dtype]:
        """Device and dtype in which the network takes ``x``."""
        dtype, device = self._dtype_and_device()
        dtype, device = dtype or x.dtype, device or x.device
        if torch.finfo(dtype).bits < 32:
            raise NetworkError(f"the network is in {dtype}, which ruins derivatives; use .float()")
        return device, dtype

    def _conditions(self, count: int, dtype: torch.dtype, device: Any) -> dict[str, Any]:
        """The bound condition, its tensors repeated ``count`` times."""
        bound = dict(self.condition)
        for name, value in bound.items():
            if isinstance(value, Tensor):
                kind = dtype if value.is_floating_point() else value.dtype
                bound[name] = value.to(device, kind).expand(count, *value.shape)
        return bound

    def _dtype_and_device(self) -> tuple[torch.dtype | None, torch.device | str | None]:
        """Dtype and device of the network; None where neither a field nor a weight says."""
        weights = (w for network in networks_of(self.fn) for w in network.parameters())
        first = next((w for w in weights if w.is_floating_point()), None)
        if first is None:
            return self.dtype, self.device
        return self.dtype or first.dtype, self.device or first.device


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) to be broadcast against (n, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
