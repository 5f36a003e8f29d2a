"""Train a small denoiser on a user's images: the EDM objective, in plain torch.

For a clean image x0, noise eps and a level sigma, the denoiser m (see `network.py`) minimises

    E |m(x0 + sigma eps, sigma) - x0|^2 / c_out(sigma)^2  =  E |F(c_in z, c_noise) - target|^2,
    target = (x0 - c_skip z) / c_out                                           (EDM, 2206.00364).

The minimiser is the posterior mean E[x0 | z]. Geometry needs its Jacobian too, for which a true
posterior mean obeys E tr dm/dz = E |x0 - m|^2 / sigma^2; `quality.py` measures by how much a
network does. What serves it: no dropout, every level well covered, an average of the weights
(EMA), a learning rate that decays to nothing.

Levels: log sigma is normal, cut to [sigma_min, sigma_max], and *stratified* inside each batch
(one draw in each of N equal slices of probability), which takes away the part of the gradient's
variance that comes from the choice of levels.

Every random number of step k comes from a generator seeded by (seed, k). A resumed run
therefore needs no random state, and gives the weights of the uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.dataset import load_images, rotate
from diffodesic.files import write_atomically
from diffodesic.network import UNet

__all__ = ["TrainSettings", "card", "precondition", "train"]

CHECKPOINT = "checkpoint.pt"
FORMAT = "diffodesic-train-1"


@dataclass(frozen=True)
class TrainSettings:
    """What a training run depends on.

    Args:
        steps: optimiser steps; with None, `minutes` of wall time decide.
        minutes: wall time, used (and the run then not reproducible) when `steps` is None.
        batch: images per step.
        lr: peak learning rate of Adam.
        warmup: steps over which the learning rate grows linearly from zero.
        ema: limit of the EMA decay; the average is shorter at the beginning.
        seed: the seed of everything.
        log_sigma_mean: mean of log sigma.
        log_sigma_std: standard deviation of log sigma.
        sigma_min: smallest noise trained on, in data units.
        sigma_max: largest noise trained on, in data units.
        rotation: images are turned by a uniform angle in [-rotation, rotation] degrees.
        bf16: bfloat16 autocast, except in the last `exact` part of the run.
        exact: the last fraction of the run, in float32 whatever `bf16` says.
        threads: parts of a batch that are differentiated side by side, each on one core.
        channels: widths of the network, see `UNet`.
        blocks: blocks of the network, see `UNet`.
        heads: attention heads of the network, see `UNet`.
        checkpoint_minutes: wall time between two checkpoints.
        snapshot_minutes: wall times at which the current EMA is written as a complete model.
        name: the name of the model.
    """

    steps: int | None = 20_000
    minutes: float | None = None
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    seed: int = 0
    log_sigma_mean: float = -0.5
    log_sigma_std: float = 1.5
    sigma_min: float = 0.01
    sigma_max: float = 40.0
    rotation: float = 0.0
    bf16: bool = False
    exact: float = 0.2
    threads: int = 2
    channels: tuple[int, ...] = (16, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    heads: int = 2
    checkpoint_minutes: float = 5.0
    snapshot_minutes: tuple[float, ...] = ()
    name: str = "model"


def precondition(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return EDM's c_skip, c_out, c_in, c_noise for sigma, each of the shape of sigma."""
    total = sigma**2 + sigma_data**2
    root = total.sqrt()
    return sigma_data**2 / total, sigma * sigma_data / root, 1 / root, sigma.log() / 4


