r"""Train a small denoiser of a Boltzmann distribution or of a trajectory, over angles or lengths.

A batch holds points x_j, with forces where the potential is known, and z_i = x_i + sigma_i eps_i.
The network F (see ``learned``) learns E[x0 - z | z], over c_out.  Two targets have that mean:

    y_ij = x_j - z_i, on a circle its mean over all images of x_j under the kernel   (1011.2199)
    sigma_i^2 f_j,   f = -grad U/kT:  the noisy score is a mean of forces  (2402.08667)

the first with variance T^2 at most, the second with sigma^4/l^2.  They are mixed by these
variances, share q_i = T^2/(T^2 + sigma^4/l^2) of forces, and averaged over the batch with
the posterior weights w_ij ~ K(z_i - x_j): given z_i and the *set* of points, w_ij is the
probability that x_j made z_i, so this takes noise away and adds no bias (cf. 2302.00670).

The second comes by integration by parts, so it holds where the density vanishes before the box
ends: the boundary terms are 1 - E[(x - c) dU/kT] >= 0 for any c in the box.  Forces of a coordinate
whose samples contradict E[dU/kT] = 0 or E[(x - c) dU/kT] = 1 are not used (l = 0).

The loss is uniform in log sigma.  How often a noise level is drawn adapts to its gradient: a bin
with root-mean-square gradient g is drawn in proportion to g (mixed with the uniform distribution),
and its loss is divided by that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.models.trainer import RunSettings, Training, check_positive, flags
from diffodesic.output.stages import fingerprint
from diffodesic.transitions.learned import CoordinateNet, Coordinates, describe, energies_at_probes
from diffodesic.transitions.potentials import Potential
from diffodesic.transitions.sampling import boltzmann, check_samples, load_trajectory
from diffodesic.transitions.surfaces import SHIPPED

__all__ = ["CoordinateSettings", "train_denoiser"]

_DOUBT = 6.0  # standard errors that a mean over samples may be off its exact value
_LEVELS = 24  # bins of log sigma
_WAVES = 3  # terms of the Fourier series of a wrapped kernel, which is used for much noise
_WRAPPED = 1.5  # above this noise, in units of L/2 pi; below, three images: either errs by 1e-7


@dataclass(frozen=True)
class CoordinateSettings(RunSettings):
    """Settings of a training run on a potential or a trajectory, besides ``RunSettings``.

    Args:
        samples: points drawn from a potential's Boltzmann distribution.
        width: features of the network's layers.
        layers: residual blocks of the network.
        harmonics: waves per coordinate that the network sees.
        sigma_min: smallest noise, in units of the coordinates; default an eighth of the shortest
            width l, or for a trajectory 1/50 of the smallest spread.
        sigma_max: largest noise; default the longest period or 10 times the largest spread.
    """

    steps: int | None = 6000
    batch: int = 512
    samples: int = 65_536
    width: int = 128
    layers: int = 3
    harmonics: int = 4
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "samples", "width", "layers", "harmonics", whole=True)
        if self.batch < 2:
            raise ValueError(f"batch = {self.batch}: give at least 2.")


def train_denoiser(
    source: Potential | Tensor | str | os.PathLike[str],
    outdir: str | os.PathLike[str],
    *,
    period: tuple[float | None, ...] | None = None,
    settings: CoordinateSettings | None = None,
    resume: bool = True,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train a denoiser of few coordinates and write it as a model directory.

    Args:
        source: a potential, whose Boltzmann distribution is sampled first; or points (N, d) of a
            trajectory, or the file that holds them.
        outdir: receives weights.safetensors, config.json and CARD.md (and the folder checkpoint).
        period: of a trajectory's coordinates, None on the line; a potential knows its own.
        settings: default ``CoordinateSettings()``.
        resume: continue from ``outdir``'s checkpoint, if there is one.
        progress: show a progress bar, if standard error is a terminal.
        say: called with a short line while a potential is sampled.

    Returns:
        ``outdir``; :func:`diffodesic.transitions.learned.load_denoiser` opens it.

    Raises:
        ValueError: for samples, settings or a checkpoint that cannot be used.

    **Cost** ``steps`` forward and backward passes of ``batch`` points, and for a potential some
    hundred energies with gradient per sample.
    """
    settings = settings or CoordinateSettings()
    if isinstance(source, Potential):
        if period is not None and tuple(period) != tuple(source.period):
            raise ValueError(f"{source.name} knows its period, {source.period}: leave it out.")
        x, slope = boltzmann(source, settings.samples, seed=settings.seed, progress=say)
        known = _scales(x, slope, source.period, settings, source)
    else:
        if period is None:
            raise ValueError(
                "the period of the coordinates is not given: say period=(None, ...) where there "
                "is none (--period none), 2 pi for angles in radians."
            )
        x = source.double() if isinstance(source, Tensor) else load_trajectory(source)
        check_samples(x, tuple(period))
        slope, known = None, _scales(x, None, tuple(period), settings, None)
    run = _CoordinateTraining(known, x, slope, settings, outdir)
    run.run(resume=resume, progress=progress)
    return run.outdir


