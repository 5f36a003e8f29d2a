r"""Train a log-partition network: on images, or after the denoiser of another model.

Both derivatives of the log-density are learned (2506.05310).  With S the spread E|x0 - m|^2 of
Gaussian data with the mean and covariance of the images, which is known before training, the loss
of an image is

    |m - y|^2 / S  +  w (sqrt(1 + q^2) - 1) / (1 + (sigma^2/S)^2),
    q = (Q - |z - c|^2 - |x0 - c|^2) / S,   Q = sigma^2 (D - dU/dlog sigma) = |z - m|^2 + s,

y the clean image x0 or a teacher's posterior mean, s the spread that the network claims.  Both
terms are of order one at every level.  Q stands for E|z - x0|^2, and q vanishes on average where c
is the posterior mean, which is also where it scatters least.  c is the teacher's mean, or the
network's own m, as a constant.  After a teacher a step is thus the gradient of one function of the
weights.  With the network's own m it is not, and may lead in circles that grow: after a teacher, 28
x 28 digits so trained forgot what they knew of much noise, while the loss rose fivefold.  Where m
is no constant a network moves it to please its claim, without bound.

q is the slope of the log-density times sigma^2/S, so that steps of the optimiser that are small for
m are large for it: with squares in place of the root a run diverges within some tens of steps, with
w = 2 after some hundreds, and a small w loses nothing (docs/log-partition.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffodesic.denoisers.predictions import edm_preconditioning
from diffodesic.models.identity import identity, short
from diffodesic.models.image_training import Batch, ImageTraining, TrainSettings, card
from diffodesic.models.log_partition import RANK, LogPartitionNet
from diffodesic.models.model import Model
from diffodesic.models.training_data import Examples
from diffodesic.models.unet import UNet

__all__ = ["LogPartitionTraining"]

_WEIGHT = 0.2  # w
_CHORDS, _SEGMENTS = 16, 16  # on which convexity is tried


class LogPartitionTraining(ImageTraining):
    """A run whose network is a log-density.

    Args:
        examples: what is trained on.
        settings: of the run.
        outdir: receives the model and the checkpoint.
        device: where the network is trained.
        teacher: whose denoiser is followed. Where its network is diffodesic's own, training starts
            from its weights.

    Raises:
        ValueError: for a teacher of pictures of another shape, or levels that it does not know.
    """

    def __init__(
        self,
        examples: Examples,
        settings: TrainSettings,
        outdir: Path,
        device: torch.device | str = "cpu",
        teacher: Model | None = None,
    ) -> None:
        self.teacher = teacher
        if teacher is not None:
            _check(teacher, examples, settings)
        super().__init__(examples, settings, outdir, device)

    def network(self, settings: TrainSettings) -> nn.Module:
        """The log-density of Gaussian data, with a U-Net for what is not Gaussian."""
        inner, offset = self.inner(settings)
        shape = tuple(self.points.shape[1:])
        net = LogPartitionNet(
            inner,
            shape,
            self.sigma_data,
            (settings.sigma_min, settings.sigma_max),
            min(RANK, self.points[0].numel()),
            offset=offset,
        )
        turned = torch.Generator(self.device).manual_seed(settings.seed)
        net.fit(self.clean(self.trained_on.to(self.device), turned).cpu())
        return net

    def inner(self, settings: TrainSettings) -> tuple[nn.Module, bool]:
        """The network f, and whether it starts as that of the teacher."""
        known = self.teacher.denoiser if self.teacher else None
        if known is None or not isinstance(known.fn, UNet):
            return super().network(settings), False
        self.sigma_data = known.sigma_data or self.sigma_data
        own: dict[str, Any] = dict(known.fn.config)
        network = UNet(**own)
        network.load_state_dict(known.fn.state_dict())
        return network, True

    def loss(self, net: Callable[..., Tensor], batch: Batch, low: bool) -> Tensor:
        """The sum of both terms over a batch, times the coordinates of an image."""
        network = cast(LogPartitionNet, net)
        sigma = batch.sigma[:, None]
        skip, gain, scale, noise = edm_preconditioning(sigma, self.sigma_data)
        z, x0 = batch.z.flatten(1), batch.x0.flatten(1)
        x = (z / scale).reshape(batch.z.shape)
        field, spread = network.mean_and_spread(x, noise.flatten(), batch.labels)
        field, clean = field.flatten(1), (x0 - skip * z) / gain
        target = (self.followed(z, x0, batch.sigma) - skip * z) / gain
        unit = network.gaussian_spread(sigma) / gain.flatten() ** 2
        first = (field - target).square().sum(-1) / unit
        fixed = field.detach() if self.teacher is None else target
        # |z - m|^2 - |z - c|^2 takes m out of the claim, and puts c in its place
        both = 2 * (1 - skip) / gain * z - field - fixed
        claimed = spread + ((fixed - field) * both).sum(-1)
        seen = (fixed - clean).square().sum(-1)
        off = (claimed - seen) / unit
        weight = 1 + (batch.sigma**2 / network.gaussian_spread(sigma)).square()
        second = _WEIGHT * ((1 + off**2).sqrt() - 1) / weight
        return x0.shape[1] * (first + second).sum()

    @torch.no_grad()
    def followed(self, z: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """What the mean of noisy images (n, D) is drawn to: the clean ones, or the teacher's."""
        return x0 if self.teacher is None else self.teacher.denoiser(z, sigma)

    def kind(self) -> dict[str, Any]:
        """What a resumed run must share: the teacher's answers instead of its name."""
        kind = super().kind()
        return kind if self.teacher is None else {**kind, "teacher": self.taught_by}

    @cached_property
    def taught_by(self) -> str:
        """Which model the teacher is, whatever its name."""
        assert self.teacher is not None
        return short(identity(self.teacher))

    def config(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        net = cast(LogPartitionNet, self.net)
        config = super().config()
        config["network"] = cast(UNet, net.network).config
        config["log_partition"] = net.config
        config["training"]["negative_steps"] = self.negative_steps()
        return config

    def card(self) -> str:
        """The model card, Markdown."""
        config = self.config()
        share = config["training"]["negative_steps"]
        return card(config) + (
            "The network is that of a log-density (`diffodesic.models.log_partition`); its "
            f"log-partition is not convex on {share:.1%} of {_CHORDS * _SEGMENTS} steps between "
            "noisy images.\n\n"
        )

    @torch.no_grad()
    def negative_steps(self) -> float:
        """Share of steps ``d_eta . d_mu`` below zero on chords between noisy images.

        The steps of a law are relative entropies; a negative one shows that psi is not convex.

        Returns:
            the share, 0 for a law.

        Cost: 17 evaluations on each of 16 chords.
        """
        ends = self.draw(self.trained_on, 2 * _CHORDS, torch.Generator(self.device).manual_seed(0))
        z, log_sigma = ends.z.flatten(1).double(), ends.sigma.log().double()
        share = torch.linspace(0, 1, _SEGMENTS + 1, dtype=z.dtype, device=z.device)[:, None]
        # far apart in their level too
        z = torch.lerp(z[:_CHORDS], z[_CHORDS:], share[..., None])
        k = torch.lerp(log_sigma[:_CHORDS], log_sigma[_CHORDS:], share).mul(-2).exp()
        network = cast(LogPartitionNet, self.average.module)
        m, second = network.denoiser(self.settings.batch).moments(z, k.rsqrt())
        steps = ((k[..., None] * z).diff(dim=0) * m.diff(dim=0)).sum(-1)
        steps = steps - k.diff(dim=0) / 2 * second.diff(dim=0)
        return float((steps < 0).double().mean())


def _check(teacher: Model, examples: Examples, settings: TrainSettings) -> None:
    """Refuse a teacher of other pictures, or of other levels."""
    shape, known = tuple(examples.points.shape[1:]), teacher.denoiser
    if known.shape != shape or hasattr(teacher.codec, "autoencoder") != bool(examples.codec):
        raise ValueError(
            f"teacher {teacher.name!r} knows {'x'.join(map(str, known.shape))} "
            f"{'latents' if hasattr(teacher.codec, 'autoencoder') else 'pixels'}, and the data are "
            f"{'x'.join(map(str, shape))} {'latents' if examples.codec else 'pixels'}: give the "
            "size and the codec that it was trained with."
        )
    low, high = known.log_snr_range
    least, most = (float(torch.tensor(-end / 2).exp()) for end in (high, low))
    if settings.sigma_min < 0.999 * least or settings.sigma_max > 1.001 * most:
        raise ValueError(
            f"teacher {teacher.name!r} knows sigma from {least:.3g} to {most:.3g}: give "
            "sigma_min and sigma_max within."
        )
