"""Inside ``differentiable``, kernels that are differentiated wrongly or not at all are right."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.denoisers.differentiable import differentiable, full_float32, is_differentiated
from diffodesic.denoisers.network import (
    JvpMode,
    NetworkDenoiser,
    NetworkOptions,
    NonFiniteError,
    from_network,
)
from diffodesic.denoisers.schedules import EDM

SHAPE = (4, 6)
SIGMA = torch.tensor(0.7, dtype=torch.float64)


def attention(x: Tensor, t: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x.sin()[:, None], x[:, None], x.cos()[:, None])[:, 0]


def layer_norm(x: Tensor, t: Tensor) -> Tensor:
    weight, bias = torch.linspace(0.5, 1.5, 6).to(x), torch.linspace(-1, 1, 6).to(x)
    return F.layer_norm(x, (6,), weight, bias=bias, eps=1e-3).sin()


def group_norm(x: Tensor, t: Tensor) -> Tensor:
    return F.group_norm(x.reshape(-1, 6, 4).transpose(1, 2), 2).sin().reshape(x.shape)


NETWORKS = [attention, layer_norm, group_norm]


def denoiser(fn: Callable[..., Tensor], mode: JvpMode = "forward") -> NetworkDenoiser:
    return from_network(
        fn,
        shape=SHAPE,
        schedule=EDM(),
        prediction="x0",
        jvp_mode=mode,
        options=NetworkOptions(trial=False),
    )


@pytest.mark.parametrize("mode", ["forward", "double-vjp", "auto"])
@pytest.mark.parametrize("fn", NETWORKS)
def test_products_and_their_gradients_agree_with_differences(fn, mode, draw):
    model, (z, v, w) = denoiser(fn, mode), draw(3, 5, 24)
    tangent = model.jvp(z, SIGMA, v)[1]
    expected = model.difference(z, SIGMA, v)[1]
    # central differences in float64: 1e-9 of the third derivative
    torch.testing.assert_close(tangent, expected, rtol=1e-6, atol=1e-7)
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad((model.jvp(leaf, SIGMA, v)[1] * w).sum(), leaf)
    # w . D^2 m [v, u] along a direction u
    second = model.second_difference(z, SIGMA, v, w)
    torch.testing.assert_close((slope * w).sum(-1), (second * w).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fn", NETWORKS)
def test_values_are_those_of_the_plain_network(fn, draw):
    x, t = draw(3, *SHAPE), torch.ones(3, dtype=torch.float64)
    with differentiable():
        inside = fn(x, t)
    torch.testing.assert_close(inside, fn(x, t), rtol=1e-12, atol=1e-12)


def test_layer_norm_needs_its_replacement(draw):
    """If this fails, torch has repaired layer normalisation: drop its replacement."""
    z, v = draw(2, 5, 6)

    def slope(replaced: bool) -> Tensor:
        def tangent(p: Tensor) -> Tensor:
            with differentiable() if replaced else nullcontext():
                pushed: Tensor = torch.func.jvp(lambda q: F.layer_norm(q, (6,)), (p,), (v,))[1]
            return pushed

        leaf = z.clone().requires_grad_()
        return torch.autograd.grad((tangent(leaf) ** 2).sum(), leaf)[0]

    right, wrong = slope(True), slope(False)
    assert float((wrong - right).norm() / right.norm()) > 0.1


def test_auto_finds_what_a_network_can_do(draw):
    class NoForward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

    class Wrong(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

        @staticmethod
        def jvp(ctx, v):
            return v * 0.5

    cases: list[tuple[Callable[[Tensor], Tensor], str]] = [
        (lambda x: x.sin(), "forward"),
        (lambda x: 0.3 * x, "forward"),  # the gradient of a constant product is zero, not absent
        (Wrong.apply, "double-vjp"),
        (F.instance_norm, "double-vjp"),  # reverse mode through its forward mode is wrong
        (lambda x: F.glu(torch.cat([x, x.cos()], -1)), "double-vjp"),
        (lambda x: x.detach().sin(), "finite-difference"),
        (NoForward.apply, "finite-difference"),
    ]
    z = draw(2, 24)
    for fn, expected in cases:
        model = denoiser(lambda x, t, fn=fn: fn(x), "auto")
        found = model.jvp(z, SIGMA, z)[1]
        assert model.auto_mode == [expected]
        torch.testing.assert_close(found, model.difference(z, SIGMA, z)[1], rtol=1e-6, atol=1e-7)


def test_auto_settles_once_for_every_condition(draw):
    calls = []

    def fn(x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        calls.append(len(x))
        return (x + shift).sin()

    model, z = denoiser(fn, "auto"), draw(2, 24)
    model.jvp(z, SIGMA, z)
    once = len(calls)
    model.given({"shift": 1.0}).jvp(z, SIGMA, z)
    assert len(calls) == once + 1


def test_auto_settles_inside_a_transform(draw):
    model, z = denoiser(attention, "auto"), draw(24)
    hessian_product = torch.func.jvp(
        lambda p: model.jvp(p, SIGMA, z)[1], (z,), (torch.ones_like(z),)
    )[1]
    assert model.auto_mode == ["forward"]
    again = denoiser(attention).second_difference(z, SIGMA, z, torch.ones_like(z))
    torch.testing.assert_close(hessian_product, again, rtol=1e-4, atol=1e-4)


def test_networks_that_are_not_finite_say_so(draw):
    with pytest.raises(NonFiniteError):
        denoiser(lambda x, t: x / 0, "auto").jvp(draw(24), SIGMA, draw(24))


def test_kernels_are_replaced_only_while_a_derivative_is_taken(draw):
    fast = []

    def fn(x: Tensor, t: Tensor) -> Tensor:
        fast.append(torch.backends.cuda.flash_sdp_enabled())
        return x

    model, z = denoiser(fn), draw(24)
    model(z, SIGMA)
    model.jvp(z, SIGMA, z)
    model(z.requires_grad_(), SIGMA)
    with torch.no_grad():
        model(z, SIGMA)
    assert fast == [True, False, False, True]
    assert torch.backends.cuda.flash_sdp_enabled()
    assert not is_differentiated(z.detach())


def test_modules_are_replaced_too(draw):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True).double().eval()
    layer.requires_grad_(False)
    model = denoiser(lambda x, t: layer(x), "auto")
    z = draw(2, 24)
    assert bool(torch.isfinite(model.jvp(z, SIGMA, z)[1]).all())
    assert model.auto_mode == ["forward"]


@pytest.mark.parametrize("setting", [True, False])
def test_a_setting_of_the_process_is_brought_back_by_the_last_block(monkeypatch, setting):
    """Of two blocks that overlap, as those of two threads do, the first to open closes first."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", setting)
    first, second = ExitStack(), ExitStack()
    first.enter_context(full_float32())
    second.enter_context(full_float32())
    first.close()
    assert torch.backends.cudnn.allow_tf32 is False
    second.close()
    assert torch.backends.cudnn.allow_tf32 is setting


def test_many_threads_leave_the_settings_as_they_were(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def settings() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.flash_sdp_enabled()

    def work(_: int) -> tuple[bool, bool]:
        with full_float32(), differentiable():
            return settings()

    before = settings()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {(False, False)}
    assert settings() == before
