r"""Networks as denoisers: any prediction, on any schedule, converted to E[x0 | z].

A network sees ``x_t = alpha x0 + sigma_t eps`` and its own time t; the core sees
``z = x_t / alpha`` and ``sigma = sigma_t / alpha``.  Its output f becomes ``m = skip z + gain f``:

             skip              gain                       f
    x0       0                 1                          E[x0 | x_t]
    eps      1                 -sigma                     E[eps | x_t]                (2006.11239)
    v        1/(1 + sigma^2)   -sigma/alpha/(1 + sigma^2) E[alpha eps - sigma_t x0 | x_t]
                                                                                      (2202.00512)
    score    1                 alpha sigma^2              grad log p(x_t)             (2011.13456)
    flow     1/(1 + sigma)     -sigma/(1 + sigma)         E[eps - x0 | x_t]           (2403.03206)
    edm      s^2/r^2           sigma s/r                  F(z/r, log(sigma)/4)        (2206.00364)

with r^2 = sigma^2 + s^2 and s = sigma_data.  v and flow hold for any (alpha, sigma_t); flow has
its noise at t = 1.  Time is a differentiable function of sigma, so dm/dsigma is the network's own.

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
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.differentiable import (
    autocast,
    differentiable,
    full_float32,
    is_differentiated,
)
from diffodesic.denoisers.schedules import Schedule
from diffodesic.numerics import derivatives
from diffodesic.numerics.cost import record

__all__ = [
    "JvpMode",
    "NetworkDenoiser",
    "NetworkError",
    "NetworkOptions",
    "NonFiniteError",
    "Prediction",
    "edm_preconditioning",
    "from_network",
]

Prediction = Literal["x0", "eps", "v", "score", "flow", "edm"]
JvpMode = Literal["auto", "forward", "double-vjp", "finite-difference"]
# Central differences of float32 networks are good to 1e-3; a wrong derivative is off by far more.
AGREEMENT = 0.02
_EXACT_MODES: tuple[JvpMode, ...] = ("forward", "double-vjp")
# skip and gain of the table above by (sigma, alpha); "edm" knows no alpha
_COEFFICIENTS: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "x0": lambda sigma, alpha: (torch.zeros_like(sigma), torch.ones_like(sigma)),
    "eps": lambda sigma, alpha: (torch.ones_like(sigma), -sigma),
    "v": lambda sigma, alpha: (1 / (1 + sigma**2), -sigma / alpha / (1 + sigma**2)),
    "score": lambda sigma, alpha: (torch.ones_like(sigma), alpha * sigma**2),
    "flow": lambda sigma, alpha: (1 / (1 + sigma), -sigma / (1 + sigma)),
}


class NetworkError(ValueError):
    """A network's output is no prediction; the message says what to change."""


class NonFiniteError(NetworkError, FloatingPointError):
    """A network's output is not finite; solvers end the path with a status."""


