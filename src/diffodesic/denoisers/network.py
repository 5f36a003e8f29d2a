r"""Foreign networks at the door: any prediction, on any schedule, becomes a `Denoiser`.

A network sees ``x_t = alpha x0 + sigma_t eps`` and its own time t; the core sees
``z = x_t / alpha`` and ``sigma = sigma_t / alpha``.  Its output f is converted by

    x0      m = f
    eps     m = z - sigma f                          f = E[eps | x_t]                (2006.11239)
    v       m = (z - (sigma/alpha) f)/(1 + sigma^2)  f = E[alpha eps - sigma_t x0]   (2202.00512)
    score   m = z + alpha sigma^2 f                  f = grad log p(x_t)             (2011.13456)
    flow    m = (z - sigma f)/(1 + sigma)            f = E[eps - x0], noise at t = 1 (2403.03206)
    edm     m = c_skip z + c_out f,  f = F(c_in z, log(sigma)/4)                     (2206.00364)

    c_skip = s^2/(sigma^2 + s^2),  c_out = sigma s/sqrt(sigma^2 + s^2),
    c_in = 1/sqrt(sigma^2 + s^2),  s = sigma_data.

v and flow are written for any (alpha, sigma_t); on a variance-preserving schedule v is
``alpha x_t - sigma_t f``, on linear interpolation flow is ``x_t - t f``, as published.  Time is a
differentiable function of sigma, so dm/dsigma is the network's own.

Jacobian products are taken in one of three ways,

    forward             dual numbers: one pass of about twice the work
    double-vjp          J v = d/du (J^T u . v), for networks that know reverse mode only
    finite-difference   (m(z + h v) - m(z - h v)) / 2h, from evaluations only,

with h from ``Denoiser.displacement`` and the rounding unit of the network.  Relative error of the
last on smooth networks, D = 2 to 3072: 1e-4 to 1e-3 in float32, 1e-9 in float64.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.differentiable import differentiable, differentiated, quick, whole_floats
from diffodesic.denoisers.schedules import Schedule
from diffodesic.numerics import derivatives
from diffodesic.numerics.cost import record

__all__ = [
    "JvpMode",
    "NetworkDenoiser",
    "NetworkError",
    "NonFiniteError",
    "Prediction",
    "from_network",
]

Prediction = Literal["x0", "eps", "v", "score", "flow", "edm"]
JvpMode = Literal["auto", "forward", "double-vjp", "finite-difference"]
# Central differences of float32 networks are good to 1e-3; a wrong derivative is off by far more.
AGREEMENT = 0.02
_EXACT_MODES: tuple[JvpMode, ...] = ("forward", "double-vjp")


class NetworkError(ValueError):
    """A foreign network gave something that is no prediction; the message says what to change."""


class NonFiniteError(NetworkError, FloatingPointError):
    """A network's output is not finite; solvers end the paths concerned with a status."""


