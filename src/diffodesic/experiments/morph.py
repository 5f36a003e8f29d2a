"""``score/stable-diffusion``: every metric and baseline on pairs of pictures of one's own.

Pairs are folders of two pictures, as those of MorphBench (2312.07409); a file ``prompt.txt``
beside them is the prompt of both.  Any model that ``load`` opens will do: a folder of a pipeline, a
network of one's own, the shipped digits.  Every frame of every method is judged under one named
extractor:

    PPL, PDV     sum and variance of the distances of neighbouring frames, per pair
    ends         PSNR of the first and last frame against the pictures, dB
    FID, KID     of all frames of a method against all the pictures, where they are enough

with 95 % intervals by resampling pairs.  Finished stages of every pair are kept in ``partial/``: an
interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from diffodesic.experiments.common.inputs import squeezenet
from diffodesic.experiments.common.statistics import Estimate, draws, resampled_mean
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.images.baselines.between import Baseline
from diffodesic.images.evaluation import Evaluation, evaluate
from diffodesic.images.features import Features, load_features
from diffodesic.images.interpolation import InterpolateOptions, interpolate
from diffodesic.images.result import Interpolation
from diffodesic.images.spaces import SPACES, PublishedScoreSpace, ScoreSpace
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from diffodesic.output.decoding import picture_files
from diffodesic.output.figures import canvas
from diffodesic.output.images import read_image, to_uint8
from diffodesic.output.pictures import filmstrip

__all__ = ["Settings", "read_pairs", "run"]

MEASURES = ("PPL", "PDV", "end PSNR")


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    model: str  # where it comes from
    pairs: tuple[str, ...]  # names of the pairs
    frames: int = 16  # images of a path
    nodes: int = 16  # segments of a path
    flow_steps: int = 24  # steps of the probability flow, each way
    features: str = ""  # the extractor
    resamples: int = 1000  # of the intervals
    seed: int = 0  # of everything random


def run(context: Context) -> Outcome:
    """Join every pair by every metric and baseline, and judge the frames.

    Returns:
        means over pairs with intervals.

    Raises:
        ValueError: without pairs, or without the extractor's weights.

    Cost: that of ``interpolate`` per pair and metric, and of five baselines per pair.
    """
    folder = context.need("pairs", "a folder of folders of two pictures each")
    source, outdir = load(context.model, device=context.device), context.outdir
    said: list[str] = []  # what was changed about the pictures
    pairs = read_pairs(folder, source, said.append)
    pairs = dict(list(pairs.items())[:2]) if context.quick else pairs
    extractor = _extractor(source, context)
    settings = context.settings(
        Settings(context.model, tuple(pairs), features=extractor.name, seed=context.seed),
        frames=3,
        nodes=3,
        flow_steps=3,
        resamples=20,
    )
    judged: dict[str, list[Evaluation]] = {}
    frames: dict[str, list[Tensor]] = {}
    strips: dict[str, Callable[[Path], object]] = {}
    for i, (name, (images, words)) in enumerate(pairs.items()):
        context.part(f"{name}, {i + 1} of {len(pairs)}", of=len(pairs))
        shown = _join(source.given(words) if words else source, images, settings, outdir, name)
        ends = images.unsqueeze(0)
        for method, made in shown.items():
            frames.setdefault(method, []).append(made)
            judged.setdefault(method, []).append(
                evaluate(made.unsqueeze(0), features=extractor, ends=ends)
            )
        rows = {method: to_uint8(made) for method, made in shown.items()}
        strips[f"strip-{name}.png"] = partial(filmstrip, rows)
    reference = torch.cat([images for images, _ in pairs.values()])
    outcome = _outcome(judged, frames, reference, extractor, settings, said)
    return replace(outcome, pictures=strips)


def read_pairs(
    folder: Path, model: Model, say: Callable[[str], None]
) -> dict[str, tuple[Tensor, dict[str, str]]]:
    """Pairs by name: two pictures (2, C, H, W) in the model's shape, and their prompt if any.

    Args:
        folder: holds a folder per pair.
        model: says the shape.
        say: is told what was changed about a picture.

    Returns:
        pictures and words.

    Raises:
        ValueError: for no pairs, or a folder that does not hold two pictures.
    """
    pairs = {}
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = picture_files(home)
        if len(files) != 2:
            raise ValueError(f"{home} holds {len(files)} pictures; a pair is two")
        read = [read_image(file, model.codec.shape) for file in files]
        images = torch.stack([image.double() for image, _ in read])
        for notice in (notice for _, notices in read for notice in notices):
            say(notice)
        text = home / "prompt.txt"
        words = {"prompt": text.read_text(encoding="utf-8").strip()} if text.is_file() else {}
        pairs[home.name] = (images, words)
    if not pairs:
        raise ValueError(f"{folder} holds no folders; make one for every pair of pictures")
    return pairs


def _extractor(model: Model, context: Context) -> Features:
    if model.codec.shape == (1, 28, 28) and context.data is None:
        return load_features("digit-classifier-1", context.device)
    data = context.need("data", "a folder that holds squeezenet, the extractor")
    return squeezenet(data, context.device)


def _join(
    model: Model, images: Tensor, settings: Settings, outdir: Path, name: str
) -> dict[str, Tensor]:
    """Frames (F, C, H, W) of every metric, the recipe as published, and every baseline."""
    shown: dict[str, Tensor] = {}
    published = PublishedScoreSpace.name
    for metric in (*(space for space in SPACES if space != published), published):
        options = InterpolateOptions(
            frames=settings.frames,
            nodes=settings.nodes,
            flow_steps=settings.flow_steps,
            seed=settings.seed,
            # at the level of the metrics of one level, which all baselines share
            baselines=get_args(Baseline) if metric == ScoreSpace.name else (),
        )
        result: Interpolation = interpolate(
            model,
            *images,
            metric=metric,
            options=options,
            checkpoint=outdir / "partial" / name / metric,
        )
        for method, value in result.paths.items():
            own = "score, mode=paper" if metric == published else metric
            title = own if method == "geodesic" else method
            shown[title] = value.frames.cpu()
    # the Euclidean geodesic is LERP, which is there
    del shown["euclidean"]
    return shown


def _outcome(
    judged: Mapping[str, list[Evaluation]],
    frames: Mapping[str, list[Tensor]],
    reference: Tensor,
    extractor: Features,
    settings: Settings,
    said: Sequence[str],
) -> Outcome:
    weights = draws(len(settings.pairs), settings.resamples, settings.seed)
    table = {
        method: {
            name: resampled_mean(torch.cat([_value(each, name) for each in evaluations]), weights)
            for name in MEASURES
        }
        for method, evaluations in judged.items()
    }
    numbers = [
        Number(
            f"{method}: {name} [{e.low:.4g}, {e.high:.4g}]",
            e.value,
            error=e.error,
        )
        for method, measures in table.items()
        for name, e in measures.items()
    ]
    notes = [
        f"{len(settings.pairs)} pairs, {settings.frames} frames each; mean [95 % interval by "
        f"resampling pairs]; distances under {extractor.distance_name}.",
        *(f"{notice}." for notice in said),
    ]
    try:
        for method, parts in frames.items():
            sets = evaluate(torch.stack(parts), reference, features=extractor)
            numbers += [Number(f"{method}: FID", sets.fid), Number(f"{method}: KID", sets.kid)]
    except ValueError as error:
        notes.append(f"No FID and KID: {error}.")
    return Outcome(settings, tuple(numbers), tuple(notes), {}, lambda to: _draw(to, table))


def _value(evaluation: Evaluation, name: str) -> Tensor:
    """A measure of one pair, (1,)."""
    if name == "end PSNR":
        assert evaluation.ends is not None
        return evaluation.ends.clamp(max=60).mean(1).double().cpu()
    value = {"PPL": evaluation.ppl, "PDV": evaluation.pdv}[name]
    assert value is not None
    return value.double().cpu()


def _draw(to: Path, table: Mapping[str, Mapping[str, Estimate]]) -> None:
    with canvas(to, columns=len(MEASURES), width=4) as panels:
        for panel, name in zip(panels, MEASURES, strict=True):
            bars = [measures[name] for measures in table.values()]
            errors = [[e.value - e.low for e in bars], [e.high - e.value for e in bars]]
            panel.barh(range(len(bars)), [e.value for e in bars], xerr=errors)
            panel.set(yticks=range(len(bars)), title=name)
            panel.set_yticklabels(list(table))
            panel.invert_yaxis()
