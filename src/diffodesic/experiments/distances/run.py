"""``spacetime/distances``: which distance of pictures is worth its price?

DiffED, IEM (2510.02514), distances of posterior means, of features, of structure (SSIM) and of
pixels, on digits and then on photographs of turning objects:

    retrieval      is the nearest neighbour the right one (:mod:`.sets`)?
    triples        is a right candidate nearer than a wrong one?  few, for DiffED is dear
    correlations   of DiffED and of IEM with the others, signed

Intervals hold 95 %, by resampling pictures, triples, and the pictures of pairs.  What is measured
is a stage in ``partial/SET-MODEL``: an interrupted run goes on where it stopped, and where one
model is replaced the set of the other is not measured again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.experiments.common.inputs import squeezenet
from diffodesic.experiments.common.statistics import (
    Estimate,
    correlation,
    draws,
    pair_draws,
    resampled_mean,
)
from diffodesic.experiments.distances.measures import NAMES, Measured, cheap, edits
from diffodesic.experiments.distances.sets import PictureSet, digits, turntable
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.images.pairs import PairwiseOptions
from diffodesic.models.identity import identity, short
from diffodesic.models.loading import load
from diffodesic.output.figures import canvas
from diffodesic.output.stages import Store, fingerprint

__all__ = ["Settings", "run"]


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    models: tuple[str, str] = ("mnist", "fruits")  # of digits, of photographs
    each: int = 15  # digits of a class
    objects: int = 6  # on the turntable
    every: int = 4  # poses of 3 degrees: 12 degrees from one picture to the next
    triples: tuple[int, int] = (12, 12)  # of digits, of photographs; two edits each
    log_snr: float = 2.0  # anchor of DiffED, level of the means, cleanest of the coarse IEM
    nodes: int = 16  # segments of an edit
    pairs: int = 300  # for the correlations of IEM
    resamples: int = 2000  # of the bootstrap
    seed: int = 0


def run(context: Context) -> Outcome:
    """Prices, retrieval, triples and correlations on both sets.

    Args:
        context: with ``data``, the folder of MNIST, of the turntable and of SqueezeNet.

    Returns:
        the numbers, and the distances of all pairs.

    Raises:
        ValueError: without data, or results of other settings in ``outdir``.

    Cost: 25 minutes on a core, of which edits take 18.
    """
    data = context.need("data", "the folder of mnist, fruit_turntable and squeezenet")
    settings = context.settings(
        Settings(seed=context.seed),
        each=2,
        objects=2,
        every=20,
        triples=(1, 1),
        nodes=2,
        pairs=10,
        resamples=100,
    )
    models = [load(name, device=context.device) for name in settings.models]
    sets = (
        digits(models[0], data, settings.each),
        turntable(models[1], data, settings.objects, settings.every),
    )
    features = squeezenet(data, context.device)
    results = []
    begin = partial(context.part, of=2 * sum(settings.triples))
    for one, count in zip(sets, settings.triples, strict=True):
        with _store(one, settings, context.outdir) as store:
            context.progress(f"{one.name}: distances without edits")
            part = cheap(one, features, settings.log_snr, store.part("cheap"))
            triples = one.triples(count, settings.seed)
            pairs = torch.cat([triples[:, [0, 1]], triples[:, [0, 2]]])
            asked = _edit_options(settings)
            edited = edits(one, pairs, asked, store.part("edits"), begin)
        results.append(_Result(one, {"diffed": edited, **part}, triples, settings))
    return Outcome(
        settings,
        tuple(number for result in results for number in result.numbers()),
        _notes(results),
        {result.set.name: result.arrays() for result in results},
        lambda path: _figure(path, results),
    )


def _edit_options(settings: Settings) -> PairwiseOptions:
    return PairwiseOptions(log_snr=settings.log_snr, nodes=settings.nodes, seed=settings.seed)


def _store(one: PictureSet, settings: Settings, outdir: Path) -> AbstractContextManager[Store]:
    model = identity(one.model)
    known = {
        "model": model,
        "images": fingerprint(one.images),
        "asked": {name: getattr(settings, name) for name in ("log_snr", "nodes", "seed")},
    }
    return Store(outdir / "partial" / f"{one.name}-{short(model)}", known).held()


@dataclass(frozen=True)
class _Result:
    """All that was measured on a set."""

    set: PictureSet
    measured: dict[str, Measured]  # on the pairs of the set; of "diffed" on those of the triples
    triples: Tensor  # (T, 3)
    settings: Settings

    def matrix(self, name: str) -> Tensor:
        """Distances of all candidates, infinite for what is none, (N, N)."""
        i, j = self.set.pairs.T
        far = torch.full((len(self.set.images),) * 2, torch.inf, dtype=torch.float64)
        far[i, j] = far[j, i] = self.measured[name].values
        return far

    def on_triples(self, name: str) -> tuple[Tensor, Tensor]:
        """Distances of the right and of the wrong candidates, (T,) each."""
        if name == "diffed":
            right, wrong = self.measured[name].values.chunk(2)
        else:
            first, good, bad = self.triples.T
            right, wrong = (self.matrix(name)[first, other] for other in (good, bad))
        return right, wrong

    def retrieval(self, name: str) -> Estimate:
        """Share of pictures whose nearest candidate is right."""
        nearest = self.matrix(name).argmin(1)
        hit = self.set.right[torch.arange(len(nearest)), nearest].double()
        return resampled_mean(hit, draws(len(hit), self.settings.resamples, self.settings.seed))

    def told_apart(self, name: str) -> Estimate:
        """Share of triples whose right candidate is the nearer one."""
        right, wrong = self.on_triples(name)
        hit = (right < wrong).double()
        return resampled_mean(hit, draws(len(hit), self.settings.resamples, self.settings.seed))

    def correlations(self) -> Iterator[tuple[str, str, str, Estimate]]:
        """Of DiffED on the pairs of the triples, of IEM on pairs at random; kind and value."""
        drawn = torch.Generator().manual_seed(self.settings.seed)
        some = torch.randperm(len(self.set.pairs), generator=drawn)[: self.settings.pairs]
        count, seed = self.settings.resamples, self.settings.seed
        weights = {
            "diffed": draws(len(self.triples), count, seed).repeat(1, 2),  # both pairs of a triple
            "iem": pair_draws(self.set.pairs[some], count, seed),
        }
        for first in ("diffed", "iem"):
            for other in (name for name in NAMES if name not in ("diffed", first)):
                values = [
                    torch.cat(self.on_triples(name))
                    if first == "diffed"
                    else self.measured[name].values[some]
                    for name in (first, other)
                ]
                for kind in ("Pearson", "Spearman"):
                    x, y = (value.tolist() for value in values)
                    yield first, other, kind, correlation(x, y, kind, weights[first])

    def triangles(self, count: int = 1000) -> float:
        """Largest ratio of an IEM to a detour, over triples of candidates drawn at random."""
        far = self.matrix("iem").fill_diagonal_(0)
        generator = torch.Generator().manual_seed(self.settings.seed)
        weights = self.set.asked.double()
        middle = torch.randint(len(far), (count,), generator=generator)
        a, b = torch.multinomial(weights[middle], 2, generator=generator).T
        return float((far[a, b] / (far[a, middle] + far[middle, b])).max())

    def numbers(self) -> Iterator[Number]:
        """The rows of the table."""
        name = self.set.name
        for key, title in NAMES.items():
            if key != "diffed":
                yield _row(f"{name}: nearest is right, {title}", self.retrieval(key))
        for key, title in NAMES.items():
            yield _row(f"{name}: right is nearer than wrong, {title}", self.told_apart(key))
        for first, other, kind, found in self.correlations():
            yield _row(f"{name}: {kind}, {NAMES[first]} with {NAMES[other]}", found)
        for key, title in NAMES.items():
            one = self.measured[key]
            yield Number(f"{name}: CPU seconds a pair, {title}", one.seconds)
            yield Number(f"{name}: evaluations a pair, {title}", one.evaluations)
        yield Number(f"{name}: IEM over the detour by a third, largest", self.triangles())

    def arrays(self) -> dict[str, Any]:
        """Values for ``result.json``."""
        return {
            "model": self.set.model.name,
            "pictures": len(self.set.images),
            "pairs": len(self.set.pairs),
            "triples": self.triples,
            "diffed": self.measured["diffed"].values,
            "error": {key: one.error for key, one in self.measured.items()},
            "chance": self.chance(),
        }

    def chance(self) -> float:
        """Share of right answers among the candidates."""
        return float(self.set.right.sum() / self.set.asked.sum())


def _row(quantity: str, found: Estimate) -> Number:
    return Number(f"{quantity} [{found.low:.2f}, {found.high:.2f}]", found.value, error=found.error)


def _notes(results: list[_Result]) -> tuple[str, ...]:
    lines = [
        f"{result.set.name}: {len(result.set.images)} pictures of model "
        f"{result.set.model.name}, {len(result.set.pairs)} pairs of candidates; right is a picture "
        f"{result.set.question}, {result.chance():.0%} by chance; DiffED on "
        f"{2 * len(result.triples)} pairs in {len(result.triples)} triples."
        for result in results
    ]
    return (
        *lines,
        "Brackets hold 95 % bootstrap intervals over pictures or triples; +- is a bootstrap "
        "standard error. Correlations of DiffED are over the pairs of the triples, those of the "
        "others over pairs at random, which share pictures.",
        "A pair alone costs two pictures; all pairs of N pictures cost N pictures for IEM and "
        "posterior means. The model of photographs has seen frames near those of the turntable.",
    )


def _figure(path: Path, results: list[_Result]) -> None:
    with canvas(path, rows=len(results), columns=2, width=3.8) as axes:
        for i, result in enumerate(results):
            keys = [key for key in NAMES if key != "diffed"]
            shares = [result.retrieval(key) for key in keys]
            spread = [
                [share.value - share.low for share in shares],
                [share.high - share.value for share in shares],
            ]
            axis = axes[2 * i]
            axis.barh([NAMES[key] for key in keys], [s.value for s in shares], xerr=spread)
            axis.axvline(result.chance(), color="0.5", linewidth=0.8)
            axis.set(title=result.set.name, xlabel=f"nearest is {result.set.question}")
            axis = axes[2 * i + 1]
            for own, other, label in zip(
                result.on_triples("iem"),
                result.on_triples("diffed"),
                ("right", "wrong"),
                strict=True,
            ):
                axis.scatter(own, other, s=12, label=label)
            axis.set(xlabel="IEM", ylabel=f"DiffED at log SNR {result.settings.log_snr:g}")
            axis.legend()
