"""Train a small denoiser on a user's images: the EDM objective, in plain torch.

With EDM's preconditioning ``m = skip z + gain F(z / scale, noise)`` (`network.py`, 2206.00364) the
network F minimises, over clean images x0, noise eps and levels sigma,

    E |m(z, sigma) - x0|^2 / gain^2  =  E |F(z / scale, noise) - (x0 - skip z) / gain|^2,
    z = x0 + sigma eps.

The minimiser is the posterior mean E[x0 | z]. Geometry needs its Jacobian too, for which a true
posterior mean obeys E tr dm/dz = E |x0 - m|^2 / sigma^2; `tools/model_card.py` measures by how much
a network does. To that end there is no dropout, every level is well covered, the weights are
averaged (EMA), and the learning rate decays to zero.

log sigma is normal, cut to [sigma_min, sigma_max], and *stratified* inside each batch (one draw in
each of N equal slices of probability), which removes the part of the gradient's variance that
comes from the choice of levels. The loop and the checkpoints are those of `trainer.py`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.network import edm_preconditioning
from diffodesic.models.datasets import load_images, rotate
from diffodesic.models.trainer import RunSettings, Training, check_positive, flags
from diffodesic.models.unet import UNet
from diffodesic.output.stages import fingerprint

__all__ = ["ImageTraining", "TrainSettings", "card", "train"]


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """Settings of a training run on images, besides those of `RunSettings`.

    Args:
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
    """

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max}: "
                "give 0 < sigma_min < sigma_max."
            )
        check_positive(self, "log_sigma_std")
        check_positive(self, "threads", "heads", "channels", "blocks", whole=True)
        if self.channels[-1] % self.heads:
            raise ValueError(
                f"heads = {self.heads} does not divide the last of channels, "
                f"{self.channels[-1]}: give another number of heads."
            )


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
        data: what `load_images` takes, or images (N, C, H, W) in [-1, 1].
        outdir: receives weights.safetensors, config.json and CARD.md (and the folder checkpoint).
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
    images = data if isinstance(data, Tensor) else load_images(data)
    _check_images(images, settings)
    run = ImageTraining(images, settings, Path(outdir))
    try:
        run.run(resume=resume, progress=progress)
    finally:
        run.pool.shutdown()
    return run.outdir


class ImageTraining(Training):
    """A run on images, each batch differentiated in parts."""

    settings: TrainSettings

    def __init__(self, images: Tensor, settings: TrainSettings, outdir: Path) -> None:
        self.images = images
        self.sigma_data = float(images.std())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            net = UNet(images.shape[1], settings.channels, settings.blocks, settings.heads)
        super().__init__(net, settings, outdir)
        self.pool = ThreadPoolExecutor(settings.threads)

    def gradients(self) -> tuple[float, list[Tensor]]:
        """The loss of the current step, and its gradient by every parameter."""
        low = self.settings.bf16 and self.fraction() < 1 - self.settings.exact
        return self.differentiate(*self.draw(), low)

    def differentiate(
        self, z: Tensor, x0: Tensor, sigma: Tensor, low: bool
    ) -> tuple[float, list[Tensor]]:
        """The loss and its gradient, from parts of the batch that run side by side."""

        # for a network as small as this one a thread per part, joined once per step, is far faster
        # than threads that are joined in every operation
        def part(index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            torch.set_num_threads(1)  # a setting of each thread
            level = _wide(sigma[index])
            skip, gain, scale, noise = edm_preconditioning(level, self.sigma_data)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                raw = self.net(z[index] / scale, noise.flatten())
            target = (x0[index] - skip * z[index]) / gain
            loss = (raw.float() - target).square().sum() / x0.numel()
            return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))

        # interleaved, as the levels of a batch are sorted and every part should see all of them
        rows, parts = torch.arange(len(z)), min(self.settings.threads, len(z))
        results = list(self.pool.map(part, [rows[i::parts] for i in range(parts)]))
        losses, gradients = zip(*results, strict=True)
        return float(sum(losses)), [torch.stack(g).sum(0) for g in zip(*gradients, strict=True)]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points z and x0, (N, C, H, W) each, and sigma (N,) of the current step."""
        settings, n = self.settings, self.settings.batch
        g = torch.Generator().manual_seed((settings.seed << 32) + self.step)
        x0 = self.images[torch.randint(len(self.images), (n,), generator=g)]
        if settings.rotation:
            angles = (2 * torch.rand(n, generator=g) - 1) * settings.rotation
            x0 = rotate(x0, angles)
        u = (torch.arange(n) + torch.rand(n, generator=g)) / n
        sigma = sigma_quantile(u, settings)
        return x0 + _wide(sigma) * torch.randn(x0.shape, generator=g), x0, sigma

    def kind(self) -> dict[str, Any]:
        """Settings and data."""
        return {**super().kind(), "data": fingerprint(self.images)}

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``: what turns the weights into a model again."""
        settings = self.settings
        return {
            "name": settings.name, "prediction": "edm", "shape": list(self.images.shape[1:]),
            "sigma_data": self.sigma_data, "sigma_min": settings.sigma_min,
            "sigma_max": settings.sigma_max, "network": self.net.config,
            "training": {**self.spent(), "images": len(self.images)},
        }  # fmt: skip

    def card(self) -> str:
        """The model card, Markdown."""
        return card(self.config())


def sigma_quantile(u: Tensor, settings: TrainSettings) -> Tensor:
    """Map u, uniform in (0, 1), to sigma, whose log is normal cut to [sigma_min, sigma_max]."""
    mean, std = settings.log_sigma_mean, settings.log_sigma_std
    ends = torch.tensor([settings.sigma_min, settings.sigma_max], dtype=torch.float64)
    low, high = torch.special.ndtr((ends.log() - mean) / std)
    log_sigma = mean + std * torch.special.ndtri(low + (high - low) * u.double())
    return log_sigma.exp().to(u.dtype)


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

      diffodesic train DATA --outdir OUTDIR{flags(t, TrainSettings())}

- Weights: exponential moving average (decay {t["ema"]:g}).

"""