def train(
    data: str | os.PathLike[str] | Tensor,
    outdir: str | os.PathLike[str],
    *,
    settings: TrainSettings | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train a denoiser and write it as a model directory.

    Args:
        data: what `load_images` accepts, or images of shape (N, C, H, W) in [-1, 1].
        outdir: receives weights.safetensors, config.json and CARD.md (and checkpoint.pt).
        settings: see `TrainSettings`.
        resume: continue from `outdir`'s checkpoint, if there is one.
        progress: show a progress bar, if standard error is a terminal.

    Returns:
        `outdir`.

    Missing data end in `FileNotFoundError`; data, settings or a checkpoint that cannot be used,
    and a loss that is not finite, in `ValueError`; each says what to change.

    Cost: `steps` forward and backward passes of `batch` images.
    """
    settings = settings or TrainSettings()
    _check(settings)
    images = data if isinstance(data, Tensor) else load_images(data)
    _check_images(images, settings)
    outdir = Path(outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    run = _Run(images, settings, outdir)
    if resume and (outdir / CHECKPOINT).exists():
        run.restore()
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # see differentiate
    try:
        run.loop(progress)
    finally:
        torch.set_num_threads(cores)
        run.pool.shutdown()
    run.export(outdir)
    return outdir


class _Run:
    """The state of a training run: network, its average, optimiser, step, time spent."""

    def __init__(self, images: Tensor, settings: TrainSettings, outdir: Path) -> None:
        self.images, self.settings, self.outdir = images, settings, outdir
        self.sigma_data = float(images.std())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.net = UNet(images.shape[1], settings.channels, settings.blocks, settings.heads)
        self.ema = {k: v.detach().clone() for k, v in self.net.named_parameters()}
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=settings.lr, betas=(0.9, 0.99))
        self.pool = ThreadPoolExecutor(settings.threads)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # mean of every 100 steps

    def fraction(self) -> float:
        """Return how much of the run is done, in [0, 1]."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        assert self.settings.minutes is not None  # held by _check
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def loop(self, progress: bool) -> None:
        """Train until the end, with checkpoints and snapshots by wall time."""
        from tqdm import tqdm

        settings, saved = self.settings, self.seconds
        bar = tqdm(total=settings.steps, initial=self.step, unit="step",
                   disable=None if progress else True)  # fmt: skip
        while self.fraction() < 1:
            start, before = time.perf_counter(), self.seconds
            bar.set_postfix(loss=f"{self.advance():.4f}", refresh=False)
            bar.update()
            self.seconds += time.perf_counter() - start
            if self.seconds - saved >= 60 * settings.checkpoint_minutes:
                self.save()
                saved = self.seconds
            if any(before < 60 * m <= self.seconds for m in settings.snapshot_minutes):
                self.export(self.outdir)
        bar.close()
        self.save()

    def advance(self) -> float:
        """Take one step; return its loss."""
        settings, done = self.settings, self.fraction()
        for group in self.optimiser.param_groups:
            rise = min(1.0, (self.step + 1) / max(1, settings.warmup))
            group["lr"] = settings.lr * rise * 0.5 * (1 + math.cos(math.pi * done))
        low = settings.bf16 and done < 1 - settings.exact
        value, gradients = self.differentiate(*self.draw(), low)
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {self.step}: lower lr (now {settings.lr}), "
                "or look for NaN in the data."
            )
        for p, gradient in zip(self.net.parameters(), gradients, strict=True):
            p.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average()
        self.step += 1
        self.log(value)
        return value

    def differentiate(
        self, z: Tensor, x0: Tensor, sigma: Tensor, low: bool
    ) -> tuple[float, list[Tensor]]:
        """Return the loss and its gradient, from parts of the batch that run side by side.

        One core per part, and one meeting per step, wastes far less than two cores that meet in
        every operation of a network as small as this one.
        """

        def part(index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            torch.set_num_threads(1)  # a setting of each thread
            c_skip, c_out, c_in, c_noise = precondition(sigma[index], self.sigma_data)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                raw = self.net(_wide(c_in) * z[index], c_noise)
            target = (x0[index] - _wide(c_skip) * z[index]) / _wide(c_out)
            loss = (raw.float() - target).square().sum() / x0.numel()
            return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))

        # interleaved: the levels of a batch are sorted, and every part should see all of them
        rows, parts = torch.arange(len(z)), min(self.settings.threads, len(z))
        results = list(self.pool.map(part, [rows[i::parts] for i in range(parts)]))
        losses, gradients = zip(*results, strict=True)
        return float(sum(losses)), [torch.stack(g).sum(0) for g in zip(*gradients, strict=True)]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and x0, shape (N, C, H, W), and sigma, shape (N,), of the current step."""
        settings, n = self.settings, self.settings.batch
        g = torch.Generator().manual_seed((settings.seed << 32) + self.step)
        x0 = self.images[torch.randint(len(self.images), (n,), generator=g)]
        if settings.rotation:
            angles = (2 * torch.rand(n, generator=g) - 1) * settings.rotation
            x0 = rotate(x0, angles)
        u = (torch.arange(n) + torch.rand(n, generator=g)) / n
        sigma = sigma_quantile(u, settings)
        return x0 + _wide(sigma) * torch.randn(x0.shape, generator=g), x0, sigma

    def average(self) -> None:
        """Move the EMA towards the weights."""
        decay = min(self.settings.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                self.ema[name].lerp_(p, 1 - decay)

    def log(self, loss: float) -> None:
        """Keep the mean loss of every 100 steps, for the card."""
        count = (self.step - 1) % 100
        if count == 0:
            self.losses.append(0.0)
        self.losses[-1] += (loss - self.losses[-1]) / (count + 1)

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "format": FORMAT, "settings": _fingerprint(self.settings), "step": self.step,
            "seconds": self.seconds, "losses": self.losses, "net": self.net.state_dict(),
            "ema": self.ema, "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        temporary = self.outdir / (CHECKPOINT + ".part")
        torch.save(state, temporary)
        os.replace(temporary, self.outdir / CHECKPOINT)

    def export(self, outdir: Path) -> None:
        """Write the averaged weights as a complete model directory, file by file atomically."""
        from safetensors.torch import save

        settings = self.settings
        config = {
            "name": settings.name, "prediction": "edm", "shape": list(self.images.shape[1:]),
            "sigma_data": self.sigma_data, "sigma_min": settings.sigma_min,
            "sigma_max": settings.sigma_max, "network": self.net.config,
            "training": {**asdict(settings), "images": len(self.images), "steps_done": self.step,
                         "minutes_done": round(self.seconds / 60, 1), "losses": self.losses},
        }  # fmt: skip
        outdir.mkdir(parents=True, exist_ok=True)
        write_atomically(
            outdir / "weights.safetensors", save({k: v.clone() for k, v in self.ema.items()})
        )
        write_atomically(outdir / "config.json", json.dumps(config, indent=1).encode())
        write_atomically(outdir / "CARD.md", card(config).encode())

    def restore(self) -> None:
        """Load the checkpoint."""
        path = self.outdir / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = state["settings"] == _fingerprint(self.settings)
            if same and state["format"] == FORMAT:
                self.net.load_state_dict(state["net"])
                self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:
            raise ValueError(
                f"{path} is not a checkpoint of this program: delete it or train with resume=False."
            ) from error
        if not same:
            raise ValueError(
                f"{path} was written with other settings: give the same settings, another "
                "outdir, or resume=False."
            )
        for name in ("ema", "step", "seconds", "losses"):
            setattr(self, name, state[name])


def sigma_quantile(u: Tensor, settings: TrainSettings) -> Tensor:
    """Map u, uniform in (0, 1), to sigma, whose log is normal cut to [sigma_min, sigma_max]."""
    mean, std = settings.log_sigma_mean, settings.log_sigma_std
    ends = torch.tensor([settings.sigma_min, settings.sigma_max], dtype=torch.float64)
    low, high = torch.special.ndtr((ends.log() - mean) / std)
    log_sigma = mean + std * torch.special.ndtri(low + (high - low) * u.double())
    return log_sigma.exp().to(u.dtype)


def _check(settings: TrainSettings) -> None:
    if (settings.steps is None) == (settings.minutes is None):
        raise ValueError("give either steps or minutes (and None for the other).")
    if not 0 < settings.sigma_min < settings.sigma_max:
        raise ValueError(
            f"sigma_min = {settings.sigma_min} and sigma_max = {settings.sigma_max}: "
            "give 0 < sigma_min < sigma_max."
        )
    for name in ("batch", "threads", "heads"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} = {getattr(settings, name)}: give at least 1.")
    for name in ("steps", "minutes", "log_sigma_std", "lr"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} = {value}: give a positive, finite number.")
    for name in ("channels", "blocks"):
        if not all(n >= 1 for n in getattr(settings, name)) or not getattr(settings, name):
            raise ValueError(f"{name} = {getattr(settings, name)}: give positive numbers.")
    if settings.channels[-1] % settings.heads:
        raise ValueError(
            f"heads = {settings.heads} does not divide the last of channels, "
            f"{settings.channels[-1]}: give another number of heads."
        )
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"seed = {settings.seed}: give a number from 0 to 2^63 - 1.")


def _check_images(images: Tensor, settings: TrainSettings) -> None:
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: give (N, C, H, W).")
    if not images.isfinite().all():
        raise ValueError("the images contain NaN or infinity: remove them.")
    if images.abs().max() > 1.001:
        raise ValueError("the images leave [-1, 1]: rescale them, or give bytes.")
    if images.std() == 0:
        raise ValueError("the images are all one constant: there is nothing to learn.")
    factor = 2 ** (len(settings.channels) - 1)
    if images.shape[-1] % factor or images.shape[-2] % factor:
        raise ValueError(
            f"images are {images.shape[-2]}x{images.shape[-1]}: make both sides divisible by "
            f"{factor}, or give fewer channels."
        )


def _fingerprint(settings: TrainSettings) -> dict[str, object]:
    """Return the settings that a resumed run must share, as plain values."""
    shared = replace(settings, checkpoint_minutes=0.0, snapshot_minutes=(), name="")
    return json.loads(json.dumps(asdict(shared)))


def _wide(x: Tensor) -> Tensor:
    """Shape (N,) to (N, 1, 1, 1)."""
    return x[:, None, None, None]


def card(config: dict[str, Any]) -> str:
    """Return the model card (Markdown) of a training run, without quality."""
    t = config["training"]
    shape = "x".join(map(str, config["shape"]))
    levels = f"{config['sigma_min']:g} to {config['sigma_max']:g}"
    return f"""# {config["name"]}

An unconditional denoiser, m(z, sigma) = E[x0 | z = x0 + sigma eps], of images {shape} in [-1, 1]:
a small U-Net under EDM preconditioning (arXiv 2206.00364).

- Noise levels: sigma from {levels}; sigma_data = {config["sigma_data"]:.4f}.
- Training: {t["images"]} images turned by uniform angles in +-{t["rotation"]:g} degrees,
  {t["steps_done"]} steps of {t["batch"]} images, {t["minutes_done"]:g} minutes.{t.get("note", "")}

      diffodesic train DATA --outdir OUTDIR{_flags(t)}

- Weights: exponential moving average (decay {t["ema"]:g}).

"""


def _flags(training: dict[str, Any]) -> str:
    """Return the command-line flags of the settings that are not the default ones."""
    flags = ""
    for name, default in json.loads(json.dumps(asdict(TrainSettings()))).items():
        value = training.get(name, default)
        if value not in (default, None) and not name.endswith("_minutes"):
            words = value if isinstance(value, list | tuple) else [value]
            flags += " --" + name.replace("_", "-")
            flags += "" if value is True else " " + " ".join(map(str, words))
    return flags
