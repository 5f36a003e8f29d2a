"""How a network is run: in chunks that fit, in half precision, compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffodesic.denoisers.differentiable import full_float32
from diffodesic.denoisers.network import NetworkError, NetworkOptions, from_network
from diffodesic.denoisers.schedules import VP
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.placement import JoinOptions, place
from diffodesic.images.spaces import ScoreSpace
from diffodesic.models.loading import load
from diffodesic.models.model import ModelError
from support.tiny import pictures, tiny_model


class _Small(nn.Module):
    """A network on a device with room for so many inputs."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.sizes = room, list[int]()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.weight * x / (1 + t[:, None])


def _denoiser(fn: Any, chunk: int | None = None) -> Any:
    options = NetworkOptions(chunk=chunk, trial=False)
    return from_network(fn, shape=(3,), schedule=VP(), prediction="eps", options=options)


def test_where_memory_does_not_suffice_the_chunk_is_halved_and_stays(draw):
    network = _Small(room=3)
    denoiser, z = _denoiser(network, chunk=8), draw(8, 3)
    with pytest.warns(RuntimeWarning) as told:
        found = denoiser(z, torch.tensor(1.0))
    assert [str(w.message)[:45] for w in told] == [
        "out of memory with 8 inputs per call: 4 from ",
        "out of memory with 4 inputs per call: 2 from ",
    ]
    assert denoiser.chunk == 2
    assert network.sizes == [8, 4, 2, 2, 2, 2]
    expected = _denoiser(_Small(room=99))(z, torch.tensor(1.0))
    torch.testing.assert_close(found, expected)
    network.sizes.clear()
    denoiser(z, torch.tensor(1.0))
    assert max(network.sizes) == 2


def test_no_room_for_one_input_says_what_to_do(draw):
    with pytest.raises(NetworkError, match="out of memory with one input per call: take smaller"):
        _denoiser(_Small(room=0), chunk=1)(draw(2, 3), torch.tensor(1.0))


def test_evaluations_in_bfloat16_leave_derivatives_and_geometry_alone():
    model = load("mnist")
    quick = model.running(precision="bfloat16").denoiser
    z = torch.randn(2, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor(1.0, dtype=torch.float64)
    exact = model.denoiser(z, sigma)
    found = quick(z, sigma)
    assert found.dtype == torch.float64
    error = float((found - exact).norm() / exact.norm())
    # 8 bits of mantissa, through some twenty layers
    assert 1e-5 < error < 2e-2
    leaf = z.clone().requires_grad_()
    torch.testing.assert_close(quick(leaf, sigma), model.denoiser(leaf, sigma))
    assert quick.rounding_unit(torch.float64) == torch.finfo(torch.bfloat16).eps


def test_the_certificate_in_bfloat16_stays_put():
    """One path of the shipped network, measured in both: lengths within 1 %."""
    model = load("mnist")
    from diffodesic.models.datasets import shipped_digits

    digits = shipped_digits()[0][[33, 83]].double()
    there = place(model, ScoreSpace(), digits, JoinOptions(flow_steps=8))
    path = there.geodesic(*there.points, nodes=8)
    half = replace(there.lifting, model=model.running(precision="bfloat16"))
    with torch.no_grad():
        again = replace(there, lifting=half).metric.squared_steps(path.nodes).sqrt().sum()
    assert float(again) == pytest.approx(float(path.certificate.discrete_length), rel=0.01)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_compiled_network_gives_the_same_path():
    model = tiny_model()
    a, b = pictures(2)
    asked = InterpolateOptions(space=ScoreSpace(), frames=3, nodes=4, flow_steps=4)
    compiled = model.running(compile=True)
    # without a compiler at hand: the graph is captured and run as it is
    compiled.denoiser.fn = torch.compile(model.denoiser.fn, backend="eager")
    found, plain = (interpolate(each, a, b, options=asked) for each in (compiled, model))
    torch.testing.assert_close(found.frames, plain.frames, rtol=0, atol=1e-4)


def test_full_float32_are_put_back():
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), full_float32():
        assert torch.backends.cudnn.allow_tf32 is False
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32 is before


def test_what_cannot_be_is_refused():
    with pytest.raises(ModelError, match="chunk must be at least 1, got 0"):
        tiny_model().running(chunk=0)
    with pytest.raises(ModelError, match="unknown precision 'float8'; choose float32 or bfloat16"):
        tiny_model().running(precision="float8")  # type: ignore[arg-type]
