r"""One trial of a network before it is believed: every fault ends in a sentence with its cure.

The posterior mean is a function of one point and one level, smooth, in real numbers.  A network may
be less without a word: dropout left on, statistics of the batch, a table of times, half precision.
The trial calls it as evaluations do,

    all rows        shape, dtype, finite values at both ends of the range; inputs and buffers kept
    the same again  random numbers, a state between calls
    the last alone  what depends on the rest of the batch, or on the first level only
    x, t + d        a table of times: nothing changes;  t far away: the level is ignored
    x +- h v        f(x+hv) - 2 f(x) + f(x-hv) beside f(x) is the rounding of the network
    gradient of w.f along v, against the same difference

and raises, or names what is doubtful.  Buffers and the random state are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "NetworkError",
    "NonFiniteError",
    "Trial",
    "check_output",
    "check_weights",
]

WRONG_GRADIENT = 0.2  # differences in float32 are good to 1e-2


class NetworkError(ValueError):
    """A network's output is no prediction; the message says what to change."""


class NonFiniteError(NetworkError, FloatingPointError):
    """A network's output is not finite; solvers end the path with a status."""


def check_weights(networks: Sequence[nn.Module]) -> None:
    """Refuse networks by what can be seen without a call.

    Args:
        networks: of :func:`networks_of`.

    Raises:
        NetworkError: for weights that are not finite or not loaded, and layers in train mode.
    """
    for network in networks:
        for name, part in network.named_modules():
            where = f"{type(part).__name__} {name!r}" if name else type(part).__name__
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p:
                raise NetworkError(
                    f"dropout is left on ({where} is in train mode), so that every answer is "
                    "another one: call .eval() on the network"
                )
            if isinstance(part, nn.modules.batchnorm._NormBase) and part.training:
                raise NetworkError(
                    f"normalisation is in train mode ({where}), so that an answer depends on the "
                    "batch and every call changes the running statistics: call .eval() on the "
                    "network (nothing was called yet)"
                )
        for name, weight in (*network.named_parameters(), *network.named_buffers()):
            if weight.is_meta:
                raise NetworkError(
                    f"weight {name!r} is on the device meta, which holds no numbers: load the "
                    "weights first"
                )
            if not bool(torch.isfinite(weight).all()):
                raise NetworkError(
                    f"weight {name!r} holds numbers that are not finite (NaN or infinite): "
                    "load or train the network again"
                )


def check_output(out: object, inputs: Tensor) -> Tensor:
    """The answer of a network, if it is a prediction for its inputs.

    Args:
        out: what the network returned.
        inputs: (N, *shape).

    Returns:
        the same, as a tensor.

    Raises:
        NetworkError: for another type, shape or kind of numbers.
    """
    if not isinstance(out, Tensor):
        raise NetworkError(
            f"fn returned a {type(out).__name__}; it must return the tensor inside{_inside(out)}"
        )
    if not out.is_floating_point():
        raise NetworkError(f"fn returned {out.dtype}; it must return real floating-point numbers")
    if out.shape != inputs.shape:
        extra = ""
        if out.ndim == inputs.ndim > 2 and out.shape[1] == 2 * inputs.shape[1]:
            extra = f" (out[:, :{inputs.shape[1]}], if the rest are learned variances)"
        raise NetworkError(
            f"fn returned shape {tuple(out.shape)} for {tuple(inputs.shape)}; correct shape, "
            f"or return the part of the output that is the prediction{extra}"
        )
    return out


def _inside(out: object) -> str:
    """Where in an answer the tensor may be."""
    if hasattr(out, "sample"):
        return ", out.sample"
    if isinstance(out, Mapping):
        return f", one of out[{'], out['.join(repr(key) for key in out)}]"
    return ", such as out[0]" if isinstance(out, Sequence) else ""


