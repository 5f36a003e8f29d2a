"""A metric that a user writes, outside the package: every verb takes it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic.images import ExtrapolateOptions, InterpolateOptions
from diffodesic.metrics.continuation import Stop, continue_path
from support.tiny import pictures, tiny_model


class Valley(dd.Metric):
    """``diag(e^(2 a_1 x_1), 1, ..., 1)``: flat in y_1 = (e^(a x_1) - 1)/a and the other x_i."""

    def __init__(self, dim: int, slope: float = 0.5) -> None:
        self.dim, self.slope = dim, slope

    def scale(self, x: Tensor) -> Tensor:
        """Factors of the coordinates, (..., d)."""
        first = (self.slope * x[..., :1]).exp()
        return torch.cat([first, torch.ones_like(x[..., 1:])], -1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (self.scale(x).square() * u * v).sum(-1)

    def flattened(self, x: Tensor) -> Tensor:
        """Coordinates in which geodesics are straight lines, (..., d)."""
        first = torch.expm1(self.slope * x[..., :1]) / self.slope
        return torch.cat([first, x[..., 1:]], -1)


def test_geodesic_distance_and_continuation_are_those_of_the_flat_coordinates():
    metric = Valley(2)
    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.7]], dtype=torch.float64)
    straight = metric.flattened(b) - metric.flattened(a)
    path = dd.geodesic(metric, a, b, nodes=64)
    assert path.ok
    assert float(path.length) == pytest.approx(float(straight.norm()), rel=1e-5)
    assert float(dd.distance(metric, a, b)) == pytest.approx(float(straight.norm()), rel=1e-5)
    middle = metric.flattened(a) + straight / 2
    # the energy is met to 1e-6, points to its square root
    torch.testing.assert_close(metric.flattened(path(0.5)), middle, rtol=1e-3, atol=1e-3)
    found = continue_path(path, 0.25, points=2)
    assert found.stop is Stop.COMPLETE
    end = metric.flattened(b) + straight / 4
    torch.testing.assert_close(metric.flattened(found.points[-1]), end, rtol=1e-3, atol=1e-3)


def test_images_are_joined_and_continued_in_it(tmp_path):
    model, images = tiny_model(), pictures(2)
    metric = Valley(model.denoiser.dim)
    options = InterpolateOptions(frames=3, nodes=8, flow_steps=4)
    result = dd.interpolate(model, *images, space=metric, options=options)
    assert result.geodesic.ok
    a, b = (metric.flattened(end) for end in result.geodesic.nodes[[0, -1]])
    assert result.paths["geodesic"].length == pytest.approx(float((b - a).norm()), rel=1e-3)
    assert result.paths["geodesic"].length <= result.paths["LERP"].length
    settings = json.loads((result.save(tmp_path) / "result.json").read_text())["settings"]
    assert settings["metric"] == "Valley"
    assert settings["space"] == "Fixed(Valley, log_snr='auto')"
    beyond = ExtrapolateOptions(points=2, frames=3, nodes=8, flow_steps=4)
    found = dd.extrapolate(model, *images, amount=0.2, space=metric, options=beyond)
    assert found.frames.shape == (5, 1, 8, 8)
    end = metric.flattened(found.continuation.points[-1])
    torch.testing.assert_close(end, b + 0.2 * (b - a), rtol=1e-2, atol=1e-2)
