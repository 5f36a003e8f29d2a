"""``score/rotated-mnist``: from one angle of a digit to another, and past the end.

Held-out digits at -gap/2 and gap/2 are lifted, joined by every method, and brought back; the model
was trained on digits at all angles within +-90 degrees.  Metrics, levels, weights and decoders were
tried on validation digits (docs/rotated-digits.md); the test digits were opened once.

Methods are compared with the truth, with the orbit (the digit at any angle) and as sets, under two
extractors (:mod:`rotated_digits`), with intervals by resampling digits (:mod:`resample`).  What a
method found at one gap is a file in ``partial/``: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from diffodesic.experiments.common.inputs import digit_model, squeezenet
from diffodesic.experiments.common.statistics import draws
from diffodesic.experiments.experiment import Context, Outcome
from diffodesic.experiments.rotated.digits import Pairs, Scores, choose, measure, pairs
from diffodesic.experiments.rotated.past_the_end import past_the_end
from diffodesic.experiments.rotated.report import conclusions, pages, picture, plain, strips
from diffodesic.experiments.rotated.settings import (
    KEPT,
    METHODS,
    NORM_METHODS,
    OURS,
    Method,
    Settings,
    solver,
)
from diffodesic.images.baselines.between import Rival, rival_curve
from diffodesic.images.baselines.latent import with_norm
from diffodesic.images.features import Features, load_features
from diffodesic.images.lifting import Bridge, Mode
from diffodesic.images.spaces import image_geodesic, image_metric, noise_level
from diffodesic.models.model import Model
from diffodesic.output.files import write_atomically

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
    """What the norm of noisy data is worth: ``score/rotated-norm``, on digits of their own.

    The need for it was seen on the test digits, so it is judged on others, opened for this alone.

    Returns:
        tables at 30 and 90 degrees.

    Cost: some 10^6 evaluations: half an hour on two cores.
    """
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
    say, place, outdir = context.progress, torch.device(context.device), context.outdir
    source = digit_model(context)
    extractors = [load_features("digit-classifier-1", place), squeezenet(data, context.device)]
    digits, _ = choose(data, settings.digits, settings.split)
    weights = draws(len(digits), settings.resamples, settings.seed)
    folder = _partial(outdir, settings, methods)
    tables, places = {}, set()
    for gap in settings.gaps:
        given = pairs(digits, gap, settings.frames, settings.seed).to(place)
        found, shown = {}, {"truth": given.truth[:SHOWN].cpu()}
        for name, method in methods.items():
            say(f"{gap:g} degrees: {name}")
            make = partial(frames_of, source, method, given, settings)
            frames, made_on = _made(folder / f"{gap:g} {name}.frames.safetensors", make)
            file = folder / f"{gap:g} {name}.scores.safetensors"
            found[name] = _judged(file, frames, given, extractors)
            shown[name] = frames[:SHOWN].float() / 255
            places.add(made_on)
        say(f"{gap:g} degrees: intervals")
        reference = {e.name: _features(e, given.reference) for e in extractors}
        tables[gap] = conclusions(found, reference, weights)
        strips(shown, outdir / f"frames-{gap:g}.png")
    beyond: dict[str, Any] = {}
    if settings.beyond:
        few = digits[: settings.beyond]
        beyond = past_the_end(source, methods[ours], few, settings, folder, say)
    arrays = {
        "tables": {gap: plain(table) for gap, table in tables.items()},
        "beyond": beyond,
        "methods": {name: asdict(method) for name, method in methods.items()},
        "frames made on": sorted(places),
    }
    notes = pages(tables, beyond, ours, settings)
    return Outcome(settings, (), notes, arrays, lambda to: picture(to, tables, beyond))


def frames_of(model: Model, method: Method, given: Pairs, settings: Settings) -> Tensor:
    """Frames (N, F, 1, 28, 28) of a method between the first and the last true picture."""
    mode: Mode = "sound" if method.log_snr is not None else "paper"
    level = "auto" if method.log_snr is None else method.log_snr
    lam = noise_level(model, "score" if mode == "paper" else "conformal", level, mode)
    bridge = Bridge(model, lam, settings.flow_steps, settings.seed, mode)
    images = given.truth[:, 0].double(), given.truth[:, -1].double()
    a, b = (bridge.lift(x) for x in images)
    s = torch.linspace(0, 1, settings.frames, dtype=a.dtype, device=a.device)
    if method.curve in get_args(Rival):
        points = rival_curve(method.curve, bridge, images, (a, b))(s)
        return bridge.images(points, points.new_full(points.shape[:-1], lam))
    # a frozen score has its own weight and solver, which the bridge's mode stands for
    ruled = bridge if method.frozen else replace(bridge, mode="sound")
    space = image_metric(
        ruled, method.curve, torch.stack([a, b]), weight=method.weight, rank=method.rank
    )
    fine = torch.linspace(0, 1, settings.nodes + 1, dtype=a.dtype, device=a.device)
    start = rival_curve("SLERP", bridge, images, (a, b))(fine)
    path = image_geodesic(
        space,
        bridge.pack(space, a),
        bridge.pack(space, b),
        nodes=settings.nodes,
        solver=None if method.frozen else solver(settings, method.curve),
        init=bridge.pack(space, start),
    )
    z, levels = bridge.unpack(space, path(s))
    return bridge.images(with_norm(z, a, b, s) if method.norm else z, levels)


def _features(extractor: Features, images: Tensor) -> Tensor:
    """Pooled features (N, G, size) of images (N, G, 1, 28, 28)."""
    found = extractor.pooled(images.flatten(0, 1)).double().cpu()
    return found.unflatten(0, images.shape[:2])


def _partial(outdir: Path, settings: Settings, methods: Mapping[str, Method]) -> Path:
    """The folder of what is done; one of other settings is refused."""
    folder = outdir / "partial"
    folder.mkdir(parents=True, exist_ok=True)
    head = folder / "settings.json"
    text = json.dumps([asdict(settings), {name: asdict(m) for name, m in methods.items()}])
    if head.exists() and head.read_text() != text:
        raise ValueError(f"{folder} holds results of other settings; remove it or choose another")
    write_atomically(head, text.encode())
    return folder


def _made(file: Path, make: Callable[[], Tensor]) -> tuple[Tensor, str]:
    """Frames in bytes, as they would be saved, and where they were made; read where they exist."""
    if not file.exists():
        frames = make()
        place = frames.device
        name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
        content = {"frames": (frames * 255).round().clamp(0, 255).byte().cpu()}
        write_atomically(file, save(content, {"device": name}))
    with safe_open(file, "pt") as content:
        return content.get_tensor("frames"), content.metadata()["device"]


def _judged(file: Path, frames: Tensor, given: Pairs, extractors: list[Features]) -> Scores:
    """Scores of frames in bytes, read where an earlier run has left them."""
    if not file.exists():
        scores = measure((frames.float() / 255).to(given.truth), given, extractors)
        content = {f"each/{name}": value for name, value in scores.each.items()}
        content |= {f"pooled/{name}": value.float() for name, value in scores.pooled.items()}
        write_atomically(file, save({k: v.contiguous() for k, v in content.items()}))
    parts: dict[str, dict[str, Tensor]] = {"each": {}, "pooled": {}}
    for key, value in load_file(file).items():
        kind, _, name = key.partition("/")
        parts[kind][name] = value.double()
    return Scores(parts["each"], parts["pooled"])
