"""Networks that are no function of one point and one level: each fault ends in its sentence.

The same table stands in docs/bring-your-own-model.md, word for word.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffodesic.denoisers.flow import drop, lift
from diffodesic.denoisers.network import NetworkDenoiser, NetworkOptions, from_network
from diffodesic.denoisers.schedules import Tabulated
from diffodesic.denoisers.trial import NetworkError

PAGE = Path(__file__).parents[2] / "docs" / "bring-your-own-model.md"
SHAPE = (1, 4, 6)


class Net(nn.Module):
    """A small network in order: convolutions, a time embedding, SiLU."""

    def __init__(self, *inside: nn.Module, channels: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.enter, self.leave = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, channels, 1)
            self.time = nn.Linear(2, 4)
        self.inside = nn.Sequential(*inside)

    def embed(self, t: Tensor) -> Tensor:
        angle = t[:, None] / 300
        return self.time(torch.cat([angle.sin(), angle.cos()], -1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = nn.functional.silu(self.enter(x) + self.embed(t)[:, :, None, None])
        return self.leave(self.inside(h))


class Holding(Net):
    """A network with a buffer that its forward moves, as running statistics do."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x, t)


class Table(Net):
    """A network that looks its time up."""

    def __init__(self, *, truncates: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.table = nn.Embedding(1000, 4)
        self.truncates = truncates

    def embed(self, t: Tensor) -> Tensor:
        return self.table(t.long() if self.truncates else t)


class Counting:
    """A function with a memory."""

    def __init__(self) -> None:
        self.net, self.count = Net(), 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.count += 1
        return self.net(x, t) + 0.1 * self.count


class Straight(torch.autograd.Function):
    """Rounding to eighths, its gradient that of three times the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * g


def closed(call: Callable[[nn.Module, Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    """A function around a network in order."""
    net = Net().eval().requires_grad_(False)
    return lambda x, t: call(net, x, t)


def hidden(call: Callable[[nn.Module, Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    """The same, its network where nobody looks."""
    held = [Net().eval().requires_grad_(False)]
    return lambda x, t: call(held[0], x, t)


def poisoned() -> nn.Module:
    net = Net()
    with torch.no_grad():
        net.leave.weight[0, 1] = torch.nan
    return net


def adding(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    x += 1
    return net(x, t)


def stale(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    t *= 0.5
    return net(x, t)


# what is wrong -> the network
FAULTS: dict[str, Callable[[], Any]] = {
    "dropout left on": lambda: Net(nn.Dropout(0.1)),
    "batch norm in train mode": lambda: Net(nn.BatchNorm2d(4)),
    "statistics of the batch in eval mode": lambda: Net(
        nn.BatchNorm2d(4, track_running_stats=False)
    ).eval(),
    "one level for the whole batch": lambda: closed(lambda n, x, t: n(x, t[:1].expand(len(x)))),
    "functional dropout": lambda: closed(
        lambda n, x, t: n(nn.functional.dropout(x, 0.1, training=True), t)
    ),
    "noise inside": lambda: closed(lambda n, x, t: n(x, t) + 0.1 * torch.randn_like(x)),
    "a call counter": Counting,
    "a buffer that moves": Holding,
    "integer times only": Table,
    "times cut to integers": lambda: Table(truncates=True),
    "the level is ignored": lambda: closed(lambda n, x, t: n(x, torch.zeros_like(t))),
    "float32 inside, input float64": lambda: hidden(lambda n, x, t: n(x, t)),
    "float32 and back to float64": lambda: hidden(lambda n, x, t: n(x.float(), t.float()).double()),
    "half precision inside": lambda: closed(lambda n, x, t: n(x.bfloat16().float(), t)),
    "weights in half precision": lambda: Net().half(),
    "overflow at one end": lambda: closed(
        lambda n, x, t: n(x, t) + torch.exp((t - 900)[:, None, None, None])
    ),
    "NaN weights": poisoned,
    "weights not loaded": lambda: Net().to("meta"),
    "another device": lambda: closed(lambda n, x, t: n(x.to("meta"), t)),
    "it raises": lambda: closed(lambda n, x, t: n(x, t).reshape(5, 5)),
    "level of shape (N,)": lambda: closed(lambda n, x, t: n(x * (1 + t), t)),
    "a third argument": lambda: lambda x, t, label: x,
    "another shape": lambda: Net(channels=2),
    "a tuple": lambda: closed(lambda n, x, t: (n(x, t),)),
    "a dictionary": lambda: closed(lambda n, x, t: {"eps": n(x, t)}),
    "a ModelOutput": lambda: closed(lambda n, x, t: SimpleNamespace(sample=n(x, t))),
    "complex numbers": lambda: closed(lambda n, x, t: torch.fft.fft(n(x, t))),
    "x changed in place": lambda: closed(adding),
    "t changed in place": lambda: closed(stale),
    "detached output": lambda: closed(lambda n, x, t: n(x, t).detach()),
    "another gradient than its values": lambda: closed(lambda n, x, t: n(Straight.apply(x), t)),
}


def wrap(fn: Any, **more: Any) -> NetworkDenoiser:
    given = {"shape": SHAPE, "schedule": Tabulated.ddpm_linear(), "prediction": "eps"}
    return from_network(fn, **{**given, **more})


def sentence(fn: Any) -> str:
    """What wrapping a network says: an error, or a warning."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            wrap(fn)
        except NetworkError as error:
            return str(error)
    # forward mode compiles some of torch's own formulas when it is first used
    return "; ".join(str(one.message) for one in told if one.category is RuntimeWarning)


def in_docs() -> dict[str, str]:
    """The table of the page."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {kind.strip(): text.strip() for kind, text in rows}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_ends_in_its_sentence(kind: str) -> None:
    assert sentence(FAULTS[kind]()) == in_docs()[kind]


def test_a_network_in_order_is_told_nothing_and_left_as_it_was() -> None:
    net = Net(nn.Dropout(0.1), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    rows: list[int] = []
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrap(net)
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    # what from_network and docs say that it costs
    assert sum(rows) <= 20
    rows.clear()
    wrap(net, options=NetworkOptions(trial=False))
    assert not rows


def test_buffers_are_put_back() -> None:
    net = Holding()
    assert "put back" in sentence(net)
    assert float(net.calls) == 0
    norm = Net(nn.BatchNorm2d(4))
    assert "train mode" in sentence(norm)
    assert int(norm.get_buffer("inside.0.num_batches_tracked")) == 0


def test_a_table_of_times_is_not_asked_beyond_its_ends() -> None:
    asked: list[int] = []
    table = nn.Embedding(1000, 1).requires_grad_(False)

    def net(x: Tensor, t: Tensor) -> Tensor:
        asked.extend(t.flatten().tolist())
        return 0 * x + table(t).reshape(-1, 1, 1, 1)

    options = NetworkOptions(integer_time=True)
    for schedule in (Tabulated.scaled_linear(), Tabulated.ddpm_linear()):
        denoiser = wrap(net, schedule=schedule, options=options)
        for kind in (torch.float32, torch.float64):
            x = torch.zeros(1, denoiser.dim, dtype=kind)
            for log_snr in denoiser.log_snr_range:
                drop(denoiser, lift(denoiser, x, min(log_snr, 9.0)), min(log_snr, 9.0))
                denoiser(x, torch.tensor(-log_snr / 2, dtype=kind).exp())
    assert min(asked) == 0
    assert max(asked) == 999


def test_a_table_of_times_is_taken_between_its_entries() -> None:
    schedule = Tabulated.ddpm_linear()
    net = Table().eval().requires_grad_(False).double()
    options = NetworkOptions(integer_time=True)
    denoiser = wrap(net, options=options)
    z = torch.randn(1, denoiser.dim, generator=torch.Generator().manual_seed(0)).double()

    def at(t: Tensor) -> Tensor:
        return denoiser(z, torch.exp(-schedule.log_snr(t) / 2))

    def eps(t: float) -> Tensor:
        alpha = schedule.alpha(schedule.log_snr(torch.tensor(400.25).double()))
        return net((alpha * z).reshape(1, *SHAPE), torch.tensor([t]).long()).reshape(1, -1)

    t = torch.tensor(400.25, dtype=torch.float64, requires_grad=True)
    sigma = torch.exp(-schedule.log_snr(t) / 2)
    expected = z - sigma * (0.75 * eps(400) + 0.25 * eps(401))
    torch.testing.assert_close(at(t), expected, rtol=1e-9, atol=1e-9)
    # and it has a slope: central differences inside one entry
    weight = torch.linspace(1, 2, denoiser.dim).double()
    (slope,) = torch.autograd.grad((at(t) * weight).sum(), t)
    with torch.no_grad():
        difference = ((at(t + 1e-3) - at(t - 1e-3)) * weight).sum() / 2e-3
    assert float(slope) == pytest.approx(float(difference), rel=1e-4)


def test_a_finite_difference_denoiser_needs_no_gradient() -> None:
    for kind in ("detached output", "another gradient than its values"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrap(FAULTS[kind](), jvp_mode="finite-difference")


def test_a_chunk_of_one_is_kept() -> None:
    rows: list[int] = []
    net = Net().eval()
    net.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    wrap(net, options=NetworkOptions(chunk=1))
    assert set(rows) == {1}