def from_network(
    fn: Callable[..., Tensor],
    *,
    shape: tuple[int, ...],
    schedule: Schedule,
    prediction: Prediction,
    sigma_data: float | None = None,
    mean: Tensor | float = 0.0,
    variance: float | None = None,
    log_snr_range: tuple[float, float] | None = None,
    condition: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    jvp_mode: JvpMode = "forward",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
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
        log_snr_range: levels where the network is trusted; default those of the schedule.
        condition: keyword arguments of ``fn``.  Tensors describe one sample and are repeated over
            the batch, in the network's device and floating dtype; the rest is passed as it is.
        chunk: at most so many inputs in one call of ``fn``; default all.  Without gradients it
            bounds memory; reverse mode keeps the graph of every chunk.
        jvp_mode: how Jacobian products are taken, a line of the table above; ``"auto"`` is the
            first of them that runs and agrees with the others at one point, itself and its
            gradient, found out when it is first needed.
        dtype: dtype of the network; default that of its parameters, else that of ``z``.
        device: device of the network; default that of its parameters, else that of ``z``.
        autocast: run evaluations, not derivatives, in this dtype where torch can (bfloat16);
            finite differences take larger steps then.

    Returns:
        the denoiser ``m(z, sigma)``, in the dtype and on the device of ``z``.

    Cost: one evaluation of ``fn`` per point.
    """
    return NetworkDenoiser(
        fn,
        shape=tuple(shape),
        schedule=schedule,
        prediction=prediction,
        sigma_data=sigma_data,
        mean=mean,
        variance=variance if variance is not None else (sigma_data or 1.0) ** 2,
        log_snr_range=schedule.log_snr_range if log_snr_range is None else log_snr_range,
        condition=dict(condition or {}),
        chunk=chunk,
        jvp_mode=jvp_mode,
        dtype=dtype,
        device=device,
        autocast=autocast,
    )


@dataclass(eq=False)
class NetworkDenoiser(Denoiser):
    """A network seen as a posterior mean; built by `from_network`, which describes the fields.

    Raises:
        ValueError: if an option is unknown, missing or contradicts another.
    """

    fn: Callable[..., Tensor] = field(repr=False)
    shape: tuple[int, ...] = field(kw_only=True)
    schedule: Schedule = field(kw_only=True)
    prediction: Prediction = field(kw_only=True)
    sigma_data: float | None = field(default=None, kw_only=True)
    mean: Tensor | float = field(default=0.0, kw_only=True)
    variance: float = field(default=1.0, kw_only=True)
    log_snr_range: tuple[float, float] = field(kw_only=True)
    condition: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)
    chunk: int | None = field(default=None, kw_only=True)
    jvp_mode: JvpMode = field(default="forward", kw_only=True)
    # what "auto" has come to, shared by every copy under another condition
    settled: list[JvpMode] = field(default_factory=list, kw_only=True, repr=False)
    dtype: torch.dtype | None = field(default=None, kw_only=True)
    device: torch.device | str | None = field(default=None, kw_only=True)
    autocast: torch.dtype | None = field(default=None, kw_only=True)

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

    def given(self, **condition: Any) -> NetworkDenoiser:
        """The same network under a condition, added to those already bound."""
        return replace(self, condition={**self.condition, **condition})

    def posterior_mean(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Posterior means of a flat batch; where memory does not suffice the chunk is halved.

        Args:
            z: noisy points (N, D).
            sigma: their levels (N,).

        Returns:
            E[x0 | z], (N, D).

        Raises:
            NetworkError: where memory does not suffice for one input, or the network fails.

        Cost: one call of the network per chunk.
        """
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
        """Posterior mean and its directional derivative in ``z``, the way ``jvp_mode`` says.

        Args:
            z: noisy points (..., D).
            sigma: noise standard deviations (...).
            v: directions (..., D), broadcast against ``z``.

        Returns:
            ``(m, J v)``, both (..., D), differentiable.  Finite differences give for m the
            average of the two evaluations, which is off by the order of h^2.

        Raises:
            NetworkError: if the network does not support forward mode.
            RuntimeError: whatever else the network raises.

        Cost: one evaluation and one derivative per point (two derivatives by double-vjp); finite
        differences: two evaluations.
        """
        mode = self._settle() if self.jvp_mode == "auto" else self.jvp_mode
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

    def _settle(self) -> JvpMode:
        """The mode that ``"auto"`` stands for, tried out once at the middle of the levels."""
        if self.settled:
            return self.settled[0]
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
            self.settled.append("forward")
        else:
            self.settled.append("finite-difference" if double is None else "double-vjp")
        return self.settled[0]

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

    def _rounding(self, dtype: torch.dtype) -> float:
        used = {dtype, self._home()[0] or dtype, self.autocast or dtype}
        return max(torch.finfo(kind).eps for kind in used)

    def _convert(self, z: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | z] for one chunk, ``z`` (n, D) and ``sigma`` (n,)."""
        log_snr = -2 * torch.log(sigma)
        t, alpha = self.schedule.time(log_snr), self.schedule.alpha(log_snr).unsqueeze(-1)
        level = sigma.unsqueeze(-1)
        if self.prediction == "edm":
            s = self.sigma_data or 1.0
            total = level**2 + s**2
            out = self._call(z / total.sqrt(), torch.log(sigma) / 4, sigma)
            return s**2 / total * z + level * s / total.sqrt() * out
        out = self._call(alpha * z, t, sigma)
        if self.prediction == "eps":
            return z - level * out
        if self.prediction == "v":
            return (z - level / alpha * out) / (1 + level**2)
        if self.prediction == "score":
            return z + alpha * level**2 * out
        if self.prediction == "flow":
            return (z - level * out) / (1 + level)
        return out

    def _call(self, x: Tensor, t: Tensor, sigma: Tensor) -> Tensor:
        """The network on ``x`` (n, D), folded and moved there and back."""
        dtype, device = self._home()
        dtype, device = dtype or x.dtype, device or x.device
        if torch.finfo(dtype).bits < 32:
            raise NetworkError(f"the network is in {dtype}, which ruins derivatives; use .float()")
        inputs = x.reshape(-1, *self.shape).to(device=device, dtype=dtype)
        time, bound = t.to(device=device, dtype=dtype), self._conditions(len(x), dtype, device)
        # fast kernels for evaluations, others only where a derivative needs them
        derived = differentiated(inputs, time)
        with (
            whole_floats(),
            differentiable() if derived else quick(inputs.device, self.autocast),
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

    def _home(self) -> tuple[torch.dtype | None, torch.device | str | None]:
        """Dtype and device of the network, where they can be known."""
        owner = self.fn if isinstance(self.fn, nn.Module) else getattr(self.fn, "__self__", None)
        weights = owner.parameters() if isinstance(owner, nn.Module) else ()
        first = next((w for w in weights if w.is_floating_point()), None)
        if first is None:
            return self.dtype, self.device
        return self.dtype or first.dtype, self.device or first.device


def _near(found: Tensor, expected: Tensor) -> bool:
    """Tell whether two derivatives agree; NaN agrees with nothing."""
    error, size = (torch.linalg.vector_norm(t) for t in (found - expected, expected))
    return bool(error <= AGREEMENT * size)
