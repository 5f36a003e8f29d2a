"""The training loop of every model: learning rate, averaged weights, checkpoints, resuming.

A run takes `steps` optimiser steps, or as many as fit into `minutes`.  With s the fraction done
and w the steps of warm-up, Adam's learning rate at step k and the average m of the weights p are

    lr_k = lr min(1, (k + 1)/w) (1 + cos pi s)/2,
    m <- d_k m + (1 - d_k) p,    d_k = min(ema, (k + 1)/(k + 10)),

a warm-up times half a cosine, and an exponential moving average (EMA) that starts short.

Every random number of step k comes from a generator seeded by (seed, k).  A resumed run therefore
needs no random state, and gives the weights of the uninterrupted run bit for bit.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from diffodesic.models.folder import WEIGHTS, write_model
from diffodesic.numerics import checks
from diffodesic.output.claims import claimed
from diffodesic.output.stages import AGAIN, GOES_ON, Store

__all__ = ["RunSettings", "Training", "flags"]

_DATA = ("data", "points")  # hashes among what a run depends on
EVERY = 30.0  # seconds between two lines where there is no terminal
_VERSION = 3  # of the algorithm: raised where the same settings give other weights


@dataclass(frozen=True)
class RunSettings:
    """Settings that training runs of every kind of model share.

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
        half: write the weights in half precision.

    Raises:
        ValueError: for both or neither of steps and minutes, or a number out of its range.
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
    half: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("give either steps or minutes (and None for the other).")
        check_positive(self, "batch", whole=True)
        check_positive(self, "steps", "minutes", "lr")
        # the seed of a step has 64 bits: the run's seed above, the step below
        if checks.seed(self.seed) >= 2**32:
            raise ValueError(f"seed = {self.seed}: give a number from 0 to 2^32 - 1.")


def check_positive(settings: RunSettings, *names: str, whole: bool = False) -> None:
    """Refuse settings that are not positive and finite: tuples entry by entry; None passes."""
    for name in names:
        value = getattr(settings, name)
        entries = value if isinstance(value, tuple) else () if value is None else (value,)
        if value == () or not all(0 < entry < math.inf for entry in entries):
            wanted = "at least 1" if whole else "a positive, finite number"
            raise ValueError(f"{name} = {value}: give {wanted}.")