@dataclass(frozen=True)
class Trial:
    """A network about to be tried.

    Attributes:
        call: the network as evaluations call it, ``call(x (N, *shape), t (N,))``.
        networks: of :func:`networks_of`.
        x: inputs (N, *shape), in the dtype and on the device of the network.
        t: native times (N,), the first far from the last.
        step: small change of t, within one entry of a table, (1,).
        words: names of bound keyword arguments.
        coarse: rounding unit of evaluations in another dtype than that of x, else 0.
    """

    call: Callable[[Tensor, Tensor], object]
    networks: Sequence[nn.Module]
    x: Tensor
    t: Tensor
    step: Tensor
    words: Sequence[str] = ()
    coarse: float = 0.0

    def run(self) -> list[str]:
        """Try the network.

        Returns:
            a sentence for each thing that is doubtful: no gradient, a false one, a table of times,
            or a level that is ignored.

        Raises:
            NetworkError: for any other fault.

        Cost: ``2 N + 9`` evaluations and one VJP.
        """
        check_weights(self.networks)
        with _put_back(self.networks, self.x.device), torch.no_grad():
            first = self._first()
            self._again(first)
            self._alone(first)
            doubts = self._levels()
            return [*doubts, *self._slopes()]

    def _answer(self, x: Tensor, t: Tensor) -> Tensor:
        """One call, its failures put into words."""
        try:
            out = self.call(x, t)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a network raises whatever its code raises
            words = "".join(f", {word}=..." for word in self.words)
            reason = " ".join(str(error).split())[:200]
            raise NetworkError(
                f"fn raised {type(error).__name__} ({reason}) when it was called as fn(x "
                f"{tuple(x.shape)}, t {tuple(t.shape)}{words}) in {_name(x.dtype)}: "
                f"{self._cure(error)}"
            ) from error
        return check_output(out, x)

    def _works(self, x: Tensor, t: Tensor) -> bool:
        try:
            self.call(x, t)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the one that is reported was raised before
            return False
        return True

    def _cure(self, error: Exception) -> str:
        """What to change, by what works instead."""
        x, t = self.x, self.t
        if "device" in str(error):
            return "give options=NetworkOptions(device=...), the device that it runs on"
        if isinstance(error, TypeError) and "argument" in str(error):
            return (
                "it is called with two arguments, x and t; bind others by "
                "NetworkOptions(condition={...}), with trial=False where that is done later"
            )
        if self._works(x, t.round().long()):
            return (
                "it takes integer times only, as a table of times (nn.Embedding) does; give "
                "options=NetworkOptions(integer_time=True)"
            )
        other = torch.float32 if x.dtype == torch.float64 else torch.float64
        if self._works(x.to(other), t.to(other)):
            return f"give options=NetworkOptions(dtype={other}), the dtype that it takes"
        if len(x) > 1 and (self._works(x[:1], t[:1]) or self._works(x, t[0])):
            return (
                "it takes a single level; t has one level per input, so reshape it before it "
                "meets x, as in t.view(-1, 1, 1, 1)"
            )
        return "correct it, or shape, so that fn(x, t) runs on such tensors"

    def _first(self) -> Tensor:
        """The answer for all rows, and what the call must not change."""
        x, t, buffers = self.x.clone(), self.t.clone(), _buffers(self.networks)
        out = self._answer(x, t)
        for name, buffer in _buffers(self.networks).items():
            if not _same(buffer, buffers[name]):
                raise NetworkError(
                    f"every call changes buffer {name!r} of the network (it was put back): call "
                    ".eval() on it, or take the change out of its forward"
                )
        for name, after, before in (("x", x, self.x), ("t", t, self.t)):
            if not torch.equal(after, before):
                raise NetworkError(
                    f"fn changes its input {name} in place; work on {name}.clone(), or take the "
                    "operation without the underscore"
                )
        finite = torch.isfinite(out).flatten(1).all(-1)
        if not bool(finite.all()):
            raise NonFiniteError(
                f"fn returned values that are not finite, at time {_list(self.t[~finite])}; narrow "
                "log_snr_range, or look for an overflow there (half precision, a division by 0)"
            )
        return out

    def _again(self, first: Tensor) -> None:
        """The same answer to the same question."""
        tolerance = max(1e-5, self.coarse)
        if _apart(self._answer(self.x, self.t), first) <= tolerance:
            return
        seeded = []
        for _ in range(2):
            torch.manual_seed(0)
            seeded.append(self._answer(self.x, self.t))
        if _apart(*seeded) <= tolerance:
            raise NetworkError(
                "fn gives another answer to the same question, because it draws random numbers "
                "(dropout, noise, a latent sample): call .eval(), or fix them"
            )
        raise NetworkError(
            "fn gives another answer to the same question, because it keeps something from call "
            "to call (a counter, a cache, running statistics): call .eval(), or make it a function"
        )

    def _alone(self, first: Tensor) -> None:
        """The same answer in other company."""
        alone = self._answer(self.x[-1:], self.t[-1:])
        if _apart(alone, first[-1:]) > max(1e-3, 20 * self.coarse):
            raise NetworkError(
                "fn's answer for one input depends on the others in its batch (statistics of the "
                "batch, or the first level taken for all): call .eval(), use x and t row by row"
            )

    def _levels(self) -> list[str]:
        """How the answer depends on the level."""
        x, t = self.x[:1], self.t[:1]
        here, far = self._answer(x, t), self._answer(x, self.t[-1:])
        if len(self.t) > 1 and torch.equal(here, far) and bool(here.any()):
            return [
                f"the network ignores its level: its answer is the same at times "
                f"{_list(self.t[[0, -1]])}; check that fn uses t, and that the times of the "
                "schedule are those of its training"
            ]
        if not t.is_floating_point() or not bool(here.any()):
            return []
        there, beyond = (self._answer(x, t + k * self.step) for k in (1, 2))
        if torch.equal(here, there) or torch.equal(there, beyond):
            return [
                f"the network rounds its time to a table: nothing changes from t = {float(t):.6g} "
                f"to {float(t + self.step):.6g}, and lengths along noise are wrong; let it take "
                "real times, or give options=NetworkOptions(integer_time=True)"
            ]
        return []

    def _slopes(self) -> list[str]:
        """Rounding of the network, and its gradient."""
        x, t, double = self.x[:1], self.t[:1], self.x.dtype == torch.float64
        h, bound = (1e-8, 1e-8) if double else (1e-4, 1e-4)
        generator = torch.Generator().manual_seed(1)
        v, w = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64).to(x)
        here, size = self._answer(x, t), torch.finfo(x.dtype).eps / len(v.flatten())

        def difference(h: float) -> tuple[float, float]:
            """The slope of w.f along v, and the part of f that is rounding."""
            ahead, behind = (self._answer(x + k * h * v, t) for k in (1, -1))
            bent = (ahead - 2 * here + behind).norm() / here.norm().clamp(min=1e-30)
            return float((w * (ahead - behind)).sum()) / (2 * h), float(bent)

        def right(expected: float, h: float) -> bool:
            rounding = 10 * size * float(here.norm() * w.norm()) / h
            return abs(slope - expected) <= WRONG_GRADIENT * abs(expected) + rounding

        gradient, (expected, noise) = self._gradient(w), difference(h)
        slope = 0.0 if gradient is None else float((gradient * v).sum())
        wrong = gradient is not None and not right(expected, h)
        # a coarse network is right over a larger step
        if not self.coarse and (
            noise > bound or (wrong and right(difference(1e3 * h)[0], 1e3 * h))
        ):
            raise NetworkError(FLOAT32_INSIDE if double else HALF_INSIDE)
        if gradient is None:
            return [NO_GRADIENT]
        return [FALSE_GRADIENT] if wrong and not self.coarse else []

    def _gradient(self, w: Tensor) -> Tensor | None:
        """Gradient of w.f at the first row; None where the network has none."""
        with torch.enable_grad():
            leaf = self.x[:1].clone().requires_grad_()
            out = self._answer(leaf, self.t[:1])
            try:
                return torch.autograd.grad((w * out).sum(), leaf)[0]
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # no graph, or an operation without a derivative
                return None


