"""What frames between photographs are worth, object by object.

Distances between pictures, RMS and features, are taken at 64 x 64 pixels, fine energy and the ends
at the size of the frames.  "Real" frames are those through the autoencoder, as the frames are,
unless ``raw`` is said; the nearest is sought in the whole turn.  Inner frames count; steps take in
the ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffodesic.experiments.turntable.turns import Pairs, Turns
from diffodesic.images.evaluation import psnr
from diffodesic.images.faults import blends, doubling, fine_energy
from diffodesic.images.features import Features

__all__ = ["MEASURES", "Scores", "judge", "small", "validated"]

Scores = dict[str, Tensor]
"""Numbers per object (N,) by measure, and features of the inner frames (N, F - 2, size) as
``pooled``."""

MEASURES = {  # in the order of the tables, and whether less is better; None: a target
    "nearest, RMS": True,
    "nearest raw, RMS": True,
    "nearest, features": True,
    "angle error": True,
    "forward": False,
    "double exposure": True,
    "fine energy": None,
    "fine energy, raw": None,
    "largest step": True,
    "PPL": True,
    "PDV": True,
    "end PSNR": False,
}
_SIDE = 64


def small(images: Tensor, side: int = _SIDE) -> Tensor:
    """Pictures (..., C, H, W), in bytes or in [0, 1], at 64 x 64, or another side, in [0, 1]."""
    flat = images.flatten(0, -4).float() / (1 if images.is_floating_point() else 255)
    fitted = F.interpolate(flat, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    return fitted.reshape(*images.shape[:-2], side, side)


def judge(
    frames: Sequence[Tensor], given: Sequence[Pairs], turns: Turns, features: Features
) -> list[Scores]:
    """Scores of the frames of one method between several sets of pairs.

    Args:
        frames: per set, frames (n, F, 3, H, W) in [0, 1] of its first n pairs.
        given: the sets.
        turns: the objects.
        features: the extractor.

    Returns:
        per set, what ``MEASURES`` names and ``pooled``; no nearest frame, angle or reference of
        one's own where the ends show two objects.

    Cost: one pass of the extractor per frame, and per photograph of each object.
    """
    found: list[list[Scores]] = [[] for _ in given]
    for i in range(max(map(len, frames))):
        sets = [k for k, made in enumerate(frames) if i < len(made)]
        tiny = [small(frames[k][i]) for k in sets]
        real = small(turns.seen[i])
        mixed = [blends(small(_ends_seen(given[k], turns, i))) for k in sets]
        other = small(turns.seen[(i + 1) % len(turns.names)][::6])
        known = torch.cat([real, other, *mixed])
        far = features.distances(torch.cat(tiny), torch.cat([known, *tiny]))
        at, mix = 0, len(real) + len(other)
        for k, own, blend in zip(sets, tiny, mixed, strict=True):
            inner, rows = slice(at + 1, at + len(own) - 1), range(at, at + len(own) - 1)
            scores = _common(frames[k][i], given[k], turns, i)
            steps = torch.stack([far[r, len(known) + r + 1] for r in rows])
            scores |= {"PPL": steps.sum(), "PDV": steps.var(correction=0)}
            scores["largest step"] = steps.max()
            doubled = far[inner, mix : mix + len(blend)].amin(-1)
            choice = len(real) + (0 if given[k].gap else len(other))
            lone, nearest = far[inner, :choice].min(-1)
            scores["double exposure"] = doubling(lone, doubled).mean()
            if given[k].gap:
                scores["nearest, features"] = lone.mean()
                scores |= _angles(nearest, given[k], turns, i)
                for name, pictures in (("nearest", real), ("nearest raw", small(turns.raw[i]))):
                    off = torch.cdist(own[1:-1].flatten(1), pictures.flatten(1)).amin(-1)
                    scores[f"{name}, RMS"] = (off / own[0].numel() ** 0.5).mean()
            scores["pooled"] = features.pooled(own[1:-1])
            found[k].append(scores)
            at, mix = at + len(own), mix + len(blend)
    return [{name: torch.stack([s[name] for s in own]) for name in own[0]} for own in found]


def _ends_seen(given: Pairs, turns: Turns, i: int) -> Tensor:
    """Both ends of a pair through the autoencoder, in bytes."""
    first, other = int(given.first[i]), i
    last = round(first + (given.gap or 0) / turns.angle) % turns.raw.shape[1]
    if given.gap is None:
        other = (i + 1) % len(turns.names)
        last = int(given.first[other])
    return torch.stack([turns.seen[i, first], turns.seen[other, last]])


def _common(frames: Tensor, given: Pairs, turns: Turns, i: int) -> Scores:
    """End error and sharpness of one sequence, at its own size."""
    side = frames.shape[-1]
    ends = psnr(frames[[0, -1]].float(), small(given.ends[i], side)).clamp(max=60).mean()
    energy = fine_energy(frames[1:-1].float()).mean()
    owners = [i] if given.gap else [i, (i + 1) % len(turns.names)]
    scores = {"end PSNR": ends}
    for name, pictures in (("fine energy", turns.seen), ("fine energy, raw", turns.raw)):
        real = small(pictures[owners, ::10].flatten(0, 1), side)
        scores[name] = energy / fine_energy(real).mean()
    return scores


def _angles(nearest: Tensor, given: Pairs, turns: Turns, i: int) -> Scores:
    """Error of the angle of the nearest photograph, degrees, and the share of steps forward."""
    assert given.gap is not None
    share = torch.linspace(0, 1, len(nearest) + 2)
    true = (int(given.first[i]) * turns.angle + share * given.gap)[1:-1]
    angle = nearest * turns.angle
    error = (angle - true + 180) % 360 - 180
    turned = error + share[1:-1] * given.gap
    whole = torch.cat([torch.zeros(1), turned, torch.tensor([given.gap])])
    return {"angle error": error.abs().mean(), "forward": (whole.diff() > 0).float().mean()}


def validated(
    given: Pairs, turns: Turns, features: Features, apart: float = 9.0
) -> tuple[Tensor, Tensor]:
    """The measure of double exposures of photographs between the ends, and of blends of the ends.

    Args:
        given: pairs of views.
        turns: the objects.
        features: the extractor.
        apart: degrees on both sides of a photograph where its nearest is not sought.

    Returns:
        the measure of photographs (P,), the nearest sought ``apart`` degrees away and more, and of
        blends (Q,) at shares of a quarter, a half and three quarters.
    """
    photographs, doubles, steps = [], [], max(1, round(apart / turns.angle))
    for i, between in enumerate(given.between(turns)):
        real, ends = small(turns.seen[i]), small(_ends_seen(given, turns, i))
        shown = between[:: max(1, len(between) // 5)]
        shares = torch.tensor([0.25, 0.5, 0.75])[:, None, None, None]
        frames = torch.cat([real[shown], torch.lerp(ends[:1], ends[1:], shares)])
        far = features.distances(frames, torch.cat([real, blends(ends)]))
        lone, mixed = far.split([len(real), len(blends(ends))], -1)
        away = (torch.arange(len(real)) - shown[:, None]) % len(real)
        close = (away < steps) | (away > len(real) - steps)
        lone[: len(shown)][close] = torch.inf
        value = doubling(lone.amin(-1), mixed.amin(-1))
        photographs.append(value[: len(shown)])
        doubles.append(value[len(shown) :])
    return torch.cat(photographs), torch.cat(doubles)
