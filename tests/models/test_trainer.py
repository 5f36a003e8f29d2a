"""The training loop on one number: its learning rate and its average are those of the header."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from diffodesic.models.trainer import RunSettings, Training


def number(net: nn.Module) -> float:
    (weight,) = net.parameters()
    return weight.item()


class Pull(Training):
    """Minimise |p|^2/2 of one number p."""

    def __init__(self, settings: RunSettings, outdir: Path) -> None:
        net = nn.Linear(1, 1, bias=False)
        nn.init.ones_(net.weight)
        super().__init__(net, settings, outdir)
        self.seen = list[tuple[float, float]]()

    def gradients(self) -> tuple[float, list[Tensor]]:
        (weight,) = self.net.parameters()
        self.seen.append((number(self.net), self.optimiser.param_groups[0]["lr"]))
        return float(weight.detach().square().sum() / 2), [weight.detach().clone()]

    def config(self) -> dict[str, Any]:
        return {"training": self.spent()}

    def card(self) -> str:
        return ""


def test_rate_and_average_follow_their_formulas(tmp_path):
    settings = RunSettings(steps=40, warmup=5, lr=0.1, ema=0.8)
    run = Pull(settings, tmp_path)
    run.run(resume=False, progress=False)
    weights, rates = zip(*run.seen, strict=True)
    assert rates == pytest.approx(
        [0.1 * min(1, (k + 1) / 5) * (1 + math.cos(math.pi * k / 40)) / 2 for k in range(40)]
    )
    average = weights[0]
    for step, weight in enumerate([*weights[1:], number(run.net)]):
        decay = min(0.8, (step + 1) / (step + 10))
        average = decay * average + (1 - decay) * weight
    assert number(run.average.module) == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize("stop", [1, 17])
def test_a_resumed_run_gives_the_same_bits(tmp_path, stop):
    settings = RunSettings(steps=20, warmup=3, lr=0.1)
    whole, first, second = (Pull(settings, tmp_path / name) for name in ("whole", "part", "part"))
    whole.run(resume=False, progress=False)
    first.outdir.mkdir()
    for _ in range(stop):
        first.advance()
    first.save()
    second.run(resume=True, progress=False)
    assert second.seen == whole.seen[stop:]
    assert number(second.average.module) == number(whole.average.module)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 3, "minutes": 1.0}, "either steps or minutes"),
        ({"batch": 0}, "batch = 0: give at least 1"),
        ({"lr": math.nan}, "lr = nan: give a positive, finite number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
    ],
)
def test_settings_that_no_run_can_use_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        RunSettings(**change)
