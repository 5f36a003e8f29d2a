r"""Two faults of frames that distances between sets of pictures hardly see.

**Wax.**  Frames of too little noise come back smooth.  With X the discrete Fourier transform of a
picture that is mirrored at its borders, so that they are no edges,

    fine energy = mean square of what lies above ``cut`` cycles per pixel,
                = sum_{|f| > cut} |X(f)|^2 / N^2,     N the number of pixels of the mirrored picture

(Parseval).  What counts is its ratio to that of real pictures of the same size.

**Double exposures.**  A frame that shows both ends at once is near to a blend of them and far from
every real picture:

    d_real / (d_real + d_blend),   d_blend = min over w in .3, .4, .5, .6, .7 of d(x, (1-w) a + w b)

is 0 for a real picture, 1 for a blend, above 1/2 for what is more like a blend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffodesic.images.features import Features

__all__ = ["blends", "double_exposure", "doubling", "fine_energy"]

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)


def fine_energy(images: Tensor, *, cut: float = 0.25) -> Tensor:
    """Energy of the fine structure of pictures.

    Args:
        images: (N, C, H, W).
        cut: lowest frequency that counts, in cycles per pixel; 1/4 is half of what a row of
            pixels can show.

    Returns:
        mean squares (N,), over pixels and channels, in units of the pixels squared.

    Raises:
        ValueError: for another number of axes, or a cut outside 0 to 1/2.
    """
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got {tuple(images.shape)}")
    if not 0 <= cut < 0.5:
        raise ValueError(f"cut must be at least 0 and below 1/2, got {cut}")
    whole = torch.cat([images, images.flip(-1)], -1)
    whole = torch.cat([whole, whole.flip(-2)], -2)
    height, width = whole.shape[-2:]
    rows, columns = (torch.fft.fftfreq(size, device=images.device) for size in (height, width))
    fine = rows.square()[:, None] + columns.square() > cut**2
    energy = torch.fft.fft2(whole).abs().square() * fine
    return energy.sum((-2, -1)).mean(-1) / (height * width) ** 2


def blends(ends: Tensor) -> Tensor:
    """Blends (5, C, H, W) of two pictures (2, C, H, W), which a double exposure looks like."""
    w = torch.tensor(SHARES).to(ends)[:, None, None, None]
    return torch.lerp(ends[:1], ends[1:], w)


def double_exposure(frames: Tensor, real: Tensor, ends: Tensor, features: Features) -> Tensor:
    """How much frames look like two pictures at once.

    Args:
        frames: pictures between two ends, (F, C, H, W) in [0, 1].
        real: real pictures that they may look like, (K, C, H, W).
        ends: the two pictures, (2, C, H, W), as the frames' decoder shows them.
        features: whose distance is taken.

    Returns:
        ``d_real / (d_real + d_blend)`` of each frame, (F,), from 0 to 1; 0 where both are 0.

    Cost: one pass of the extractor per picture.
    """
    far = features.distances(frames, torch.cat([real, blends(ends).to(real)]))
    return doubling(*(part.amin(-1) for part in far.split([len(real), len(SHARES)], -1)))


def doubling(lone: Tensor, mixed: Tensor) -> Tensor:
    """The measure of :func:`double_exposure` from distances to real pictures and to blends."""
    return lone / (lone + mixed).clamp(min=torch.finfo(lone.dtype).tiny)
