"""Has a training run learned anything?  Its error against the best linear denoiser of each pixel.

That one knows the mean mu and the variance v of every pixel, and nothing of its neighbours:
``m = mu + v / (v + sigma^2) (z - mu)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["nothing_learned", "pixelwise"]


def pixelwise(z: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """The best linear denoiser of each pixel, of these draws.

    Args:
        z: noisy points (N, ...).
        x0: clean points (N, ...), whose mean and variance it knows.
        sigma: noise standard deviations, of a shape that broadcasts to that of ``z``.

    Returns:
        its posterior means (N, ...).
    """
    mean, variance = x0.mean(0), x0.var(0, unbiased=False)
    return mean + variance / (variance + sigma**2) * (z - mean)


def nothing_learned(training: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence on a run whose error is not below that of :func:`pixelwise`; none of others.

    Args:
        training: the entry of that name in the configuration of a model; runs that wrote no errors
            are not judged.

    Returns:
        the sentence, or nothing.
    """
    error, linear = (training.get(name) for name in ("denoising_error", "linear_error"))
    if error is None or linear is None or error < linear:
        return ()
    return (
        f"training has learned nothing: after {training['steps_done']} steps the denoising error "
        f"is {error:.3g}, and {linear:.3g} without a network (the best linear denoiser of each "
        "pixel); results of this model mean little, train longer",
    )
