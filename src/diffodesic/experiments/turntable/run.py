"""``score/turntable``: from one angle of a real object to another, and from one fruit to the next.

Photographs of objects that turn are joined by every method; the true path between two views lies in
the data, and every frame is compared with it.  Morphs between different objects have no truth and
are compared with photographs of fruit.  Ten objects are for choices (``score/turntable-choices``),
ten others for the table.

Frames and scores of a method are stages in ``partial/``, so that an interrupted run goes on where
it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.experiments.common.compared import plain
from diffodesic.experiments.common.inputs import squeezenet
from diffodesic.experiments.experiment import Context, Outcome
from diffodesic.experiments.turntable.graph import Album
from diffodesic.experiments.turntable.judging import Scores, judge, small, validated
from diffodesic.experiments.turntable.paths import frames_of
from diffodesic.experiments.turntable.report import FEW, conclusions, pages, picture, strips
from diffodesic.experiments.turntable.settings import (
    CHOICES,
    METHODS,
    OURS,
    PIXELS,
    Method,
    Settings,
)
from diffodesic.experiments.turntable.turns import Pairs, Turns, photographs, read_turns, through
from diffodesic.images.features import Features
from diffodesic.models.identity import identity
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store, fingerprint

__all__ = ["run", "run_choices"]

AT = ("30 degrees", "90 degrees")  # where slow methods join a few pairs
QUICK: Mapping[str, Any] = {
    "objects": 2,
    "gaps": (90.0,),
    "frames": 4,
    "around": 12,
    "few": 2,
    "nodes": 4,
    "flow_steps": 2,
    "pictures": 8,
    "components": 2,
    "resamples": 20,
}


def run(context: Context) -> Outcome:
    """Every method between the views of the test objects.

    Returns:
        a table per gap and one of morphs, with differences from the default of ``interpolate``.

    Raises:
        ValueError: without data, for a model of other pictures, or results that an earlier run
            with other settings left in ``outdir``.

    Cost: some 10^5 evaluations and 10^4 passes of the autoencoder: about an hour of one core.
    """
    settings = Settings(context.model, seed=context.seed)
    methods = METHODS
    if context.quick:
        some = ("nearer end", "SLERP, log SNR 1", OURS)
        methods = {name: METHODS[name] for name in some}
    return _compare(context, context.settings(settings, **QUICK), methods)


def run_choices(context: Context) -> Outcome:
    """Arches, noises, paces, searches and graphs between the views of the objects for choices."""
    small: dict[str, Any] = {"objects": 6, "gaps": (30.0, 90.0), "frames": 5, "around": 60}
    settings = Settings(context.model, "choices", pictures=60, seed=context.seed, **small)
    methods = CHOICES
    if context.quick:
        some = ("nearer end", OURS, "arch 3, fresh", "arch 3, posterior samples")
        methods = {name: CHOICES[name] for name in (*some, "arch 3, pace of codes")}
    return _compare(context, context.settings(settings, **QUICK), methods)


def made_in(method: Method, given: Pairs) -> bool:
    """Whether a method's frames are made for a set of pairs."""
    return not method.few or given.title in AT


@dataclass(frozen=True)
class _Work:
    """What every method is made and judged with."""

    models: Mapping[str, Model]  # by ``Method.model``
    settings: Settings
    turns: Turns
    sets: tuple[Pairs, ...]
    features: Features
    store: Store
    say: Callable[[str], None]
    data: Path

    @cached_property
    def album(self) -> Album:
        return Album.read(self.data, self.store)

    def frames(self, name: str, method: Method) -> dict[str, Tensor]:
        """Frames in bytes of the first pairs, by title of their set."""
        made = {}
        for given in self.sets:
            if not made_in(method, given):
                continue
            self.say(f"{given.title}: {name}")
            make = partial(self._made, method, given)
            made[given.title] = self.store.stage(f"{given.title} {name}", make)[0]["frames"]
        return made

    def _made(self, method: Method, given: Pairs) -> Stage:
        ends = given.ends[: self.settings.few if method.few else None]
        model = self.models[method.model]
        between = self._between(method, given, len(ends))
        side = model.codec.shape[-1]
        fitted = ends if side == ends.shape[-1] else small(ends, side).double()
        frames = frames_of(model, method, fitted, self.settings, between)
        return {"frames": (frames * 255).round().clamp(0, 255).byte()}, {}

    def _between(self, method: Method, given: Pairs, count: int) -> list[Tensor]:
        """Photographs on the ways of a graph between the first pairs of a set."""
        if not method.graph:
            return []
        ways = []
        for i in range(count):
            owners = (i,) if given.gap else (i, (i + 1) % len(self.turns.names))
            varieties = {self.turns.names[own].split("|")[0] for own in owners}
            without = varieties if method.graph == "other" else ()
            ways.append(self.album.between(given.ends[i], without))
        return ways

    def scores(self, name: str, made: Mapping[str, Tensor]) -> dict[str, Scores]:
        """Scores of a method by title of the set."""
        given = [own for own in self.sets if own.title in made]

        def judged() -> Stage:
            frames = [made[own.title].float() / 255 for own in given]
            found = judge(frames, given, self.turns, self.features)
            pairs = zip(given, found, strict=True)
            return {f"{own.title}|{k}": x for own, s in pairs for k, x in s.items()}, {}

        kept, _ = self.store.stage(f"scores {name}", judged)
        sorted_: dict[str, Scores] = {own.title: {} for own in given}
        for key, value in kept.items():
            title, measure = key.split("|")
            sorted_[title][measure] = value
        return sorted_


