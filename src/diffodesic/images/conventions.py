r"""Which convention of a network is wrong: every usual one is tried on pictures that it knows.

A network of another project was trained on a process, with a time of its own, on pixels of some
range, and predicts one of several things.  Introduced wrongly it still answers, and everything
measured with it means nothing.  Here pictures c get noise at three levels, and the share of the
noise that is left,

    e = |m(c + sigma eps) - c|^2 / |sigma eps|^2        (geometric mean over the levels),

is compared between the conventions: 1 is a network that does nothing, and shrinking every pixel
towards the mean of its picture, which no network is needed for, leaves v / (v + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffodesic.denoisers.callables import networks_of
from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.denoisers.predictions import Prediction, inputs_of
from diffodesic.denoisers.schedules import (
    EDM,
    VP,
    Cosine,
    FlowMatching,
    LinearLogSNR,
    Schedule,
    Tabulated,
)
from diffodesic.images.door import Data, as_data
from diffodesic.images.lifting import as_floats
from diffodesic.models.codec import PixelCodec
from diffodesic.models.model import Model
from diffodesic.numerics import checks

__all__ = ["Conventions", "self_check"]

SNRS = (-3.0, 0.0, 3.0)  # log of v / sigma^2, v the variance of the pictures' own coordinates
NOISES = 2
WRONG = 1.2  # times more noise left than by another convention, above which the given one is wrong
CLEARLY = 0.02  # less of the noise that must be left, too
SHRUNK = math.exp(sum(-math.log1p(math.exp(-snr)) for snr in SNRS) / len(SNRS))  # by shrinking
MOST = 50.0  # log of the largest share that is told
CHANGE = 1.05  # a convention with one change more must leave less by this

_TIMES: dict[str, Callable[[Tensor, Schedule], Tensor]] = {
    "": lambda t, _: t,
    "give the network 1000 t, as in `lambda x, t: net(x, 1000 * t)`": lambda t, _: 1000 * t,
    "give the network t / 1000, as in `lambda x, t: net(x, t / 1000)`": lambda t, _: t / 1000,
    "give the network 1 - t, as in `lambda x, t: net(x, 1 - t)`": lambda t, _: 1 - t,
    "give the network sigma for its time": lambda t, schedule: schedule.sigma(t),
    "give the network log(sigma) / 4 for its time": lambda t, s: s.sigma(t).log() / 4,
}
_SCHEDULES = (VP(), Cosine(), LinearLogSNR(), FlowMatching(), EDM(), Tabulated.ddpm_linear())
_PREDICTIONS: tuple[Prediction, ...] = ("eps", "x0", "v", "score", "flow")
_RANGES = {  # by the value of black; white is 1
    -1.0: "[-1, 1], with codec=PixelCodec(shape)",
    0.0: "[0, 1], with codec=PixelCodec(shape, low=0)",
}


Means = Callable[[Tensor, Tensor], dict[tuple[str, ...], Tensor]]
"""Posterior means at points and levels, by advice."""


@dataclass(frozen=True)
class Conventions:
    """What :func:`self_check` found.

    Attributes:
        left: share of the noise that the model leaves as it was introduced.
        best: the share that the best of the conventions leaves, with ``changes``.
        changes: what to change, one piece of advice each; none where nothing is better.
        tried: advice and the share left, for every convention that could be tried, best first.
    """

    left: float
    best: float
    changes: tuple[str, ...]
    tried: tuple[tuple[tuple[str, ...], float], ...]

    @property
    def ok(self) -> bool:
        """Whether the model beats shrinking, and no other convention leaves clearly less."""
        return not self.changes and self.left < SHRUNK

    def __str__(self) -> str:
        """What was found, in one sentence."""
        found = f"as it was introduced, the network leaves {self.left:.0%} of the noise"
        if self.ok:
            return f"{found}, and no other convention of {len(self.tried)} leaves clearly less"
        if not self.changes:
            return (
                f"{found}, which is no less than shrinking every pixel leaves ({SHRUNK:.0%}), and "
                f"no other convention of {len(self.tried)} is better: the network is not trained, "
                "its process is none of these, or the pictures are not of its kind"
            )
        return f"{found}; it leaves {self.best:.0%} if you {' and '.join(self.changes)}"


def self_check(model: Model, pictures: Data, *, seed: int = 0) -> Conventions:
    """Find out whether a network was introduced as it was trained, and else what is wrong.

    Tried are what it predicts, its time, its schedule and, for a model of pixels, their range,
    together and one by one.

    Args:
        model: the model; one of classes under a label.
        pictures: one or several that the model knows, such as some of its training, in any form
            that :func:`interpolate` takes.
        seed: of the noise.

    Returns:
        what was found; ``print`` it.

    Raises:
        TypeError: for a model without a network that predicts.
        ValueError: for pictures that do not fit, or of one colour.

    Cost: 6 evaluations per picture for each of 12 times and schedules and 2 ranges.
    """
    checks.of_kind(model, "model", Model)
    if not isinstance(getattr(model, "denoiser", None), NetworkDenoiser):
        raise TypeError("self_check takes a model whose denoiser is made by from_network")
    seed = checks.seed(seed)
    images = as_floats(as_data(model, pictures))
    images = images.unsqueeze(0) if images.ndim == 3 else images
    found: dict[tuple[str, ...], float] = {}
    for low in _ranges(model):
        codes = _codes(model, images, low)
        moved = [f"give the pixels as {text}" for known, text in _RANGES.items() if known == low]
        moved = [] if low == _low(model) else moved
        for process, left in _every(model.denoiser, codes, seed):
            found |= {(*moved, *process, *predicted): share for predicted, share in left.items()}
    if () not in found:
        raise ValueError("the network raises, or its answers are not finite, as it was introduced")
    ranked = sorted(found.items(), key=lambda item: item[1] * CHANGE ** len(item[0]))
    changes, best = ranked[0]
    # what only shrinks, as a network that is read as EDM's correction of that, knows nothing either
    if found[()] < max(WRONG * best, best + CLEARLY) or best > 0.95 * SHRUNK:
        changes, best = (), found[()]
    return Conventions(found[()], best, changes, tuple(ranked))


def _low(model: Model) -> float | None:
    return model.codec.low if isinstance(model.codec, PixelCodec) else None


def _ranges(model: Model) -> tuple[float | None, ...]:
    """Values of black to try: the model's own first; latents have none."""
    own = _low(model)
    return (own,) if own is None else (own, *(low for low in _RANGES if low != own))