class Training(ABC):
    """The state of a training run: network, averaged weights, optimiser, step, seconds spent.

    Args:
        net: the network.
        settings: of the run.
        outdir: receives the model and the checkpoint.
    """

    def __init__(self, net: nn.Module, settings: RunSettings, outdir: Path) -> None:
        self.net, self.settings, self.outdir = net, settings, outdir
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # mean of every 100 steps
        self.average = AveragedModel(net, multi_avg_fn=self._average)
        self.average.update_parameters(net)  # the average starts at the first weights
        self.optimiser = torch.optim.AdamW(
            net.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self.rate = LambdaLR(self.optimiser, self._rate)

    @abstractmethod
    def gradients(self) -> tuple[float, list[Tensor]]:
        """The loss of the current step, and its gradient by every parameter."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``: what turns the weights into a model again."""

    @abstractmethod
    def card(self) -> str:
        """The model card, Markdown."""

    def kind(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON values."""
        free = {"checkpoint_minutes", "snapshot_minutes", "name", "half"}
        return {key: value for key, value in asdict(self.settings).items() if key not in free}

    def state(self) -> dict[str, Tensor]:
        """Further attributes, by name, that a checkpoint keeps."""
        return {}

    def check(self) -> str:
        """How good the averaged weights are, in words, said at every checkpoint."""
        return f"mean loss {self.losses[-1]:.4f}" if self.losses else ""

    @cached_property
    def store(self) -> Store:
        """Where the checkpoint is kept."""
        afresh = "give the same settings and data, another outdir, or resume=False (--fresh)"
        return Store(self.outdir / "checkpoint", {"training": _VERSION, **self.kind()}, afresh)

    def fraction(self) -> float:
        """The fraction of the run that is done, in [0, 1]."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        assert self.settings.minutes is not None  # checked by RunSettings
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def _rate(self, _: int) -> float:
        """Learning rate of the current step, over its peak."""
        rise = min(1.0, (self.step + 1) / max(1, self.settings.warmup))
        return rise * (1 + math.cos(math.pi * self.fraction())) / 2

    def _average(self, means: Any, weights: Any, count: Tensor | int) -> None:
        """Update the EMA of all weights after ``count`` steps, as one operation on a GPU."""
        decay = min(self.settings.ema, int(count) / (int(count) + 9))
        torch._foreach_lerp_(means, weights, 1 - decay)

    def run(self, *, resume: bool, progress: bool) -> None:
        """Train until the end, from the checkpoint if there is one, and write the model."""
        self.outdir.mkdir(parents=True, exist_ok=True)
        with claimed(self.outdir):
            if not resume:
                shutil.rmtree(self.outdir / "checkpoint", ignore_errors=True)
            elif (self.outdir / WEIGHTS).exists() and not (self.outdir / "checkpoint").exists():
                raise ValueError(
                    f"{self.outdir} holds a model, and no checkpoint of its training to go on "
                    "from; give another outdir, or resume=False (--fresh) to replace it"
                )
            with self.store.held():
                self.restore()
                if progress and self.step:
                    print(f"{GOES_ON}, which has taken {self.step} steps", file=sys.stderr)
                elif progress and self.store.stopped:
                    print(AGAIN, file=sys.stderr)
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

        settings, saved, told = self.settings, self.seconds, self.seconds

        def keep() -> None:
            self.save()
            if progress:
                tqdm.write(self.words(), file=sys.stderr)

        bar = tqdm(total=settings.steps, initial=self.step, unit="step",
                   disable=None if progress else True)  # fmt: skip
        while self.fraction() < 1:
            start, before = time.perf_counter(), self.seconds
            bar.set_postfix(loss=f"{self.advance():.4f}", refresh=False)
            bar.update()
            self.seconds += time.perf_counter() - start
            if self.seconds - saved >= 60 * settings.checkpoint_minutes:
                keep()
                saved = self.seconds
            # a checkpoint has a line of its own, and a terminal has the bar
            if progress and bar.disable and self.seconds - max(saved, told) >= EVERY:
                print(self.words(check=False), file=sys.stderr, flush=True)
                told = self.seconds
            if any(before < 60 * m <= self.seconds for m in settings.snapshot_minutes):
                self.export()
        bar.close()
        keep()

    def words(self, *, check: bool = True) -> str:
        """Step, share done, time left and, with ``check``, quality, for a reader who waits."""
        done = self.fraction()
        left = self.seconds / 60 * (1 / done - 1) if done else math.inf
        stands = f"step {self.step}, {done:.0%} done, {left:.0f} minutes left"
        return f"{stands}: {self.check()}" if check else stands

    def advance(self) -> float:
        """Take one step; return its loss."""
        value, gradients = self.gradients()
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {self.step}: lower lr (now {self.settings.lr}), "
                "or look for NaN in the data."
            )
        for p, gradient in zip(self.net.parameters(), gradients, strict=True):
            p.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.average.update_parameters(self.net)
        self.step += 1
        self.rate.step()
        self.log(value)
        return value

    def log(self, loss: float) -> None:
        """Keep the mean loss of every 100 steps, for the card."""
        count = (self.step - 1) % 100
        if count == 0:
            self.losses.append(0.0)
        self.losses[-1] += (loss - self.losses[-1]) / (count + 1)

    def spent(self) -> dict[str, Any]:
        """Settings, steps, minutes and losses of the run, for ``config``."""
        return {
            **asdict(self.settings),
            "steps_done": self.step,
            "minutes_done": round(self.seconds / 60, 1),
            "losses": self.losses,
        }

    def save(self) -> None:
        """Write the checkpoint."""
        optimiser = self.optimiser.state_dict()
        parts = {"net": self.net.state_dict(), "average": self.average.state_dict()}
        parts |= {str(index): part for index, part in optimiser["state"].items()}
        tensors = {f"{name}/{key}": x for name, part in parts.items() for key, x in part.items()}
        words = {"step": self.step, "seconds": self.seconds, "losses": self.losses}
        words["groups"] = optimiser["param_groups"]
        self.store.write("state", {**tensors, **self.state()}, words)

    def export(self) -> None:
        """Write the averaged weights as a complete model."""
        write_model(
            self.outdir,
            self.config(),
            self.average.module,
            card=self.card(),
            half=self.settings.half,
            inputs=tuple((name, hash) for name, hash in self.kind().items() if name in _DATA),
        )

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        stage = self.store.read("state")
        if stage is None:
            return
        tensors, words = stage
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            part, _, key = name.rpartition("/")
            parts[part][key] = value
        self.net.load_state_dict(parts["net"])
        self.average.load_state_dict(parts["average"])
        state = {int(index): part for index, part in parts.items() if index.isdigit()}
        self.optimiser.load_state_dict({"state": state, "param_groups": words.pop("groups")})
        for name, value in {**parts[""], **words}.items():
            setattr(self, name, value)


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
