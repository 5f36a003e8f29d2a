"""``spacetime/likelihood``: is the likelihood of a network right, and what does it rank?

Two estimates that share nothing but the network are compared: denoising errors, and the probability
flow with Hutchinson's trace.  Then pictures of the model's kind are ranked against noise, blurred
and foreign ones, by log density and by the ratio of the denoising error to the one that the model
expects (:mod:`diffodesic.images.own_kind`).  AUC is the share of pairs, one picture of each set,
in which the model's kind comes first.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.denoisers.likelihood import denoising_likelihood
from diffodesic.experiments.common.inputs import digit_model, mnist_folder
from diffodesic.experiments.common.statistics import Estimate, draws
from diffodesic.experiments.experiment import Context, Number, Outcome
from diffodesic.images.likelihoods import LikelihoodOptions, by_denoising, by_flow
from diffodesic.images.own_kind import surprise
from diffodesic.models.datasets import held_out, load_images, load_mnist, shipped_photographs
from diffodesic.models.identity import identity
from diffodesic.models.loading import load
from diffodesic.models.model import Model
from diffodesic.output.stages import Stage, Store, fingerprint

__all__ = ["Settings", "run"]

CAREFUL, FLOW = LikelihoodOptions(draws=16), LikelihoodOptions(draws=4)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    each: int = 5  # test digits of every class; the other sets are as large
    blur: float = 1.0  # deviation of the Gaussian that blurs, in pixels
    levels: int = 64  # noise levels per draw
    draws: int = 2  # draws per picture, in the ranks
    compared: int = 3  # digits on which the two estimates are compared
    careful: LikelihoodOptions = CAREFUL  # by denoising errors there
    flow: LikelihoodOptions = FLOW  # by the flow there
    resamples: int = 2000  # behind the standard error of AUC


def run(context: Context) -> Outcome:
    """Compare two likelihoods, and rank pictures: 60,000 evaluations, ten minutes on one core."""
    settings = context.settings(
        Settings(),
        each=1,
        levels=8,
        compared=1,
        careful=LikelihoodOptions(levels=8, draws=2),
        flow=LikelihoodOptions(draws=2, steps=8, probes=1),
    )
    model = digit_model(context)
    sets = _sets(context.need("data", "with mnist and fashion_mnist_900"), settings, context.seed)
    photographs = shipped_photographs()[0]
    known = {
        **asdict(settings),
        "seed": context.seed,
        "model": identity(model),
        "images": {name: fingerprint(images) for name, images in sets.items()},
    }
    store = Store(context.outdir / "partial", known)
    scores: dict[str, dict[str, Tensor]] = {}
    begin = partial(context.part, of=len(sets) + 2)
    for name, images in sets.items():
        begin(f"{name}: {len(images)} pictures")
        make = partial(_scored, model, images, settings, context)
        scores[name] = store.stage(name, make)[0]
    both = {
        "digit": (model, sets["digits"][:: settings.each][: settings.compared]),
        "photograph, latents": (load("fruits", device=context.device), photographs),
    }
    numbers: list[Number] = []
    for name, (used, images) in both.items():
        begin(f"{name}: two estimates")
        make = partial(_two, used, images, settings, context)
        numbers += _compared(name, store.stage(f"two of {name}", make)[0])
    numbers += _ranks(scores, settings, context.seed)
    arrays = {
        f"{name}, {kind}": values.tolist()
        for name, kinds in scores.items()
        for kind, values in kinds.items()
    }
    return Outcome(settings, tuple(numbers), _notes(settings), arrays)


def _notes(settings: Settings) -> tuple[str, ...]:
    return (
        "Two estimates: the flow's is the density of what the flow samples, that by denoising "
        "errors bounds the one of the reverse SDE from below; for an exact posterior mean they are "
        "equal. The errors are those of draws and probes: that of the flow's steps (order 4 in "
        f"1/steps), of which there are {settings.flow.steps}, is not among them.",
        "A log density ranks by how easily a picture is denoised, not by whether it is of the "
        "model's kind: what is smooth is likely. The ratio of errors asks for the kind.",
    )


def _sets(data: Path, settings: Settings, seed: int) -> dict[str, Tensor]:
    """Pictures (N, 1, 28, 28) in [0, 1] by name."""
    images, labels = load_mnist(mnist_folder(data), "test")
    digits = (images[held_out(labels, settings.each)].double() + 1) / 2
    count = len(digits)
    generator = torch.Generator().manual_seed(seed)
    clothes = (load_images(data / "fashion_mnist_900" / "fashion_mnist_900.npz").double() + 1) / 2
    chosen = torch.randperm(len(clothes), generator=generator)[:count]
    return {
        "digits": digits,
        "noise": torch.rand(digits.shape, generator=generator, dtype=torch.float64),
        "blurred digits": _blurred(digits, settings.blur),
        "clothes": clothes[chosen],
    }


def _blurred(images: Tensor, deviation: float) -> Tensor:
    """Convolved with a Gaussian, zeros around."""
    reach = math.ceil(4 * deviation)
    place = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-((place / deviation) ** 2) / 2)
    kernel = kernel / kernel.sum()
    once = torch.nn.functional.conv2d(images, kernel.reshape(1, 1, 1, -1), padding=(0, reach))
    return torch.nn.functional.conv2d(once, kernel.reshape(1, 1, -1, 1), padding=(reach, 0))


def _scored(model: Model, images: Tensor, settings: Settings, context: Context) -> Stage:
    """Log density and ratio of errors of every picture."""
    points = model.codec.encode((images * 255).round() / 255)
    found = denoising_likelihood(
        model.denoiser,
        points,
        levels=settings.levels,
        draws=settings.draws,
        seed=context.seed,
    )
    ratio = surprise(model.denoiser, points).ratio.double()
    return {"nats": found.nats.cpu(), "error": found.error.cpu(), "ratio": ratio.cpu()}, {}


def _two(model: Model, images: Tensor, settings: Settings, context: Context) -> Stage:
    """Both estimates of the log density, with their standard errors, (N, 2, 2)."""
    points, seed = model.codec.encode(images).double(), context.seed
    careful = by_denoising(model, points, settings.careful.but(seed=seed + 1), context.progress)
    flow = by_flow(model, points, settings.flow.but(seed=seed), context.progress)
    rows = [torch.stack([each.nats, each.error], -1) for each in (careful, flow)]
    return {"both": torch.stack(rows, 1)}, {}


def _compared(name: str, two: dict[str, Tensor]) -> list[Number]:
    numbers = []
    for i, ((nats, error), (flow, flow_error)) in enumerate(two["both"].tolist()):
        of = f"{name} {i + 1}"
        numbers.append(Number(f"nats by denoising errors, {of}", nats, error=error))
        numbers.append(Number(f"nats by the flow, {of}", flow, error=flow_error))
        off = (flow - nats) / math.hypot(error, flow_error)
        numbers.append(Number(f"their difference in standard errors, {of}", off))
    return numbers


def _ranks(scores: dict[str, dict[str, Tensor]], settings: Settings, seed: int) -> list[Number]:
    """Means, and AUC of the model's kind against each other set."""
    numbers = [
        Number(f"mean nats, {name}", float(kinds["nats"].mean())) for name, kinds in scores.items()
    ]
    own = scores["digits"]
    for measure, sign, words in (("nats", 1, "log density"), ("ratio", -1, "ratio of errors")):
        for name, kinds in scores.items():
            if name != "digits":
                auc = _auc(sign * own[measure], sign * kinds[measure], settings.resamples, seed)
                numbers.append(
                    Number(f"AUC by {words}, digits over {name}", auc.value, error=auc.error)
                )
    return numbers


def _auc(own: Tensor, other: Tensor, resamples: int, seed: int) -> Estimate:
    """Share of pairs in which ``own`` is larger, ties at one half, resampled in both sets."""
    wins = (own[:, None] > other).double() + (own[:, None] == other).double() / 2
    rows, columns = (draws(len(x), resamples, seed + i) for i, x in enumerate((own, other)))
    drawn = ((rows @ wins) * columns).sum(-1) / wins.numel()
    return Estimate.of(float(wins.mean()), drawn)