def _codes(model: Model, images: Tensor, low: float | None) -> Tensor:
    """The pictures (N, D) as the network would have them."""
    codec = model.codec
    codes = codec.encode(images) if low is None else PixelCodec(codec.shape, low).encode(images)
    if not float(codes.var(-1).min()) > 0:
        raise ValueError("a picture of one colour tells nothing; give pictures with something on")
    return codes.double()


def _every(
    given: NetworkDenoiser, codes: Tensor, seed: int
) -> Iterator[tuple[tuple[str, ...], dict[tuple[str, ...], float]]]:
    """Advice on the process, and the shares left under it by advice on the prediction."""
    yield (), _left(codes, seed, given.log_snr_range, lambda z, s: {(): given(z, s)})
    for advice, time in _TIMES.items():
        yield (advice,) if advice else (), _shares(given, given.schedule, time, codes, seed)
    for schedule in _SCHEDULES:
        if type(schedule) is not type(given.schedule):
            name = type(schedule).__name__.replace("Tabulated", "Tabulated.ddpm_linear")
            found = _shares(given, schedule, _TIMES[""], codes, seed)
            yield (f"give schedule=dd.schedules.{name}()",), found
    if given.prediction != "edm":
        scale = float(codes.std())
        raw = replace(_raw(given, EDM(), _TIMES[""]), prediction="edm", sigma_data=scale)
        found = _left(codes, seed, raw.log_snr_range, lambda z, s: {(): raw(z, s)})
        advice = f'give prediction="edm", sigma_data={scale:.2g} and schedule=dd.schedules.EDM()'
        yield (advice,), found


def _shares(
    given: NetworkDenoiser,
    schedule: Schedule,
    time: Callable[[Tensor, Schedule], Tensor],
    codes: Tensor,
    seed: int,
) -> dict[tuple[str, ...], float]:
    """Shares left under a process, by what the network's output may be a prediction of."""
    raw = _raw(given, schedule, time)

    def means(z: Tensor, sigma: Tensor) -> dict[tuple[str, ...], Tensor]:
        output = raw(z, sigma)
        found: dict[tuple[str, ...], Tensor] = {}
        for prediction in _PREDICTIONS:
            skip, gain, _, _ = inputs_of(prediction, schedule, 1.0, z, sigma)
            own = prediction == given.prediction
            found[() if own else (f'give prediction="{prediction}"',)] = skip * z + gain * output
            if prediction == "flow":
                advice = 'give prediction="flow" and minus the output of the network'
                found[(advice,)] = skip * z - gain * output
        return found

    return _left(codes, seed, raw.log_snr_range, means)


def _raw(
    given: NetworkDenoiser, schedule: Schedule, time: Callable[[Tensor, Schedule], Tensor]
) -> NetworkDenoiser:
    """The network's own output under another process."""

    def fn(x: Tensor, t: Tensor, **condition: object) -> Tensor:
        mapped = time(t, schedule).to(t)
        if given.integer_time:
            # an index past a table is an error on the CPU, and the end of the process on a GPU
            if x.is_cuda and float(mapped.max()) > given.schedule.time_range[1]:
                raise ValueError("no such time")
            return given.fn(x, mapped.round().long(), **condition)
        return given.fn(x, mapped, **condition)

    weights = (weight for network in networks_of(given.fn) for weight in network.parameters())
    first = next((weight for weight in weights if weight.is_floating_point()), None)
    return replace(
        given,
        fn=fn,
        schedule=schedule,
        prediction="x0",
        log_snr_range=schedule.log_snr_range,
        integer_time=False,
        # a function around the network hides what says these
        dtype=given.dtype or (None if first is None else first.dtype),
        device=given.device or (None if first is None else first.device),
    )


def _left(
    codes: Tensor, seed: int, within: tuple[float, float], means: Means
) -> dict[tuple[str, ...], float]:
    """The share of the noise that is left by each of some means; none where the network raises."""
    logs: dict[tuple[str, ...], float] = {}
    clean, unit = codes.repeat(NOISES, 1), float(codes.var(-1).mean().log())
    generator = checks.generator(seed)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean)
    for snr in SNRS:
        level = min(max(snr - unit, within[0]), within[1])
        sigma = torch.full_like(clean[:, 0], math.exp(-level / 2))
        added = sigma[:, None] * noise
        try:
            with torch.no_grad():
                found = means(clean + added, sigma)
        except Exception:  # whatever a network raises at a time that it does not know
            return {}
        for advice, mean in found.items():
            share = float((mean - clean).square().sum() / added.square().sum())
            logs[advice] = logs.get(advice, 0.0) + math.log(max(share, 1e-12)) / len(SNRS)
    return {advice: math.exp(value) for advice, value in logs.items() if value < MOST}
