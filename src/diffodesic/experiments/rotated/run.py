"""``score/rotated-mnist``: from one angle of a digit to another, and past the end.

Held-out digits at -gap/2 and gap/2 are lifted, joined by every method, and brought back; the model
was trained on digits at all angles within +-90 degrees.  Metrics, levels, weights and decoders were
tried on validation digits (docs/rotated-digits.md); the test digits were opened once.

Methods are compared with the truth, with the orbit (the digit at any angle) and as sets, under two
feature extractors, with intervals by resampling digits.  Frames and scores of a method at one gap
are stages in ``partial/``, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from diffodesic.experiments.common.compared import plain
from diffodesic.experiments.common.inputs import digit_model, squeezenet
from diffodesic.experiments.common.statistics import draws
from diffodesic.experiments.experiment import Context, Outcome
from diffodesic.experiments.rotated.digits import Pairs, choose, measure, pairs
from diffodesic.experiments.rotated.past_the_end import STEPPED, past_the_end
from diffodesic.experiments.rotated.report import conclusions, pages, picture, strips
from diffodesic.experiments.rotated.settings import (
    KEPT,
    METHODS,
    NORM_METHODS,
    OURS,
    Method,
    Settings,
)
from diffodesic.images.baselines.between import Baseline, baseline_curve
from diffodesic.images.baselines.latent import with_norm
from diffodesic.images.features import Features, load_features
from diffodesic.images.lifting import Lifting
from diffodesic.images.placement import Placement
from diffodesic.images.spaces import PUBLISHED_LOG_SNR
from diffodesic.models.identity import identity
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store, fingerprint

__all__ = ["frames_of", "run", "run_norm"]

SHOWN = 6  # digits whose frames are kept


def run(context: Context) -> Outcome:
    """Every method at every gap, and past the end.

    ``outdir`` receives ``partial/``, a file per gap and method, and ``frames-GAP.png``.

    Returns:
        tables per gap, differences from the recommended setting, and the continuation.

    Raises:
        ValueError: without data, for a model of other pictures, or results that an earlier run
            with other settings left in ``outdir``.

    Cost: some 10^7 evaluations: four minutes on a large GPU, half a day on two cores.
    """
    settings = Settings(context.model, seed=context.seed)
    return _compare(context, context.settings(settings, **QUICK, beyond=2), METHODS, OURS)


def run_norm(context: Context) -> Outcome:
    """What the norm is worth (``score/rotated-norm``): some 10^6 evaluations, half an hour."""
    # the need for it was seen on the test digits: it is judged on others, opened for this alone
    settings = Settings(context.model, "second", 100, (30.0, 90.0), beyond=0, seed=context.seed)
    return _compare(context, context.settings(settings, **QUICK), NORM_METHODS, KEPT)


QUICK: Mapping[str, Any] = {
    "digits": 2,
    "gaps": (30.0,),
    "frames": 4,
    "nodes": 4,
    "iterations": 2,
    "flow_steps": 4,
    "resamples": 20,
}


def _compare(
    context: Context, settings: Settings, methods: Mapping[str, Method], ours: str
) -> Outcome:
    data = context.need("data", "a folder that holds mnist and squeezenet")
    place, outdir = torch.device(context.device), context.outdir
    source = digit_model(context)
    extractors = [load_features("digit-classifier-1", place), squeezenet(data, context.device)]
    digits, _ = choose(data, settings.digits, settings.split)
    weights = draws(len(digits), settings.resamples, settings.seed)
    depends = {**asdict(settings), "methods": {name: asdict(m) for name, m in methods.items()}}
    depends |= {"model": identity(source), "images": fingerprint(digits)}
    store = Store(outdir / "partial", depends)
    tables, drawn, places = {}, {}, set()
    walks = settings.beyond * len(STEPPED)
    begin = partial(context.part, of=len(settings.gaps) * len(methods) + walks)
    for gap in settings.gaps:
        given = pairs(digits, gap, settings.frames, settings.seed).to(place)
        scores, shown = {}, {"truth": given.truth[:SHOWN].cpu()}
        for name, method in methods.items():
            begin(f"{gap:g} degrees: {name}")
            make = partial(_made, source, method, given, settings)
            tensors, words = store.stage(f"{gap:g} {name}.frames", make)
            frames = tensors["frames"]
            judge = partial(_judged, frames, given, extractors)
            scores[name], _ = store.stage(f"{gap:g} {name}.scores", judge)
            shown[name] = frames[:SHOWN].float() / 255
            places.add(words["device"])
        context.progress(f"{gap:g} degrees: intervals")
        reference = {e.name: _features(e, given.reference) for e in extractors}
        tables[gap] = conclusions(scores, reference, weights)
        drawn[f"frames-{gap:g}.png"] = partial(strips, shown)
    beyond: dict[str, Any] = {}
    if settings.beyond:
        few = digits[: settings.beyond]
        beyond = past_the_end(source, methods[ours], few, settings, store, begin)
    arrays = {
        "tables": {gap: plain(table) for gap, table in tables.items()},
        "beyond": beyond,
        "methods": {name: asdict(method) for name, method in methods.items()},
        "frames made on": sorted(places),
    }
    notes = pages(tables, beyond, ours, settings)
    return Outcome(settings, (), notes, arrays, lambda to: picture(to, tables, beyond), drawn)


def frames_of(model: Model, method: Method, given: Pairs, settings: Settings) -> Tensor:
    """Frames (N, F, 1, 28, 28) of a method between the first and the last true picture."""
    shared = method.log_snr is None
    log_snr = PUBLISHED_LOG_SNR if method.log_snr is None else method.log_snr
    lifting = Lifting(model, log_snr, settings.flow_steps, settings.seed, shared_noise=shared)
    images = given.truth[:, 0].double(), given.truth[:, -1].double()
    a, b = (lifting.lift(x) for x in images)
    s = torch.linspace(0, 1, settings.frames, dtype=a.dtype, device=a.device)
    if method.curve in get_args(Baseline):
        points = baseline_curve(method.curve, lifting, images, (a, b))(s)
        return lifting.images(points, log_snr)
    there = Placement(method.space(), lifting, torch.stack([a, b]))
    fine = torch.linspace(0, 1, settings.nodes + 1, dtype=a.dtype, device=a.device)
    start = baseline_curve("SLERP", lifting, images, (a, b))(fine)
    path = there.geodesic(
        *there.points,
        nodes=settings.nodes,
        solver=method.solver(settings),
        init=there.pack(start),
    )
    z, levels = there.unpack(path(s))
    return lifting.images(with_norm(z, a, b, s) if method.norm else z, levels)


def _features(extractor: Features, images: Tensor) -> Tensor:
    """Pooled features (N, G, size) of images (N, G, 1, 28, 28)."""
    return extractor.pooled(images.flatten(0, 1)).cpu().unflatten(0, images.shape[:2])


def _made(model: Model, method: Method, given: Pairs, settings: Settings) -> Stage:
    """Frames in bytes, as they would be saved, and where they were made."""
    frames = frames_of(model, method, given, settings)
    place = frames.device
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    return {"frames": (frames * 255).round().clamp(0, 255).byte()}, {"device": name}


def _judged(frames: Tensor, given: Pairs, extractors: list[Features]) -> Stage:
    """Scores of frames in bytes, as a stage."""
    return measure((frames.float() / 255).to(given.truth), given, extractors), {}