def _scales(
    x: Tensor,
    slope: Tensor | None,
    period: tuple[float | None, ...],
    settings: CoordinateSettings,
    potential: Potential | None,
) -> Coordinates:
    """Scales of the samples, and the levels to train on."""
    middle = (x.amax(0) + x.amin(0)) / 2
    if potential is not None:
        middle = torch.tensor(potential.box, dtype=torch.float64).mean(-1)
    circle = torch.tensor([length is not None for length in period])
    centre = torch.where(circle, middle, x.mean(0)).tolist()
    spread = [length or float(s) for s, length in zip(x.std(0), period, strict=True)]
    width = [0.0] * len(period)
    if slope is not None and potential is not None:
        hold = forces_hold(x, slope, potential)
        size = slope.square().mean(0).rsqrt().minimum(torch.tensor(spread, dtype=slope.dtype))
        width = torch.where(hold, size, torch.zeros_like(size)).tolist()
    least = min(w / 8 if w else float(s) / 50 for w, s in zip(width, x.std(0), strict=True))
    most = max(length or 10 * s for s, length in zip(spread, period, strict=True))
    known: tuple[Any, ...] = ()
    if potential is not None:
        known = (potential.name, potential.kT, potential.unit, energies_at_probes(potential))
    return Coordinates(
        period,
        tuple(centre),
        tuple(spread),
        tuple(width),
        least if settings.sigma_min is None else settings.sigma_min,
        most if settings.sigma_max is None else settings.sigma_max,
        *known,
    )


def forces_hold(x: Tensor, slope: Tensor, potential: Potential) -> Tensor:
    """Tell by samples for which coordinates the density vanishes before the box ends.

    Only there the mean of forces is the noisy score.

    Args:
        x: points (N, d) drawn from exp(-U/kT).
        slope: grad U/kT there (N, d).
        potential: says what is periodic, and the box.

    Returns:
        for each coordinate whether its forces can be used, (d,); always on a circle.
    """
    middle = x.new_tensor(potential.box).mean(-1)
    circle = torch.tensor([length is not None for length in potential.period])
    held = torch.ones_like(circle)
    for sample, exact in ((slope, 0.0), ((x - middle) * slope, 1.0)):
        error = sample.std(0) / math.sqrt(len(x))
        held &= (sample.mean(0) - exact).abs() <= _DOUBT * error
    return held | circle


