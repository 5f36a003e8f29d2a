"""The trial of a metric of one's own: one number per point, of the points' type, in any company.

A metric that sums over the batch, leaves torch or changes the type of numbers ends in an error of
torch far from its cause, or in wrong lengths.  Metrics of the library are not tried.
"""

from __future__ import annotations

from typing import SupportsIndex

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric

__all__ = ["check_dimension", "try_metric"]


def check_dimension(metric: Metric) -> None:
    """TypeError for a metric whose ``dim`` is no number of coordinates."""
    dim = getattr(metric, "dim", None)
    if not isinstance(dim, SupportsIndex) or dim.__index__() < 1:
        raise TypeError(
            f"the metric {type(metric).__name__} has dim = {dim!r}; set dim, the number of "
            "coordinates of its points, in the class or in __init__"
        )


def try_metric(metric: Metric, points: Tensor) -> None:
    """Try the inner product of a metric of one's own at two points, together and alone.

    What differs by less than the fourth root of the type's precision is taken as equal.

    Args:
        metric: the metric; one of the library is not asked.
        points: (2, d), where it is asked.

    Raises:
        TypeError: for an answer that is no tensor, of another type, or without a derivative.
        ValueError: for another shape, an answer that depends on other points of the batch or
            changes from call to call, or a product that fails.

    Cost: six inner products, two of them with a graph; none for a metric of the library.
    """
    of_function = getattr(metric, "of_function", False)
    if type(metric).__module__.startswith("diffodesic.") and not of_function:
        return
    steps = torch.arange(1.0, points.numel() + 1).to(points).reshape_as(points).cos()
    whose = f"{type(metric).__name__}.inner"
    if of_function:
        whose += ", of the function that it was given,"
    try:
        with torch.no_grad():
            together = _answer(metric, points, steps, whose)
            alone = [_answer(metric, points[i : i + 1], steps[i : i + 1], whose) for i in range(2)]
    except FloatingPointError:  # a denoiser that refuses an end: the search says of which pair
        return
    near = torch.finfo(points.dtype).eps ** 0.25
    if not torch.allclose(torch.cat(alone), together, rtol=near, atol=0, equal_nan=True):
        raise ValueError(
            f"{whose} depends on the other points of the batch, or changes from call to call: "
            f"{together.tolist()} for two points, {torch.cat(alone).tolist()} for each alone; sum "
            "over the last axis alone, .sum(-1), and draw no random numbers inside"
        )
    if type(metric).energy is Metric.energy:
        _try_derivative(metric, points, steps, whose)


def _answer(metric: Metric, x: Tensor, u: Tensor, whose: str) -> Tensor:
    """The squared lengths (N,) of steps (N, d), if they are such."""
    try:
        found: object = metric.inner(x, u, u)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"{whose} fails for points of shape {tuple(x.shape)}: {error}; write it in torch for "
            "points (..., d), one number for each"
        ) from error
    if not isinstance(found, Tensor):
        raise TypeError(f"{whose} returned a {type(found).__name__}; it must return a tensor")
    if found.shape != x.shape[:-1]:
        raise ValueError(
            f"{whose} returned shape {tuple(found.shape)} for points of shape {tuple(x.shape)}; it "
            f"must be {tuple(x.shape[:-1])}, one number for each: sum over the last axis, .sum(-1)"
        )
    if found.dtype != x.dtype:
        raise TypeError(
            f"{whose} returned {found.dtype} for points in {x.dtype}; make its own tensors and "
            "networks of that type, or convert the answer by .to(x)"
        )
    return found


def _try_derivative(metric: Metric, points: Tensor, steps: Tensor, whose: str) -> None:
    """TypeError where a search could not follow the derivative."""
    with torch.enable_grad():
        x, u = points.clone().requires_grad_(), steps.clone().requires_grad_()
        try:
            found = metric.inner(x, u, u)
            if found.requires_grad:
                torch.autograd.grad(found.sum(), (x, u), allow_unused=True)
                return
        except RuntimeError as error:
            raise TypeError(_underived(whose, f": {error}")) from error
    raise TypeError(_underived(whose, ""))


def _underived(whose: str, why: str) -> str:
    return (
        f"{whose} has no derivative{why}; write it in torch alone, without numpy, .detach(), "
        ".item() or torch.no_grad()"
    )
