"""A small, smooth U-Net: the raw network F(c_in z, c_noise) of an EDM denoiser (2206.00364).

``edm_preconditioning`` makes a posterior mean of it.  Geometry differentiates that in z and
in sigma, so all operations are smooth (SiLU, strided convolutions, softmax) and have forward-mode
and reverse-mode derivatives, and each of the other.  Most of the width is at 14x14 and 7x7, where a
channel costs 4 and 16 times less than at 28x28.

The noise enters through sin and cos of w c_noise, w between 1 and 12, c_noise = log(sigma)/4: this
is smooth in sigma, and tells apart levels that differ by a few per cent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoiseEmbedding(nn.Module):
    """Turn c_noise, shape (N,), into a smooth embedding of shape (N, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        frequencies = torch.logspace(0.0, 1.08, 16)  # 1 .. 12 radians per unit of c_noise
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Embed c_noise, shape (N,), as (N, width)."""
        phase = noise[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))


class Block(nn.Module):
    """Residual block (pre-normalised); the noise scales and shifts its second normalisation."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(inputs), inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.film = nn.Linear(width, 2 * outputs)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs)
        self.conv2 = _zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x: (N, inputs, H, W) and embedding: (N, width) to (N, outputs, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Stage(nn.ModuleList):
    """Blocks one after another, all given the noise."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x: (N, C, H, W) and embedding: (N, width) through every block."""
        for block in self:
            x = block(x, embedding)
        return x


class Attention(nn.Module):
    """Self-attention between pixels, written out so that every derivative of it exists."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (N, C, H, W) to the same shape."""
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.unbind(1)  # each (N, heads, C / heads, H W)
        weights = (q.transpose(-1, -2) @ k * (c // self.heads) ** -0.5).softmax(-1)
        mixed = v @ weights.transpose(-1, -2)
        return x + self.out(mixed.reshape(n, c, height, width))


MOST_BLOCKS = 1000
"""Residual blocks of the largest network: each takes a while to make, whatever its width."""


class UNet(nn.Module):
    """The raw EDM network F(c_in z, c_noise).

    Args:
        in_channels: C, channels of the image.
        channels: width at each resolution; every further entry halves height and width, so both
            must be divisible by 2 ** (len(channels) - 1).
        blocks: residual blocks at each resolution on the way down; the way up has as many, except
            that the lowest resolution has its blocks once.
        heads: attention heads at the lowest resolution; 0 switches attention off.
        width: size of the noise embedding.
        classes: number of labels that the network can be given; 0 for an unconditional network.

    Raises:
        ValueError: if `channels` and `blocks` differ in length, or there are too many blocks.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: tuple[int, ...] = (24, 64, 128),
        blocks: tuple[int, ...] = (1, 2, 2),
        heads: int = 2,
        width: int = 96,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks):
            raise ValueError(
                f"channels has {len(channels)} entries and blocks {len(blocks)}: "
                "give one number of blocks per resolution."
            )
        if sum(blocks) > MOST_BLOCKS:
            raise ValueError(f"blocks = {tuple(blocks)}: give at most {MOST_BLOCKS} in all.")
        self.config = {
            "in_channels": in_channels,
            "channels": list(channels),
            "blocks": list(blocks),
            "heads": heads,
            "width": width,
        }
        if classes:
            self.config["classes"] = classes
        # one more stands for "no label": one network is conditional and unconditional
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.embed = NoiseEmbedding(width)
        self.stem = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, (c, count) in enumerate(zip(channels, blocks, strict=True)):
            self.down.append(Stage(Block(c, c, width) for _ in range(count)))
            if level + 1 < len(channels):
                lower = channels[level + 1]
                self.shrink.append(nn.Conv2d(c, lower, 3, stride=2, padding=1))
                # a 1x1 convolution commutes with nearest upsampling: do it where it is cheap
                self.grow.append(nn.Conv2d(lower, c, 1))
                sizes = [2 * c] + [c] * (count - 1)
                self.up.append(Stage(Block(size, c, width) for size in sizes))
        self.attention = Attention(channels[-1], heads) if heads else nn.Identity()
        self.norm = nn.GroupNorm(_groups(channels[0]), channels[0])
        self.film = nn.Linear(width, 2 * channels[0])
        self.out = _zero(nn.Conv2d(channels[0], in_channels, 3, padding=1))

    def forward(self, x: Tensor, noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Evaluate F.

        Args:
            x: c_in z, shape (N, C, H, W).
            noise: c_noise = log(sigma) / 4, shape (N,).
            class_labels: labels from 0 to ``classes - 1``, shape (N,), ``classes`` where there is
                none; without them no input has a label.

        Returns:
            F, shape (N, C, H, W).

        Cost: one network evaluation.
        """
        embedding = self.embed(noise)
        if self.label is not None:
            none = self.label.num_embeddings - 1
            labels = x.new_full((len(x),), none, dtype=torch.long)
            embedding = embedding + self.label(labels if class_labels is None else class_labels)
        h, skips = self.stem(x), []
        for level, stage in enumerate(self.down):
            h = stage(h, embedding)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        h = self.attention(h)
        for level in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[level](h), scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skips[level]], dim=1)
            h = self.up[level](h, embedding)
        # the last scale depends on the noise: each level can calibrate the size of its output
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.out(F.silu(torch.addcmul(shift, self.norm(h), 1 + scale)))


def _groups(channels: int) -> int:
    """The largest number of groups, at most 8, that divides ``channels``."""
    return next(groups for groups in range(8, 0, -1) if channels % groups == 0)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Zero a layer, so that the branch that ends with it starts as zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
