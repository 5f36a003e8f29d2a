"""What every training run shares: the loop, the averaged weights, checkpoints, and the way back.

A run is `steps` optimiser steps, or as many as fit in some minutes.  Adam's learning rate rises
over a warm-up and falls to nothing along half a cosine; the weights that are kept are an
exponential moving average (EMA), shorter at the beginning.

Every random number of step k comes from a generator seeded by (seed, k). A resumed run
therefore needs no random state, and gives the weights of the uninterrupted run.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffodesic.output.files import write_atomically

__all__ = ["CHECKPOINT", "RunSettings", "Training", "check_run", "flags"]

CHECKPOINT = "checkpoint.pt"
FORMAT = "diffodesic-train-1"


@dataclass(frozen=True)
class RunSettings:
    """What a training run of any model depends on.

    Args:
        steps: optimiser steps; with None, `minutes` of wall time decide.
        minutes: wall time, used (and the run then not reproducible) when `steps` is None.
        batch: examples per step.
        lr: peak learning rate of Adam.
        warmup: steps over which the learning rate grows linearly from zero.
        ema: limit of the EMA decay; the average is shorter at the beginning.
        seed: the seed of everything.
        checkpoint_minutes: wall time between two checkpoints.
        snapshot_minutes: wall times at which the current EMA is written as a complete model.
        name: the name of the model.
    """

    steps: int | None = 20_000
    minutes: float | None = None
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    seed: int = 0
    checkpoint_minutes: float = 5.0
    snapshot_minutes: tuple[float, ...] = ()
    name: str = "model"


def check_run(settings: RunSettings) -> None:
    """Refuse settings that no run can use.

    Args:
        settings: of the run.

    Raises:
        ValueError: for both or neither of steps and minutes, or a number out of its range.
    """
    if (settings.steps is None) == (settings.minutes is None):
        raise ValueError("give either steps or minutes (and None for the other).")
    if settings.batch < 1:
        raise ValueError(f"batch = {settings.batch}: give at least 1.")
    for name in ("steps", "minutes", "lr"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} = {value}: give a positive, finite number.")
    # a step's generator takes 64 bits: the seed above, the step below
    if not 0 <= settings.seed < 2**32:
        raise ValueError(f"seed = {settings.seed}: give a number from 0 to 2^32 - 1.")


class Training(ABC):
    """The state of a training run: network, its average, optimiser, step, time spent.

    Args:
        net: the network.
        settings: of the run.
        outdir: receives the model and the checkpoint.
    """

    def __init__(self, net: nn.Module, settings: RunSettings, outdir: Path) -> None:
        self.net, self.schedule, self.outdir = net, settings, outdir
        self.ema = {k: v.detach().clone() for k, v in net.named_parameters()}
        self.optimiser = torch.optim.Adam(net.parameters(), lr=settings.lr, betas=(0.9, 0.99))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # mean of every 100 steps

    @abstractmethod
    def gradients(self) -> tuple[float, list[Tensor]]:
        """The loss of the current step, and its gradient by every parameter."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What the weights need to become a model again, as plain values."""

    @abstractmethod
    def card(self) -> str:
        """The model card, Markdown."""

    def kind(self) -> dict[str, Any]:
        """What a resumed run must share, as plain values."""
        shared = replace(self.schedule, checkpoint_minutes=0.0, snapshot_minutes=(), name="")
        return dict(json.loads(json.dumps(asdict(shared))))

    def state(self) -> dict[str, Any]:
        """What else a checkpoint keeps, by the names of the attributes."""
        return {}

    def fraction(self) -> float:
        """Return how much of the run is done, in [0, 1]."""
        if self.schedule.steps is not None:
            return self.step / self.schedule.steps
        assert self.schedule.minutes is not None  # held by check_run
        return min(1.0, self.seconds / (60 * self.schedule.minutes))

    def run(self, *, resume: bool, progress: bool) -> None:
        """Train until the end, from the checkpoint if there is one, and write the model."""
        self.outdir.mkdir(parents=True, exist_ok=True)
        if resume and (self.outdir / CHECKPOINT).exists():
            self.restore()
        cores = torch.get_num_threads()
        torch.set_num_threads(1)  # small networks: more threads only wait for each other
        try:
            self.loop(progress)
        finally:
            torch.set_num_threads(cores)
        self.export()

    def loop(self, progress: bool) -> None:
        """Train until the end, with checkpoints and snapshots by wall time."""
        from tqdm import tqdm

        settings, saved = self.schedule, self.seconds
        bar = tqdm(total=settings.steps, initial=self.step, unit="step",
                   disable=None if progress else True)  # fmt: skip
        while self.fraction() < 1:
            start, before = time.perf_counter(), self.seconds
            bar.set_postfix(loss=f"{self.advance():.4f}", refresh=False)
            bar.update()
            self.seconds += time.perf_counter() - start
            if self.seconds - saved >= 60 * settings.checkpoint_minutes:
                self.save()
                saved = self.seconds
            if any(before < 60 * m <= self.seconds for m in settings.snapshot_minutes):
                self.export()
        bar.close()
        self.save()

    def advance(self) -> float:
        """Take one step; return its loss."""
        settings, done = self.schedule, self.fraction()
        for group in self.optimiser.param_groups:
            rise = min(1.0, (self.step + 1) / max(1, settings.warmup))
            group["lr"] = settings.lr * rise * 0.5 * (1 + math.cos(math.pi * done))
        value, gradients = self.gradients()
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {self.step}: lower lr (now {settings.lr}), "
                "or look for NaN in the data."
            )
        for p, gradient in zip(self.net.parameters(), gradients, strict=True):
            p.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average()
        self.step += 1
        self.log(value)
        return value

    def average(self) -> None:
        """Move the EMA towards the weights."""
        decay = min(self.schedule.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                self.ema[name].lerp_(p, 1 - decay)

    def log(self, loss: float) -> None:
        """Keep the mean loss of every 100 steps, for the card."""
        count = (self.step - 1) % 100
        if count == 0:
            self.losses.append(0.0)
        self.losses[-1] += (loss - self.losses[-1]) / (count + 1)

    def spent(self) -> dict[str, Any]:
        """Settings and what became of them, for ``config``."""
        return {
            **asdict(self.schedule),
            "steps_done": self.step,
            "minutes_done": round(self.seconds / 60, 1),
            "losses": self.losses,
        }

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            "format": FORMAT, "settings": self.kind(), "step": self.step,
            "seconds": self.seconds, "losses": self.losses, "net": self.net.state_dict(),
            "ema": self.ema, "optimiser": self.optimiser.state_dict(), **self.state(),
        }  # fmt: skip
        temporary = self.outdir / (CHECKPOINT + ".part")
        torch.save(state, temporary)
        os.replace(temporary, self.outdir / CHECKPOINT)

    def export(self) -> None:
        """Write the averaged weights as a complete model directory, file by file atomically."""
        from safetensors.torch import save

        config = json.dumps(self.config(), indent=1)
        write_atomically(
            self.outdir / "weights.safetensors", save({k: v.clone() for k, v in self.ema.items()})
        )
        write_atomically(self.outdir / "config.json", config.encode())
        write_atomically(self.outdir / "CARD.md", self.card().encode())

    def restore(self) -> None:
        """Load the checkpoint."""
        path = self.outdir / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = state["format"] == FORMAT and state["settings"] == self.kind()
            if same:
                self.net.load_state_dict(state["net"])
                self.optimiser.load_state_dict(state["optimiser"])
        except Exception as error:
            raise ValueError(
                f"{path} is not a checkpoint of this program: delete it or train with resume=False."
            ) from error
        if not same:
            raise ValueError(
                f"{path} was written with other settings, or by another version: give the same "
                "settings, another outdir, or resume=False."
            )
        for name in ("ema", "step", "seconds", "losses", *self.state()):
            setattr(self, name, state[name])


def flags(training: dict[str, Any], defaults: RunSettings) -> str:
    """Return the command-line flags of the settings that are not the default ones."""
    text = ""
    for name, default in json.loads(json.dumps(asdict(defaults))).items():
        value = training.get(name, default)
        if value not in (default, None) and not name.endswith("_minutes"):
            words = value if isinstance(value, list | tuple) else [value]
            text += " --" + name.replace("_", "-")
            text += "" if value is True else " " + shlex.join(map(str, words))
    return text
