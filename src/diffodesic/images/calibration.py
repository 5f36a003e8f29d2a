"""Is that far?  A distance ranked among those of random pairs of pictures.

The pictures are samples of the model itself, or others, such as a folder of yours.  Distances under
shared noise are taken of all pairs of n pictures; edit distances, which are dear, of pairs that
share no picture.  What is found is kept in a folder, under a hash of all that it depends on: the
model, the options, the pictures.  Edit distances of the shipped models are shipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.flow import clean_log_snr, drop
from diffodesic.images.edit_result import distances_of
from diffodesic.images.editing import anchored
from diffodesic.images.information import NoisyOptions
from diffodesic.images.pairs import PairSolver, PairwiseOptions
from diffodesic.models.identity import identity, short
from diffodesic.models.model import Model
from diffodesic.numerics import checks
from diffodesic.numerics.cost import expect, stage
from diffodesic.output.stages import Stage, Store, fingerprint

__all__ = [
    "EDITS",
    "PAIRS",
    "SHIPPED",
    "Scale",
    "depends_on",
    "kept_scale",
    "pictures_for",
    "random_pairs",
    "samples",
    "shipped",
]

PAIRS, EDITS = 1128, 20  # random pairs: all of 48 pictures; of edits, which take minutes
SAMPLING, FLOW_STEPS = "sampling", 24  # name of the stage of work; steps of the flow
OWN = "samples of the model"
SHIPPED = Path(__file__).parent / "assets" / "scales"  # tools/ship_scales.py writes them
SOLVED = 4  # edits in one stage of a run that was interrupted


@dataclass(frozen=True)
class Scale:
    """Distances of random pairs.

    Attributes:
        pairs: places of the two pictures, (P, 2).
        distances: (P,).
        among: what the pictures are, in words.
    """

    pairs: Tensor
    distances: Tensor
    among: str

    def percentile(self, distance: float) -> tuple[float, float]:
        """Share of the pairs that are nearer, in per cent, and its standard error.

        Args:
            distance: the distance to be ranked; half of those equal to it count as nearer.

        Returns:
            the percentile, and its error by leaving one picture out (jackknife); where no picture
            is in two pairs, that of a share of P.
        """
        nearer = (self.distances < distance).double() + (self.distances == distance).double() / 2
        share, places = float(nearer.mean()), self.pairs.unique()
        if len(places) == 2 * len(self.pairs):
            return 100 * share, 100 * math.sqrt(share * (1 - share) / len(self.pairs))
        kept = (self.pairs.unsqueeze(-1) != places).all(1).double()  # (P, n)
        without = nearer @ kept / kept.sum(0)
        spread = (without - without.mean()).square().sum() * (len(places) - 1) / len(places)
        return 100 * share, 100 * float(spread.sqrt())

    def sentence(self, distance: float) -> str:
        """The percentile in words."""
        value, error = self.percentile(distance)
        return (
            f"percentile {value:.0f} +- {error:.0f} among {len(self.distances):,} random pairs of "
            f"{self.among}, which are {float(self.distances.quantile(0.05)):.4g} to "
            f"{float(self.distances.quantile(0.95)):.4g} (5 % to 95 %)"
        )


def pictures_for(options: PairwiseOptions | NoisyOptions, pairs: int) -> int:
    """How many pictures it takes to make so many pairs."""
    if isinstance(options, PairwiseOptions):
        return 2 * pairs
    return math.ceil((1 + math.sqrt(1 + 8 * pairs)) / 2)


def samples(model: Model, count: int, seed: int = 0) -> Tensor:
    """Pictures that a model draws from noise by the probability flow.

    Args:
        model: the model.
        count: number N of pictures.
        seed: of the noise.

    Returns:
        (N, C, H, W) in [0, 1].

    Cost: 49 evaluations per picture.
    """
    denoiser = model.denoiser
    level = denoiser.log_snr_range[0]
    deviation = math.sqrt(denoiser.variance + math.exp(-level))
    generator = checks.generator(seed)
    z = torch.randn(count, denoiser.dim, generator=generator, dtype=torch.float64)
    z = z.to(torch.as_tensor(denoiser.mean).device)
    z = denoiser.mean + deviation * z
    sigma = z.new_tensor(math.exp(-clean_log_snr(denoiser) / 2))
    expect({SAMPLING: (2 * FLOW_STEPS + 1) * count})
    with torch.no_grad(), stage(SAMPLING):
        return model.codec.decode(denoiser(drop(denoiser, z, level, steps=FLOW_STEPS), sigma))


def random_pairs(options: PairwiseOptions | NoisyOptions, count: int) -> Tensor:
    """The pairs of so many pictures that are measured, (P, 2)."""
    if isinstance(options, PairwiseOptions):
        return torch.arange(count - count % 2).reshape(-1, 2)
    return torch.triu_indices(count, count, 1).T


def kept_scale(
    model: Model,
    options: PairwiseOptions | NoisyOptions,
    pairs: int,
    folder: Path | None,
    *,
    pictures: Tensor | None = None,
    among: str = "",
    make: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Scale | None:
    """Distances of random pairs: read where they ship or were measured, else measured and kept.

    Args:
        model: the model.
        options: of the distance.
        pairs: number of pairs.
        folder: where they are kept; None keeps nothing.
        pictures: (N, C, H, W) in [0, 1], in a random order; default samples of the model.
        among: what ``pictures`` are, in words.
        make: measure what is not there.
        progress: called with a short line now and then.

    Returns:
        the distances; None where they are not there and not made.

    Raises:
        ValueError: for fewer than 3 pictures.

    Cost: that of the distances, and 49 evaluations per sample.
    """
    count = pictures_for(options, pairs)
    if pictures is not None:
        pictures = pictures[:count]
        if len(pictures) < 3:
            raise ValueError(f"a percentile needs 3 pictures or more, got {len(pictures)}")
        count = len(pictures)
    depends = depends_on(model, options, f"{count} samples" if pictures is None else pictures)
    if pictures is None and (found := shipped(depends).read("complete")):
        return Scale(random_pairs(options, count), found[0]["distances"], f"{count} {OWN}")
    store = Store(None if folder is None else folder / short(depends), depends)
    say = progress or (lambda _: None)
    chosen = random_pairs(options, count)
    if not make and store.read("complete") is None:
        return None

    def drawn() -> Tensor:
        if pictures is not None:
            return pictures
        say(f"drawing {count} samples of the model")
        made = store.stage("samples", lambda: ({"images": samples(model, count)}, {}))
        return made[0]["images"]

    def measured() -> Stage:
        if isinstance(options, NoisyOptions):
            found = options.among(model, drawn(), progress=say).distance
            return {"distances": found.cpu()}, {}
        return {"distances": _edits(model, drawn(), chosen, options, store, say)}, {}

    distances = store.stage("complete", measured)[0]["distances"]
    return Scale(chosen, distances, among or f"{count} {OWN}")


def shipped(depends: dict[str, Any]) -> Store:
    """Where distances ship that depend on this, if they do.

    Args:
        depends: by :func:`depends_on`. Of the model the weights are asked for: another version of
            torch moves a distance by less than its error.

    Returns:
        the store, which holds them if they ship.
    """
    apart = ("answers", "versions")
    model = {key: value for key, value in depends["model"].items() if key not in apart}
    depends = {**depends, "model": model}
    return Store(SHIPPED / short(depends), depends)


def depends_on(
    model: Model, options: PairwiseOptions | NoisyOptions, pictures: Tensor | str
) -> dict[str, Any]:
    """What distances of random pairs depend on.

    Args:
        model: the model.
        options: of the distance.
        pictures: (N, C, H, W), or in words.

    Returns:
        plain values by name.
    """
    return {
        "model": identity(model),
        "options": {"kind": type(options).__name__, **options.settings()},
        "pictures": pictures if isinstance(pictures, str) else fingerprint(pictures),
    }


def _edits(
    model: Model,
    images: Tensor,
    pairs: Tensor,
    options: PairwiseOptions,
    store: Store,
    say: Callable[[str], None],
) -> Tensor:
    """Edit distances of pairs, a few in every stage."""
    parts = []
    for part in torch.arange(len(pairs)).split(SOLVED):
        say(f"{int(part[0])} of {len(pairs)} random pairs")

        def solved(which: Tensor = pairs[part]) -> Stage:
            space, points = anchored(model, images[which.flatten()], options)
            local = torch.arange(2 * len(which)).reshape(-1, 2)
            path = PairSolver.of(space, points, options)(local)
            return {"distances": distances_of(path).double().cpu()}, {}

        parts.append(store.stage(f"pairs-{int(part[0]):04d}", solved)[0]["distances"])
    return torch.cat(parts)
