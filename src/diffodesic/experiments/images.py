r"""``spacetime/images``: Diffusion Edit Distances of digits against other notions of different.

Pairs of one class (2505.17517 takes 10 classes x 20 pairs) are lifted to the anchor and joined by
a geodesic.  Its length is set beside

    path       the same path by relative entropy (mismatched estimation), with a standard error
    Euclid     |a - b| of the pictures in [-1, 1]
    feature    distance in the 96 features of digit-classifier-1; not LPIPS, which has its own
    SSIM       1 - SSIM, structural similarity (Wang et al. 2004)
    via noise  length of the edit that forgets everything: up a's probability flow to the noisiest
               level, across, and down b's

by Pearson's and Spearman's correlation, signed, with bootstrap intervals over pairs, or over
pictures where pairs share them.  The noise in the middle of an edit is minus the lowest log SNR of
its path.  Sampling trajectories of the probability flow are compared with the geodesic between
their ends.

Every pair is a file in ``pairs/``: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.flow import drop, integrate
from diffodesic.experiments import morph
from diffodesic.experiments.common.inputs import digit_model, mnist_folder
from diffodesic.experiments.common.statistics import correlation, pair_draws, resampled_mean
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.editing import EditOptions, anchored
from diffodesic.images.evaluation import ssim
from diffodesic.images.features import Features, load_features
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.mismatched_estimation import mismatch_length
from diffodesic.models.datasets import MNIST, read_idx, shipped_digits
from diffodesic.models.identity import identity
from diffodesic.models.model import Model
from diffodesic.output.figures import canvas
from diffodesic.output.images import to_uint8
from diffodesic.output.pictures import filmstrip
from diffodesic.output.stages import Store, fingerprint

__all__ = ["Settings", "run"]

MEASURES = ("path", "euclid", "feature", "ssim", "via", "middle")
NAMES = {
    "path": "DiffED by the path estimator",
    "euclid": "Euclid",
    "feature": "feature distance (digit-classifier-1)",
    "ssim": "1 - SSIM",
    "via": "via-noise distance",
    "middle": "noise in the middle",
}


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    model: str = "mnist"  # name or folder
    pictures: str = "shipped digits"  # where they come from
    pairs: int = 20  # pairs per class
    log_snr: float = 2.0  # the anchor
    nodes: int = 16  # segments of a path
    iterations: int = 16  # limit on gradients per path
    samples: tuple[int, int] = (2, 8)  # trajectories of the path estimator, and its levels
    # sampling trajectories compared, and log SNR at their ends
    trajectories: tuple[int, float, float] = (5, -2.0, 4.0)
    resamples: int = 2000  # of the bootstrap
    batch: int = 4  # pairs solved together
    seed: int = 0  # of the choice of pairs and of all noise


def run(context: Context) -> Outcome:
    """Correlations over pairs of digits; with ``pairs``, their interpolations (:mod:`morph`).

    With a folder of data the pairs are of 40 test digits of MNIST per class, every digit in one
    pair; without, of the ten per class that ship, in several pairs each.

    Returns:
        the correlations, the noise profiles, and the trajectories.

    Raises:
        ValueError: for a model of other pictures than 28 x 28 digits, or pairs that an earlier
            run with other settings left in ``outdir``.

    Cost: about 6,000 evaluations per pair.
    """
    if context.pairs is not None:
        return morph.run(context)
    source, data = digit_model(context), context.data
    settings = context.settings(
        Settings(source.name, "MNIST test" if data else "shipped digits", seed=context.seed),
        pairs=2,
        nodes=6,
        iterations=2,
        samples=(2, 5),
        trajectories=(1, -1.0, 2.0),
        resamples=200,
    )
    images, labels = _pictures(data)
    chosen = _choose(labels, settings)[: 4 if context.quick else None]
    records = _solve(source, images, labels, chosen, settings, context)
    context.progress("sampling trajectories")
    flows = _trajectories(source, images[chosen[: settings.trajectories[0], 0]], settings)
    weights = pair_draws(chosen, settings.resamples, settings.seed)
    table = {key: [record[key] for record in records] for key in records[0] if key != "nodes"}
    return Outcome(
        settings,
        _numbers(table, flows, weights),
        _notes(table, chosen, weights),
        {"pairs": table, "trajectories": flows},
        lambda path: _figure(path, table, flows),
        {"paths.png": lambda path: _strip(source, records, path, settings.log_snr)},
    )


def _pictures(data: Path | None) -> tuple[Tensor, Tensor]:
    """Digits (N, 1, 28, 28) in [0, 1], and their labels."""
    if data is None:
        images, labels = shipped_digits()
        return images.double(), labels
    folder = mnist_folder(data)
    pixels, digits = (read_idx(folder / name) for name in MNIST["test"])
    return pixels.unsqueeze(1).double() / 255, digits.long()


def _choose(labels: Tensor, settings: Settings) -> Tensor:
    """Indices of pairs of one class (P, 2), one pair of every class after the other."""
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = []
    for label in labels.unique().tolist():
        own = torch.nonzero(labels == label).flatten()
        own = own[torch.randperm(len(own), generator=generator)]
        if len(own) >= 2 * settings.pairs:
            chosen.append(own[: 2 * settings.pairs].reshape(-1, 2))
        else:  # too few for disjoint pairs: any pairs
            both = torch.combinations(own)
            order = torch.randperm(len(both), generator=generator)[: settings.pairs]
            chosen.append(both[order])
    return torch.stack(chosen, 1).reshape(-1, 2)


def _solve(
    model: Model,
    images: Tensor,
    labels: Tensor,
    pairs: Tensor,
    settings: Settings,
    context: Context,
) -> list[dict[str, Any]]:
    """What is known of every pair; those that an earlier run solved are read."""
    known = {**asdict(settings), "model": identity(model), "images": fingerprint(images[pairs])}
    store = Store(context.outdir / "pairs", known)
    stages = {i: store.read(f"{i:03d}") for i in range(len(pairs))}
    left = [i for i, stage in stages.items() if stage is None]
    features = load_features("digit-classifier-1")
    for start in range(0, len(left), settings.batch):
        which = left[start : start + settings.batch]
        done = len(pairs) - len(left) + start
        context.part(f"{done} of {len(pairs)} pairs done", of=-(-len(left) // settings.batch))
        chosen = pairs[which]
        measures = _distances(model, images[chosen], settings)
        measures |= _likeness(features, images[chosen])
        measures["label"] = labels[chosen[:, 0]].tolist()
        nodes = measures.pop("nodes").float()
        for k, i in enumerate(which):
            words = {key: value[k] for key, value in measures.items()}
            stages[i] = store.write(f"{i:03d}", {"nodes": nodes[k]}, words)
    return [{**tensors, **words} for tensors, words in filter(None, stages.values())]


def _distances(model: Model, images: Tensor, settings: Settings) -> dict[str, Any]:
    """Geodesics of pairs of images (B, 2, 1, H, W) and what spacetime says of them."""
    began = time.monotonic()
    space, ends = anchored(model, images, EditOptions(log_snr=settings.log_snr, seed=settings.seed))
    a, b = ends[:, 0], ends[:, 1]
    solver = Relax(rtol=5e-3, iterations=settings.iterations, coarsest=settings.nodes)
    path = search(space, a, b, nodes=settings.nodes, solver=solver, refine=2)
    samples, levels = settings.samples
    checks = [
        mismatch_length(
            model.denoiser,
            one,
            samples=samples,
            levels=levels,
            seed=settings.seed,
            hubs="alternate",
        )
        for one in path.nodes
    ]
    level = path.nodes[..., -1]
    spent = (time.monotonic() - began) / len(images)
    return {
        "nodes": path.nodes,
        "diffed": path.certificate.length.tolist(),
        "path": [length for length, _ in checks],
        "path_error": [error for _, error in checks],
        "via": _via_noise(space, a, b).tolist(),
        "middle": (-level.amin(-1)).tolist(),
        "profile": level.tolist(),
        "status": [status.name for status in path.statuses],
        "negative": path.certificate.negative_fraction.tolist(),
        "seconds": [spent] * len(images),
    }


def _via_noise(space: Spacetime, a: Tensor, b: Tensor) -> Tensor:
    """Length up the probability flow of ``a`` to the noisiest level, across, and down, (B,)."""
    up, down = (_flow(space, x, space.log_snr_range[0]) for x in (a, b))
    half = (up[:, -1:] + down[:, -1:]) / 2
    route = torch.cat([up, half, down.flip(1)], 1)
    with torch.no_grad():
        return space.squared_steps(route).clamp(min=0).sqrt().sum(-1)


def _flow(space: Spacetime, x: Tensor, level: float, spacing: float = 0.5) -> Tensor:
    """The probability flow from points (B, D + 1) of one level to another, (B, n+1, D + 1)."""
    z, lam = space.split(x)
    count = max(2, round(abs(float(lam[0]) - level) / spacing))
    points = [x]
    with torch.no_grad():
        for i in range(count):
            then = torch.lerp(lam, torch.full_like(lam, level), (i + 1) / count)
            z = integrate(space.denoiser, z, points[-1][:, -1], then, steps=1)
            points.append(torch.cat([z, then.unsqueeze(-1)], -1))
    return torch.stack(points, 1)


def _likeness(features: Features, images: Tensor) -> dict[str, list[float]]:
    """Measures that know nothing of the model, of pairs of images (B, 2, 1, H, W)."""
    a, b = images.unbind(1)
    return {
        "euclid": (2 * (a - b)).flatten(1).norm(dim=-1).tolist(),
        "feature": features.distance(a, b).tolist(),
        "ssim": (1 - ssim(a, b)).tolist(),
    }


def _trajectories(model: Model, images: Tensor, settings: Settings) -> dict[str, list[float]]:
    """Sampling trajectories between two noise levels, and geodesics between their ends."""
    _, noisy, clean = settings.trajectories
    space, top = anchored(model, images, EditOptions(log_snr=clean, seed=settings.seed))
    space = Spacetime(
        model.denoiser, seed=settings.seed, log_snr_range=(noisy - 1, space.log_snr_range[1])
    )
    down = _flow(space, top, noisy, spacing=0.375).flip(1)
    n = down.shape[1] - 1
    solver = Relax(rtol=5e-3, iterations=settings.iterations, coarsest=n)
    path = search(space, down[:, 0], down[:, -1], nodes=n, solver=solver, init=down, refine=2)
    with torch.no_grad():
        flow = space.squared_steps(down).clamp(min=0).sqrt().sum(-1)
    return {
        "flow": flow.tolist(),
        "geodesic": path.certificate.discrete_length.tolist(),
        "ratio": (path.certificate.discrete_length / flow).tolist(),
    }


def _strip(model: Model, records: list[dict[str, Any]], path: Path, anchor: float) -> None:
    """Three edits brought back by the probability flow, with their noise."""
    edits = {}
    for record in records[:: max(1, len(records) // 3)][:3]:
        nodes = record["nodes"].double()
        nodes = nodes[torch.linspace(0, len(nodes) - 1, 7).round().long()]
        with torch.no_grad():
            level = nodes[:, -1].clamp(max=anchor)
            clean = drop(model.denoiser, nodes[:, :-1], level)
        middle = float(level.min())
        edits[f"{record['label']}: {record['diffed']:.1f}, lowest {middle:.1f}"] = to_uint8(
            model.codec.decode(clean)
        )
    filmstrip(edits, path)


def _numbers(
    table: dict[str, list[Any]], flows: dict[str, list[float]], weights: Tensor
) -> tuple[Number, ...]:
    """Correlations of DiffED, and of the noise in the middle, with everything else."""
    published = {("diffed", "feature"): -0.07, ("diffed", "ssim"): 0.53}
    numbers = []
    for first, others in (("diffed", MEASURES), ("middle", ("euclid", "feature", "ssim"))):
        title = "DiffED" if first == "diffed" else NAMES["middle"]
        for other in others:
            for kind in ("Pearson", "Spearman"):
                r = correlation(table[first], table[other], kind, weights)
                name = f"{kind}, {title} with {NAMES[other]} [{r.low:+.2f}, {r.high:+.2f}]"
                value = published.get((first, other)) if kind == "Pearson" else None
                numbers.append(Number(name, r.value, published=value, error=r.error))
    path, own = (torch.tensor(table[k], dtype=torch.float64) for k in ("path", "diffed"))
    ratio = resampled_mean(path / own, weights)
    numbers += [
        Number("pairs", float(len(own))),
        Number("mean DiffED (closure metric)", float(own.mean())),
        Number("mean DiffED by the path estimator", float(path.mean())),
        Number("path estimator over closure, mean", ratio.value, error=ratio.error),
        Number("standard error of one path estimate, mean", fmean(table["path_error"])),
        Number(
            "via-noise distance over DiffED, mean", float((torch.tensor(table["via"]) / own).mean())
        ),
        Number("geodesic over sampling trajectory, length, mean", fmean(flows["ratio"])),
        Number("share of steps with a Jacobian that is not positive", fmean(table["negative"])),
        Number("seconds per pair", fmean(table["seconds"])),
    ]
    return tuple(numbers)


def _notes(table: dict[str, list[Any]], pairs: Tensor, weights: Tensor) -> tuple[str, ...]:
    ended = ", ".join(f"{table['status'].count(s)} {s}" for s in sorted(set(table["status"])))
    euclid = correlation(table["middle"], table["euclid"], "Spearman", weights)
    count = len(pairs.unique())
    shared = count < pairs.numel()
    units = f"the {count} pictures that pairs share" if shared else "pairs, no picture in two"
    verdict = "yes" if euclid.low > 0 else "no" if euclid.high < 0 else "not seen"
    return (
        f"Brackets hold 95 % bootstrap intervals over {units}; +- is a bootstrap standard error. "
        "SSIM and LPIPS are published as percentages of unstated sign and kind, for another model, "
        "other pictures and another extractor: no target.",
        f"Does more different (Euclid) mean noisier in the middle? {verdict}: Spearman "
        f"{euclid.value:+.2f} [{euclid.low:+.2f}, {euclid.high:+.2f}].",
        f"Solves ended: {ended}. Lengths of the closure metric are estimates, not bounds.",
    )


def _figure(path: Path, table: dict[str, list[Any]], flows: dict[str, list[float]]) -> None:
    columns, own = {k: torch.tensor(table[k]) for k in MEASURES}, torch.tensor(table["diffed"])
    with canvas(path, rows=2, columns=3, width=3.4) as axes:
        s = torch.linspace(0, 1, len(table["profile"][0]))
        for profile in table["profile"]:
            axes[0].plot(s, profile, color="tab:blue", alpha=0.2, linewidth=0.8)
        axes[0].set(title="noise along the edits", xlabel="s", ylabel="log SNR")
        for axis, key in zip(axes[1:5], ("euclid", "feature", "ssim", "path"), strict=True):
            axis.scatter(columns[key], own, c=table["label"], cmap="tab10", s=9)
            axis.set(xlabel=NAMES[key], ylabel="DiffED")
        low, high = own.min(), own.max()
        axes[4].plot([low, high], [low, high], color="0.6", linewidth=0.8)
        axes[5].scatter(columns["euclid"], columns["middle"], c=table["label"], cmap="tab10", s=9)
        axes[5].set(xlabel="Euclid", ylabel="noise in the middle (- lowest log SNR)")
        axes[3].set_title(f"{len(own)} pairs, colours are classes")
