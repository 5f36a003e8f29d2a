"""What can be seen of a function without calling it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffodesic.denoisers.callables import networks_of, unknown_words


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.layer(x) + t.unsqueeze(-1)


def test_networks_are_found_where_functions_hold_them() -> None:
    net = Net()

    class Object:
        def __init__(self) -> None:
            self.net = net

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return self.net(x, t)

    def function(x: Tensor, t: Tensor) -> Tensor:
        return net(x, t)

    for fn in (
        net,
        net.forward,
        function,
        lambda x, t: function(x, t),
        Object(),
        Object().__call__,
    ):
        assert networks_of(fn) == [net]
    assert networks_of(partial(function, t=torch.zeros(1))) == [net]
    assert networks_of(lambda x, t: x) == []


def keyword_only(x: Tensor, t: Tensor, *, label: int) -> Tensor:
    return label * x


@pytest.mark.parametrize(
    "fn", [Net(), Net().forward, keyword_only, lambda x, t, label=None: x, partial(keyword_only)]
)
def test_words_that_a_network_does_not_take(fn: Callable[..., object]) -> None:
    # the first two arguments are taken by the call itself, by whatever name
    assert unknown_words(fn, ["label", "prompt", "x"]) == ["prompt", "x"]


@pytest.mark.parametrize("fn", [lambda *everything, **words: None, torch.add, max])
def test_functions_that_do_not_say_what_they_take_are_believed(fn: Callable[..., object]) -> None:
    assert unknown_words(fn, ["prompt"]) == []