FLOAT32_INSIDE = (
    "fn computes in float32 or coarser although its input is float64, which ruins derivatives: "
    "give options=NetworkOptions(dtype=torch.float32)"
)
HALF_INSIDE = (
    "fn computes in half precision although its input is float32, which ruins derivatives: take "
    ".half(), .bfloat16() and autocast out of it, and call .float() on the network"
)
NO_GRADIENT = (
    "fn's output has no gradient (it was detached, or computed under no_grad or outside torch): "
    'take .detach() and no_grad out of it, or give jvp_mode="finite-difference"'
)
FALSE_GRADIENT = (
    "fn's gradient is not that of its values (a straight-through estimator, quantised weights): "
    'give jvp_mode="finite-difference"'
)


@contextmanager
def _put_back(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Leave buffers and random states as they were."""
    before = _buffers(networks)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, buffer in _buffers(networks, copy=False).items():
                if not _same(buffer, before[name]):
                    buffer.copy_(before[name])


def _buffers(networks: Sequence[nn.Module], *, copy: bool = True) -> dict[str, Tensor]:
    """Buffers by name, or copies of them."""
    named = {
        name if len(networks) == 1 else f"{index}.{name}": buffer.detach()
        for index, network in enumerate(networks)
        for name, buffer in network.named_buffers()
    }
    return {name: buffer.clone() if copy else buffer for name, buffer in named.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _apart(a: Tensor, b: Tensor) -> float:
    """Relative distance of two answers."""
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp(min=1e-30))


def _list(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