def edm_preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """EDM's preconditioning, ``m = skip z + gain F(z / scale, noise)`` (2206.00364).

    Args:
        sigma: noise levels (...).
        sigma_data: standard deviation of the data.

    Returns:
        skip, gain, scale and noise, (...) each.
    """
    total = sigma**2 + sigma_data**2
    scale = total.sqrt()
    return sigma_data**2 / total, sigma * sigma_data / scale, scale, sigma.log() / 4


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
    """

    condition: Mapping[str, Any] = field(default_factory=dict, repr=False)
    log_snr_range: tuple[float, float] | None = None
    chunk: int | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    autocast: torch.dtype | None = None


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
        prediction: what ``fn`` returns, a line of the table above.
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
        ValueError: if an argument is unknown, missing or contradicts another.

    Cost: one evaluation of ``fn`` per point.
    """
    options = options or NetworkOptions()
    return NetworkDenoiser(
        fn,
        shape=tuple(shape),
        schedule=schedule,
        prediction=prediction,
        sigma_data=sigma_data,
        mean=mean,
        variance=variance if variance is not None else (sigma_data or 1.0) ** 2,
        jvp_mode=jvp_mode,
        **{**vars(options), "log_snr_range": options.log_snr_range or schedule.log_snr_range},
    )


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
    auto_mode: list[JvpMode] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
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
        """The same network under a condition, added to those already bound."""
        return replace(self, condition={**self.condition, **condition})

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for ``z`` (N, D), ``sigma`` (N,); out of memory halves ``chunk`` and warns."""
        while True:
            size = derivatives.piece(len(z), self.chunk)
            try:
                pieces = zip(z.split(size), sigma.split(size), strict=True)
                return torch.cat([self._convert(points, level) for points, level in pieces])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise NetworkError(
                        "out of memory with one input per call: take smaller images, precision "
                        "bfloat16, or a device with more memory"
                    ) from error
                self.chunk = size // 2
            warnings.warn(
                f"out of memory with {size} inputs per call: {self.chunk} from now on; set chunk "
                "(--chunk) to it to save the attempt",
                RuntimeWarning,
                stacklevel=3,
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
        if self.auto_mode:
            return self.auto_mode[0]
        generator = torch.Generator().manual_seed(0)
        noise, *vectors = torch.randn(4, 1, self.dim, generator=generator, dtype=torch.float64)
        level = min(max(0.0, self.log_snr_range[0]), self.log_snr_range[1])
        sigma = torch.tensor(math.exp(-level / 2), dtype=torch.float64)
        z = torch.as_tensor(self.mean).to(noise) + (self.variance + sigma**2).sqrt() * noise
        with torch.no_grad():
            expected = self.difference(z, sigma, vectors[0])[1]
        forward, double = (self._tried(mode, z, sigma, vectors, expected) for mode in _EXACT_MODES)
        # reverse mode through forward mode is silently wrong for some of torch's operations
        if forward is not None and (double is None or _near(forward, double)):
            self.auto_mode.append("forward")
        else:
            self.auto_mode.append("finite-difference" if double is None else "double-vjp")
        return self.auto_mode[0]

    def _tried(
        self, mode: JvpMode, z: Tensor, sigma: Tensor, vectors: list[Tensor], expected: Tensor
    ) -> Tensor | None:
        """Gradient through a mode, or None where it does not run or gives another product."""
        trial, (v, left, right) = replace(self, jvp_mode=mode), vectors

        def both(point: Tensor) -> tuple[Tensor, Tensor]:
            value, tangent = trial.jvp(point, sigma, v)
            return (left * value + right * tangent).sum(), tangent

        try:
            # not autograd.grad, which does not work where a derivative is being taken already
            slope, tangent = torch.func.grad(both, has_aux=True)(z)
        except (NonFiniteError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, NetworkError):  # as networks say that they cannot
            return None
        return slope if _near(tangent, expected) else None

    def rounding_unit(self, dtype: torch.dtype) -> float:
        """The coarsest rounding unit on the way through the network."""
        used = {dtype, self._dtype_and_device()[0] or dtype, self.autocast or dtype}
        return max(torch.finfo(kind).eps for kind in used)

    def _convert(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for one chunk, ``z`` (n, D) and ``sigma`` (n,)."""
        log_snr = -2 * torch.log(sigma)
        # the schedule refuses levels outside its range, for "edm" too
        t, level = self.schedule.time(log_snr), sigma.unsqueeze(-1)
        if self.prediction == "edm":
            skip, gain, scale, noise = edm_preconditioning(level, self.sigma_data or 1.0)
            x, t = z / scale, noise.squeeze(-1)
        else:
            alpha = self.schedule.alpha(log_snr).unsqueeze(-1)
            skip, gain = _COEFFICIENTS[self.prediction](level, alpha)
            x = alpha * z
        return skip * z + gain * self._call(x, t, sigma)

    def _call(self, x: Tensor, t: Tensor, sigma: Tensor) -> Tensor:
        """The network on ``x`` (n, D), in the network's shape, dtype and device, and back."""
        dtype, device = self._dtype_and_device()
        dtype, device = dtype or x.dtype, device or x.device
        if torch.finfo(dtype).bits < 32:
            raise NetworkError(f"the network is in {dtype}, which ruins derivatives; use .float()")
        inputs = x.reshape(-1, *self.shape).to(device=device, dtype=dtype)
        time, bound = t.to(device=device, dtype=dtype), self._conditions(len(x), dtype, device)
        # fast kernels for evaluations, others only where a derivative needs them
        derived = is_differentiated(inputs, time)
        with (
            full_float32(),
            differentiable() if derived else autocast(inputs.device, self.autocast),
        ):
            out = self.fn(inputs, time, **bound)
        if not isinstance(out, Tensor):
            raise NetworkError(
                f"fn returned a {type(out).__name__}; it must return the tensor inside"
            )
        if out.shape != inputs.shape:
            raise NetworkError(
                f"fn returned shape {tuple(out.shape)} for {tuple(inputs.shape)}; correct shape, "
                "or return the part of the output that is the prediction"
            )
        finite = derivatives.untransformed(torch.isfinite(out.detach()))
        if not bool(finite.all()):
            low, high = derivatives.untransformed(sigma).aminmax()
            raise NonFiniteError(
                f"fn returned {int((~finite).sum())} values that are not finite, at sigma in "
                f"[{float(low):.4g}, {float(high):.4g}]; narrow log_snr_range"
            )
        return out.reshape(-1, self.dim).to(x)

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
        owner = self.fn if isinstance(self.fn, nn.Module) else getattr(self.fn, "__self__", None)
        weights = owner.parameters() if isinstance(owner, nn.Module) else ()
        first = next((w for w in weights if w.is_floating_point()), None)
        if first is None:
            return self.dtype, self.device
        return self.dtype or first.dtype, self.device or first.device


def _near(derivative: Tensor, expected: Tensor) -> bool:
    """Tell whether two derivatives agree; NaN agrees with nothing."""
    error, size = (torch.linalg.vector_norm(t) for t in (derivative - expected, expected))
    return bool(error <= AGREEMENT * size)