def _compare(context: Context, settings: Settings, methods: Mapping[str, Method]) -> Outcome:
    data = context.need("data", "a folder that holds fruit_turntable, fruits and squeezenet")
    model = load(settings.model, device=context.device)
    if not (data / PIXELS).is_dir():
        methods = {name: method for name, method in methods.items() if method.model != PIXELS}
    folders = {method.model for method in methods.values()} - {""}
    models = {name: load(str(data / name), device=context.device) for name in folders}
    models[""] = model
    channels, side, width = model.codec.shape
    if channels != 3 or side != width:
        raise ValueError(
            f"the model's pictures are {model.codec.shape}; this takes (3, side, side)"
        )
    names, raw = read_turns(data, settings.split, settings.objects, side, settings.around)
    depends = {
        **asdict(settings),
        "models": {name: identity(one) for name, one in models.items()},
        "images": fingerprint(raw),
    }
    store = Store(context.outdir / "partial", depends)
    context.progress("photographs through the autoencoder")
    turns = Turns(names, raw, through(model, raw, store, "photographs"))
    sets = tuple(Pairs.turned(turns, gap, settings.seed) for gap in settings.gaps)
    sets += (Pairs.morphs(turns, settings.seed),)
    features = squeezenet(data, context.device)
    counted = sum(made_in(method, given) for method in methods.values() for given in sets)
    begin = partial(context.part, of=counted)
    work = _Work(models, settings, turns, sets, features, store, begin, data)
    # stages know their method by its name: a method that changes gets another one
    frames = {name: work.frames(name, method) for name, method in methods.items()}
    scores = {name: work.scores(name, made) for name, made in frames.items()}
    other = photographs(data, settings.pictures, side)
    fruit = features.pooled(small(through(model, other, store, "fruit")))
    context.progress("intervals")
    counts = {name: settings.few if m.few else settings.objects for name, m in methods.items()}
    tables = {}
    for given in sets:
        parts = fruit.unflatten(0, (settings.objects, -1)) if given.gap is None else None
        reference = _pooled(features, turns, given) if parts is None else parts
        own = {name: found[given.title] for name, found in scores.items() if given.title in found}
        if any(counts[name] < counts[OURS] for name in own):
            own[FEW] = {k: x[: settings.few] for k, x in own[OURS].items()}
        tables[given.title] = conclusions(own, reference, settings)
    drawn = {f"frames-{g.title.split()[0]}.png": partial(strips, _shown(g, frames)) for g in sets}
    notes = pages(tables, {**counts, FEW: settings.few}, OURS, settings, _checked(work))
    arrays = {
        "tables": {title: plain(table) for title, table in tables.items()},
        "methods": {name: asdict(method) for name, method in methods.items()},
        "objects": names,
    }
    return Outcome(settings, (), notes, arrays, lambda to: picture(to, tables, OURS), drawn)


def _pooled(features: Features, turns: Turns, given: Pairs) -> Tensor:
    """Features (N, G, size) of the photographs between the ends of each pair."""
    between = given.between(turns)
    pictures = torch.stack([own[i] for own, i in zip(turns.seen, between, strict=True)])
    return features.pooled(small(pictures).flatten(0, 1)).unflatten(0, between.shape)


def _shown(given: Pairs, frames: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Frames of the first two pairs of a set, by method, in [0, 1]."""
    return {
        name: small(made[given.title][:2], given.ends.shape[-1])
        for name, made in frames.items()
        if given.title in made
    }


def _checked(work: _Work) -> list[str]:
    """How well the measure of double exposures tells them from photographs, per gap."""
    lines = []
    for given in work.sets:
        if given.gap is None or given.gap < 30:  # nothing between is so far from both ends
            continue
        real, double = validated(given, work.turns, work.features)
        below = (real[:, None] < double).float().mean()
        lines.append(
            f"Double exposure at {given.title}: photographs between the ends (the nearest sought 9 "
            f"degrees away and more) {real.mean():.2f}, at most {real.max():.2f}; blends of the "
            f"ends {double.mean():.2f}, at least {double.min():.2f}; {below:.1%} of pairs in order."
        )
    return lines
