"""Train a small denoiser on a user's images: the EDM objective, in plain torch.

With EDM's preconditioning ``m = skip z + gain F(z / scale, noise)`` (2206.00364) the network F
minimises, over clean images x0, noise eps and levels sigma,

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

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffodesic.denoisers.predictions import edm_preconditioning
from diffodesic.models.datasets import rotate
from diffodesic.models.learned import pixelwise
from diffodesic.models.trainer import RunSettings, Training, check_positive, flags
from diffodesic.models.training_data import Examples
from diffodesic.models.unet import UNet

__all__ = ["Batch", "ImageTraining", "TrainSettings", "card"]

_CHECKED = 256  # held-out pictures whose error is reported


@dataclass(frozen=True)
class TrainSettings(RunSettings):
    """Settings of a training run on images, besides those of `RunSettings`.

    Args:
        log_sigma_mean: mean of log sigma.
        log_sigma_std: standard deviation of log sigma.
        sigma_min: smallest noise trained on, in data units.
        sigma_max: largest noise trained on, in data units.
        rotation: images are turned by a uniform angle in [-rotation, rotation] degrees.
        turned: share of the images that are turned; the others stay as they are, which is sharper
            than any turned one.
        codec: `taesd` trains on the latents of that autoencoder, of pictures in colour; None on
            pixels.
        size: side in pixels that pictures are cropped and resampled to; None leaves theirs.
        held_out: fraction of the pictures that is not trained on; its error is reported.
        label_drop: how often a label is left out, where there are any, so that the network is
            unconditional too.
        device: where the network is trained; `auto` takes a GPU where there is one.
        bf16: bfloat16 autocast, except in the last `exact` part of the run.
        exact: the last fraction of the run, in float32 whatever `bf16` says.
        compile: pass the network through torch.compile, which takes a minute once.
        threads: parts of a batch that are differentiated side by side on a CPU, each on one core.
        channels: widths of the network, see `UNet`.
        blocks: blocks of the network, see `UNet`.
        heads: attention heads of the network, see `UNet`.
        log_partition: learn the log-density of noisy images, whose gradient is the denoiser: exact
            moments and divergences, at two to three times the time per step.
        teacher: a model, as `load` takes it, whose denoiser a log-partition network follows.
    """

    log_sigma_mean: float = -0.5
    log_sigma_std: float = 1.5
    sigma_min: float = 0.01
    sigma_max: float = 40.0
    rotation: float = 0.0
    turned: float = 1.0
    codec: Literal["taesd"] | None = None
    size: int | None = None
    held_out: float = 0.05
    label_drop: float = 0.2
    device: Literal["auto", "cuda", "cpu"] = "auto"
    bf16: bool = False
    exact: float = 0.2
    compile: bool = False
    threads: int = 2
    channels: tuple[int, ...] = (16, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 2)
    heads: int = 2
    log_partition: bool = False
    teacher: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher and not self.log_partition:
            raise ValueError("a teacher is for log_partition (--log-partition): give both or none.")
        if self.log_partition and (self.half or self.bf16 or self.compile):
            raise ValueError(
                "a log-partition network is known by its derivatives, which half, bf16 and compile "
                "ruin: leave them out."
            )
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min = {self.sigma_min} and sigma_max = {self.sigma_max}: "
                "give 0 < sigma_min < sigma_max."
            )
        check_positive(self, "log_sigma_std")
        check_positive(self, "threads", "heads", "channels", "blocks", "size", whole=True)
        for name in ("held_out", "label_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give a fraction below 1.")
        if not 0 <= self.turned <= 1:
            raise ValueError(f"turned = {self.turned}: give a share from 0 to 1.")
        if self.turned < 1 and not self.rotation:
            raise ValueError("turned is a share of what rotation turns: give both.")
        if self.codec and self.rotation:
            raise ValueError("rotation turns pixels, not latents: leave it out with a codec.")
        if self.channels[-1] % self.heads:
            raise ValueError(
                f"heads = {self.heads} does not divide the last of channels, "
                f"{self.channels[-1]}: give another number of heads."
            )


class ImageTraining(Training):
    """A run on pixels or latents, each batch differentiated in parts.

    Args:
        examples: what is trained on.
        settings: of the run.
        outdir: receives the model and the checkpoint.
        device: where the network is trained.
    """

    settings: TrainSettings

    def __init__(
        self,
        examples: Examples,
        settings: TrainSettings,
        outdir: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        self.examples, self.settings = examples, settings
        self.device = torch.device(device)
        self.sigma_data = float(examples.points.std())
        count = len(examples.points)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
        kept = count - round(settings.held_out * count)
        self.trained_on, self.held_out = order[:kept], order[kept:]
        self.points = examples.points.to(self.device)
        self.labels = None if examples.labels is None else examples.labels.to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            net = self.network(settings)
        super().__init__(net.to(self.device), settings, outdir)
        self.parts = settings.threads if self.device.type == "cpu" else 1
        self.pool = ThreadPoolExecutor(self.parts)
        self.forward = torch.compile(self.net) if settings.compile else self.net

    def network(self, settings: TrainSettings) -> nn.Module:
        """The network before its first step."""
        return UNet(
            self.points.shape[1],
            settings.channels,
            settings.blocks,
            settings.heads,
            classes=len(self.examples.names),
        )

    def gradients(self) -> tuple[float, list[Tensor]]:
        """The loss of the current step, and its gradient by every parameter."""
        low = self.settings.bf16 and self.fraction() < 1 - self.settings.exact
        g = torch.Generator(self.device).manual_seed((self.settings.seed << 32) + self.step)
        batch = self.draw(self.trained_on, self.settings.batch, g)
        while True:
            try:
                return self.differentiate(batch, low)
            except torch.OutOfMemoryError as error:
                if self.parts >= self.settings.batch:
                    raise ValueError(
                        "out of memory with one picture at a time: give fewer channels or a size."
                    ) from error
            self.parts = min(2 * self.parts, self.settings.batch)
            warnings.warn(
                f"out of memory: each batch is taken in {self.parts} parts from now on, which "
                "changes no step",
                RuntimeWarning,
                stacklevel=2,
            )

    def differentiate(self, batch: Batch, low: bool) -> tuple[float, list[Tensor]]:
        """The loss and its gradient, from parts of the batch, on a CPU side by side."""

        # for a network as small as this one a thread per part, joined once per step, is far faster
        # than threads that are joined in every operation
        def part(piece: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
            torch.set_num_threads(1)  # a setting of each thread
            loss = self.loss(self.forward, piece, low) / batch.x0.numel()
            return loss.detach(), torch.autograd.grad(loss, list(self.net.parameters()))

        # interleaved, as the levels of a batch are sorted and every part should see all of them
        parts = min(self.parts, len(batch.x0))
        results = list(self.pool.map(part, [batch.every(parts, i) for i in range(parts)]))
        losses, gradients = zip(*results, strict=True)
        return float(sum(losses)), [torch.stack(g).sum(0) for g in zip(*gradients, strict=True)]

    def loss(self, net: Callable[..., Tensor], batch: Batch, low: bool) -> Tensor:
        """What training makes small, summed over a batch; ``low``: in bfloat16."""
        return self.error(net, batch, low)

    def error(self, net: Callable[..., Tensor], batch: Batch, low: bool = False) -> Tensor:
        """Sum of |F - target|^2 over a batch."""
        skip, gain, scale, noise = edm_preconditioning(_wide(batch.sigma), self.sigma_data)
        given = () if batch.labels is None else (batch.labels,)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            raw = net(batch.z / scale, noise.flatten(), *given)
        target = (batch.x0 - skip * batch.z) / gain
        return (raw.float() - target).square().sum()

    def clean(self, index: Tensor, g: torch.Generator) -> Tensor:
        """The examples ``index`` (n,), turned at random where the settings ask for it."""
        x0 = self.points[index]
        if self.settings.rotation:
            turns = 2 * torch.rand(len(index), generator=g, device=self.device) - 1
            if self.settings.turned < 1:
                drawn = torch.rand(len(index), generator=g, device=self.device)
                turns = turns * (drawn < self.settings.turned)
            x0 = rotate(x0, turns * self.settings.rotation)
        return x0

    def draw(self, among: Tensor, n: int, g: torch.Generator) -> Batch:
        """Draw n examples ``among`` these rows, with their noise; ``g`` on the run's device."""
        settings, device = self.settings, self.device
        choice = torch.randint(len(among), (n,), generator=g, device=device)
        index = among.to(device)[choice]
        x0 = self.clean(index, g)
        u = (torch.arange(n, device=device) + torch.rand(n, generator=g, device=device)) / n
        sigma = sigma_quantile(u, settings)
        z = x0 + _wide(sigma) * torch.randn(x0.shape, generator=g, device=device)
        labels = None
        if self.labels is not None:
            dropped = torch.rand(n, generator=g, device=device) < settings.label_drop
            labels = self.labels[index].masked_fill(dropped, len(self.examples.names))
        return Batch(z, x0, sigma, labels)

    @torch.no_grad()
    def errors(self, rows: Tensor) -> tuple[float, float]:
        """Of the averaged weights and of the best linear denoiser of each pixel, on equal draws."""
        batch = self.draw(rows, _CHECKED, torch.Generator(self.device).manual_seed(0))
        parts = -(-_CHECKED // self.settings.batch)
        total = sum(
            float(self.error(self.average.module, batch.every(parts, i))) for i in range(parts)
        )
        sigma = _wide(batch.sigma)
        gain = edm_preconditioning(sigma, self.sigma_data)[1]
        linear = (pixelwise(batch.z, batch.x0, sigma) - batch.x0) / gain
        return total / batch.x0.numel(), float(linear.square().mean())

    def check(self) -> str:
        """The denoising error of the averaged weights, in words."""
        errors = []
        for rows in (self.trained_on, self.held_out):
            if len(rows) == 0:
                continue
            errors.append(f"{self.errors(rows)[0]:.4f}")
        names = ("trained on", "held out")
        found = ", ".join(f"{e} on pictures {name}" for e, name in zip(errors, names, strict=False))
        return f"denoising error {found} (1: nothing is known but the mean)"

    def kind(self) -> dict[str, Any]:
        """Settings and data, but not where it runs."""
        kind = {**super().kind(), "data": self.examples.fingerprint()}
        return {key: value for key, value in kind.items() if key not in {"device", "compile"}}

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``: what turns the weights into a model again."""
        settings, examples = self.settings, self.examples
        config: dict[str, Any] = {
            "name": settings.name, "prediction": "edm", "shape": list(examples.points.shape[1:]),
            "sigma_data": self.sigma_data, "sigma_min": settings.sigma_min,
            "sigma_max": settings.sigma_max, "network": self.net.config,
        }  # fmt: skip
        if examples.codec:
            config["codec"] = examples.codec.config()
        if examples.names:
            config["labels"] = list(examples.names)
        seen = {"images": len(self.trained_on), "images_held_out": len(self.held_out)}
        found = dict(
            zip(("denoising_error", "linear_error"), self.errors(self.trained_on), strict=True)
        )
        return {**config, "training": {**self.spent(), **seen, **found}}

    def card(self) -> str:
        """The model card, Markdown."""
        return card(self.config())


@dataclass(frozen=True)
class Batch:
    """Points z and x0, (N, C, H, W) each, sigma (N,), and labels (N,) or None."""

    z: Tensor
    x0: Tensor
    sigma: Tensor
    labels: Tensor | None = None

    def every(self, parts: int, first: int) -> Batch:
        """One of several parts, interleaved."""
        rows = slice(first, None, parts)
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.z[rows], self.x0[rows], self.sigma[rows], labels)


def sigma_quantile(u: Tensor, settings: TrainSettings) -> Tensor:
    """Map u, uniform in (0, 1), to sigma, whose log is normal cut to [sigma_min, sigma_max]."""
    mean, std = settings.log_sigma_mean, settings.log_sigma_std
    ends = torch.tensor([settings.sigma_min, settings.sigma_max], dtype=torch.float64)
    low, high = torch.special.ndtr((ends.log() - mean) / std)
    log_sigma = mean + std * torch.special.ndtri(low + (high - low) * u.double())
    return log_sigma.exp().to(u.dtype)


def _wide(x: Tensor) -> Tensor:
    """Shape (N,) to (N, 1, 1, 1)."""
    return x[:, None, None, None]


def card(config: dict[str, Any]) -> str:
    """Return the model card (Markdown) of a training run, without quality."""
    t, defaults = config["training"], TrainSettings()
    shape = "x".join(map(str, config["shape"]))
    levels = f"{config['sigma_min']:g} to {config['sigma_max']:g}"
    labels, data = config.get("labels", []), f"images {shape} in [-1, 1]"
    if "codec" in config:
        pixels = "x".join(str(8 * side) for side in config["shape"][1:])
        data = f"the latents {shape} of colour images {pixels} under TAESD"
    turned = f" turned by uniform angles in +-{t['rotation']:g} degrees" if t["rotation"] else ""
    turned += f" ({t['turned']:.0%} of them)" if t.get("turned", 1.0) < 1 else ""
    kinds = f" (of all, or of one of {len(labels)} kinds)" if labels else ""
    return f"""# {config["name"]}

A denoiser{kinds}, m(z, sigma) = E[x0 | z = x0 + sigma eps],
of {data}: a small U-Net under EDM preconditioning (arXiv 2206.00364).

- Noise levels: sigma from {levels}; sigma_data = {config["sigma_data"]:.4f}.
- Training: {t["images"]} images{turned},
  {t["steps_done"]} steps of {t["batch"]} images, {t["minutes_done"]:g} minutes.{t.get("note", "")}

      diffodesic train DATA --outdir OUTDIR{" --labels" if labels else ""}{flags(t, defaults)}

- Weights: exponential moving average (decay {t["ema"]:g}).

"""