class _CoordinateTraining(Training):
    """A run on points, with forces or without."""

    settings: CoordinateSettings

    def __init__(
        self,
        coordinates: Coordinates,
        x: Tensor,
        slope: Tensor | None,
        settings: CoordinateSettings,
        outdir: str | os.PathLike[str],
    ) -> None:
        self.coordinates = coordinates
        # single precision resolves a point near the centre best
        self.centre = torch.tensor(coordinates.centre)
        self.x = (x - self.centre.double()).float()
        self.force = None if slope is None else -slope.float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            net = CoordinateNet(coordinates, settings.width, settings.layers, settings.harmonics)
        super().__init__(net, settings, Path(outdir))
        self.describe = describe(net)
        self.noise = torch.ones(_LEVELS)  # mean square of a level's gradient

    def gradients(self) -> tuple[float, list[Tensor]]:
        """The loss of the current step, and its gradient by every parameter."""
        z, sigma, share, bins, target, scale = self.draw()
        error = self.net(z + self.centre, sigma) - target / scale
        squares = error.square().mean(-1)
        loss = (squares / share).mean()
        gradients = torch.autograd.grad(loss, list(self.net.parameters()))
        with torch.no_grad():
            seen = torch.zeros_like(self.noise).index_add(0, bins, squares)
            count = torch.bincount(bins, minlength=_LEVELS)
            mean = torch.where(count > 0, seen / count.clamp(min=1), self.noise)
            self.noise = torch.lerp(self.noise, mean, 0.02)
        return float(loss.detach()), list(gradients)

    def draw(self) -> tuple[Tensor, ...]:
        """Return z (N, D), sigma (N,), how often its level is drawn, its bin, target and c_out."""
        coordinates, n = self.coordinates, self.settings.batch
        g = torch.Generator().manual_seed((self.settings.seed << 32) + self.step)
        index = torch.randint(len(self.x), (n,), generator=g)
        x0, u = self.x[index], (torch.arange(n) + torch.rand(n, generator=g)) / n
        sigma, share, bins = self.levels(u)
        z = x0 + sigma[:, None] * torch.randn(x0.shape, generator=g)
        skip, scale, _ = coordinates.precondition(sigma)
        shift = self.shift(z, x0, None if self.force is None else self.force[index], sigma)
        return z, sigma, share, bins, shift + (1 - skip) * z, scale

    def levels(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map u (N,) in (0, 1) to levels, their density over the uniform one, and their bins."""
        size = self.noise.sqrt()
        density = 0.5 + 0.5 * size / size.mean()
        ends = torch.nn.functional.pad(density.cumsum(0) / _LEVELS, (1, 0))
        bins = (torch.searchsorted(ends, u, right=True) - 1).clamp(0, _LEVELS - 1)
        place = (bins + (u - ends[bins]) * _LEVELS / density[bins]) / _LEVELS
        low, high = math.log(self.coordinates.sigma_min), math.log(self.coordinates.sigma_max)
        return (low + (high - low) * place).exp(), density[bins], bins

    def shift(self, z: Tensor, x0: Tensor, force: Tensor | None, sigma: Tensor) -> Tensor:
        """The mean over the batch of what x0 - z may have been, (N, D)."""
        depth, shifts = kernel(self.coordinates, z, x0, sigma)
        weight = torch.softmax(depth, -1)
        shift = (weight.unsqueeze(-1) * shifts).sum(1)
        if force is None:
            return shift
        size, square = self.coordinates.shift(sigma), sigma[:, None] ** 2
        width = torch.tensor(self.coordinates.width)
        q = 1 / (1 + (square / (size * width)) ** 2)
        return (1 - q) * shift + q * square * (weight @ force)

    def state(self) -> dict[str, Tensor]:
        """The frequencies of noise levels are part of a checkpoint."""
        return {"noise": self.noise}

    def kind(self) -> dict[str, Any]:
        """Settings, scales of the coordinates, and the points."""
        return {**super().kind(), "law": asdict(self.coordinates), "points": fingerprint(self.x)}

    def config(self) -> dict[str, Any]:
        """What the weights need to become a denoiser again, as plain values."""
        training = {**self.spent(), "points": len(self.x)}
        return {"name": self.settings.name, **self.describe, "training": training}

    def card(self) -> str:
        """The model card, Markdown."""
        return _card(self.config(), self.coordinates)


def kernel(coordinates: Coordinates, z: Tensor, x0: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """How likely each point made each noisy one, and by what shift.

    Args:
        coordinates: their periods.
        z: noisy points (N, D).
        x0: points (M, D).
        sigma: noise (N,).

    Returns:
        log likelihoods up to a constant (N, M), and E[x - z] over the images x of a point,
        (N, M, D).
    """
    depth, shifts = z.new_zeros(len(z), len(x0)), list[Tensor]()
    for axis, length in enumerate(coordinates.period):
        y = x0[:, axis] - z[:, axis, None]
        if length is None:
            log, shift = -(y**2) / (2 * sigma[:, None] ** 2), y
        else:
            log, shift = wrapped(y, sigma, length)
        depth = depth + log
        shifts.append(shift)
    return depth, torch.stack(shifts, -1)


def wrapped(y: Tensor, sigma: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """The log of the sum of a Gaussian over images of ``y`` (N, M), and the mean image.

    Args:
        y: x0 - z.
        sigma: noise (N,).
        length: the period.

    Returns:
        log kernel, up to a constant per row, and mean of y over its images; (N, M) each.
    """
    rate, log, shift = 2 * math.pi / length, torch.empty_like(y), torch.empty_like(y)
    many = sigma * rate > _WRAPPED
    # the nearest image, and the weights of its two neighbours relative to it
    near, twice = y[~many] - length * torch.round(y[~many] / length), 2 * sigma[~many, None] ** 2
    after, before = ((-length * (length + 2 * side * near) / twice).exp() for side in (1, -1))
    total = 1 + after + before
    log[~many] = total.log() - near**2 / twice
    shift[~many] = near + length * (after - before) / total
    # K ~ 1 + 2 sum_n e^{-n^2 a^2/2} cos(n y), and the shift is sigma^2 d log K/dz
    level, phase = rate * sigma[many, None], rate * y[many]
    total, slope = torch.ones_like(phase), torch.zeros_like(phase)
    for order in range(1, _WAVES + 1):
        damped = 2 * (-((order * level) ** 2) / 2).exp()
        total = total + damped * (order * phase).cos()
        slope = slope + damped * order * (order * phase).sin()
    log[many], shift[many] = total.log(), level**2 * slope / (rate * total)
    return log, shift


def _card(config: dict[str, Any], own: Coordinates) -> str:
    t = config["training"]
    periods = ", ".join("none" if p is None else f"{p:.12g}" for p in own.period)
    if own.potential is None:
        what, data = f"the points of a trajectory, {t['points']} of them", "TRAJECTORY"
        data += f" --period {periods.replace(' ', '')}"
    else:
        what = f"exp(-U/kT) of {own.potential} at kT = {own.kT:g} {own.unit}"
        data = _shipped(own)
    how = "."
    if data:
        command = f"diffodesic train {data} --outdir OUTDIR{flags(t, CoordinateSettings())}"
        how = f":\n\n      {command}\n"
    blind = [str(axis) for axis, width in enumerate(own.width) if own.potential and not width]
    if blind:
        how += (
            f"\n- No forces along coordinates {', '.join(blind)}, where the box cuts the density."
        )
    return f"""# {config["name"]}

A denoiser, m(z, sigma) = E[x0 | z = x0 + sigma eps], of {what}.

- Coordinates: {own.dim}; periods: {periods}.
- Noise levels: sigma from {own.sigma_min:.4g} to {own.sigma_max:.4g}.
- Training: {t["steps_done"]} steps of {t["batch"]} points, {t["minutes_done"]:g} minutes{how}
- Weights: exponential moving average (decay {t["ema"]:g}).
"""


def _shipped(own: Coordinates) -> str:
    """The flags that name the potential, if it is one that ships, with its own parameters."""
    if own.potential not in SHIPPED or own.kT is None:
        return ""
    if not own.same_energies(SHIPPED[own.potential]().at(own.kT)):
        return ""
    return f"--potential {own.potential} --kT {own.kT:.12g}"
