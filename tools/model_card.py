"""What a model's card reports: are its samples pictures of its kind, is its Jacobian a covariance.

Samples. The probability-flow ODE dz/dsigma = (z - m) / sigma is integrated from sigma_max with
Heun's method on EDM's grid (2206.00364, rho = 7). The Frechet distance (Heusel et al.,
1706.08500) between Gaussian fits of features of N samples and of N held-out pictures is biased
upwards at this size, so it stands beside the distance between two disjoint sets of N held-out
pictures. Several disjoint reference sets give each number a spread.

Jacobian. The posterior covariance is sigma^2 J, J = dm/dz, so for a true posterior mean J is
symmetric and

    E tr J = E |x0 - m|^2 / sigma^2        (trace identity; both sides are E tr Cov / sigma^2).

For any network Stein's lemma gives E tr J = E eps.m / sigma, hence the identity holds exactly when
E (x0 - m).(z - m) = 0: it tests the calibration of m along z and along m itself. With Rademacher
v (so that E v v^T = I) we report

    trace      v.Jv           (Hutchinson)        against   |x0 - m|^2 / sigma^2,
    asymmetry  |Jv - J^T v| / |Jv + J^T v|        0 for a posterior mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.predictions import edm_preconditioning
from diffodesic.experiments.common.statistics import standard_error
from diffodesic.images.evaluation import fid
from diffodesic.images.features import Features, load_features
from diffodesic.models.datasets import held_out, load_mnist, rotate
from diffodesic.models.image_training import card
from diffodesic.models.loading import load
from diffodesic.models.unet import UNet
from diffodesic.output.files import write_atomically
from diffodesic.output.tables import markdown

__all__ = [
    "DIGITS",
    "Kind",
    "frechet",
    "held_out_digits",
    "jacobian",
    "load_trained",
    "report",
    "sample",
    "sheet",
]

LEVELS = (6.0, 4.0, 2.0, 0.0, -2.0, -4.0)
Mean = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """What a card says of the pictures of its model.

    Attributes:
        pictures: what they are, in the plural.
        features: extractor of the Frechet distances, see `load_features`.
        data: the section on data and use, Markdown.
    """

    pictures: str
    features: str
    data: str


def report(
    folder: str | os.PathLike[str],
    real: Tensor,
    kind: Kind,
    *,
    samples: int = 1000,
    points: int = 500,
    steps: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model and write quality.json, samples.png and CARD.md beside its weights.

    Args:
        folder: what `train` wrote.
        real: held-out pictures (N, C, H, W) in [0, 1], at least three times `samples`.
        kind: what the card says of them.
        samples: size of every set of the Frechet distances.
        points: held-out pictures per noise level for the Jacobian.
        steps: steps of the sampler.
        seed: the seed of everything.

    Returns:
        what quality.json holds.

    Cost: samples * (2 steps - 1) evaluations, and points * 2 * 6 JVPs and VJPs (three minutes for
    digits).
    """
    folder = Path(folder)
    mean, config = load_trained(folder)
    codec, features = load(folder).codec, load_features(kind.features)
    g = torch.Generator().manual_seed(seed)
    drawn = sample(mean, config, samples, steps=steps, generator=g)
    fake = codec.decode(drawn.flatten(1))
    clean = codec.encode(real[-points:]).unflatten(-1, tuple(config["shape"]))
    sets = list(real[: len(real) // samples * samples].split(samples))
    result = {
        "frechet": frechet(fake, sets, features),
        "jacobian": [jacobian(mean, clean, level, generator=g) for level in LEVELS],
        "samples": samples,
        "sampler": f"probability-flow ODE, Heun, {steps} steps",
        "features": features.name,
        "seed": seed,
    }
    write_atomically(folder / "quality.json", (json.dumps(result, indent=1) + "\n").encode())
    sheet(fake[:64], folder / "samples.png", zoom=max(1, 84 // fake.shape[-1]))
    write_atomically(folder / "CARD.md", (card(config) + _section(result, kind)).encode())
    return result


def load_trained(folder: str | os.PathLike[str]) -> tuple[Mean, dict[str, Any]]:
    """Load what `train` wrote.

    Args:
        folder: holds weights.safetensors and config.json.

    Returns:
        the posterior mean m(z, sigma), z: (N, C, H, W), sigma: (N,), frozen; and the config.

    Raises:
        FileNotFoundError: if there is no model.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no model in {folder}: give a folder that train wrote.")
    config = json.loads((folder / "config.json").read_text())
    network = UNet(**config["network"])
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    network.requires_grad_(False)

    def mean(z: Tensor, sigma: Tensor) -> Tensor:
        level = sigma[:, None, None, None]
        skip, gain, scale, noise = edm_preconditioning(level, config["sigma_data"])
        return skip * z + gain * network(z / scale, noise.flatten())

    return mean, config


@torch.no_grad()
def sample(
    mean: Mean,
    config: dict[str, Any],
    number: int,
    *,
    steps: int = 32,
    generator: torch.Generator | None = None,
    batch: int = 100,
) -> Tensor:
    """Draw samples by the probability-flow ODE.

    Args:
        mean: the posterior mean.
        config: the model's config.
        number: how many.
        steps: steps of Heun's method.
        generator: source of the noise.
        batch: how many at once.

    Returns:
        points that the model's codec decodes, shape (number, C, H, W).

    Cost: number * (2 steps - 1) evaluations.
    """
    high, low = (float(config[key]) ** (1 / 7) for key in ("sigma_max", "sigma_min"))
    sigmas = torch.linspace(high, low, steps) ** 7
    noise = torch.randn(number, *config["shape"], generator=generator)
    images = []
    for z in (noise * sigmas[0]).split(batch):
        for here, there in pairwise(sigmas):
            slope = (z - mean(z, here.expand(len(z)))) / here
            guess = z + (there - here) * slope
            end = (guess - mean(guess, there.expand(len(z)))) / there
            z = z + (there - here) * (slope + end) / 2
        images.append(mean(z, sigmas[-1].expand(len(z))))
    return torch.cat(images)


def frechet(
    fake: Tensor, sets: list[Tensor], features: str | Features = "digit-classifier-1"
) -> dict[str, float]:
    """Compare samples, and held-out pictures, with held-out pictures.

    Args:
        fake: samples, shape (N, C, H, W) in [0, 1].
        sets: three or more disjoint sets of held-out pictures, each of the same shape.
        features: the extractor, or its name.

    Returns:
        mean and spread (standard deviation) of the Frechet distance of the samples to every set,
        and of every pair of sets.
    """
    extractor = load_features(features)
    samples, *held_out = (extractor.pooled(x) for x in (fake, *sets))
    model = [fid(samples, features) for features in held_out]
    real = [fid(a, b) for a, b in combinations(held_out, 2)]
    return {
        "model": fmean(model),
        "model_spread": stdev(model),
        "real": fmean(real),
        "real_spread": stdev(real),
        "ratio": fmean(model) / fmean(real),
    }


def jacobian(
    mean: Mean, clean: Tensor, level: float, *, generator: torch.Generator, batch: int = 50
) -> dict[str, float]:
    """Measure the asymmetry and the trace identity of dm/dz at one noise level.

    Args:
        mean: the posterior mean.
        clean: held-out images x0, shape (N, C, H, W).
        level: log SNR.
        generator: source of the noise and of two probes per image.
        batch: how many at once.

    Returns:
        log_snr; trace and error (E |x0 - m|^2 / sigma^2), their ratio, asymmetry, each with its
        standard error as *_se.

    Cost: 2 N JVPs and VJPs.
    """
    batches = []
    for x0 in clean.split(batch):
        sigma = torch.full((len(x0),), level).mul(-0.5).exp()
        scale = sigma[:, None, None, None]
        z = x0 + scale * torch.randn(x0.shape, generator=generator)

        def at(z: Tensor, sigma: Tensor = sigma) -> Tensor:
            return mean(z, sigma)

        m, pull = torch.func.vjp(at, z)[:2]
        traces, asymmetries = [], []
        for _ in range(2):
            v = torch.randint(0, 2, z.shape, generator=generator) * 2.0 - 1
            right, left = torch.func.jvp(at, (z,), (v,))[1], pull(v)[0]
            traces.append((v * right).sum((1, 2, 3)))
            asymmetries.append(_norm(right - left) / _norm(right + left))
        error = ((x0 - m) / scale).square().sum((1, 2, 3))
        batches += [(torch.stack(traces).mean(0), error, torch.stack(asymmetries).mean(0))]
    columns = dict(zip(("trace", "error", "asymmetry"), _columns(batches), strict=True))
    trace, error = columns["trace"], columns["error"]
    ratio = trace.mean() / error.mean()
    result = {"log_snr": level}
    for name, column in columns.items():
        result[name], result[name + "_se"] = float(column.mean()), float(standard_error(column))
    # delta method: trace and error of one image are correlated
    result["ratio"] = float(ratio)
    result["ratio_se"] = float(standard_error((trace - ratio * error) / error.mean()))
    return result


def sheet(images: Tensor, path: str | os.PathLike[str], columns: int = 8, zoom: int = 3) -> None:
    """Write images (N, C, H, W) in [0, 1], N a multiple of `columns`, as one PNG or JPEG."""
    from PIL import Image

    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.25)
    n, channels, height, width = padded.shape
    grid = padded.reshape(n // columns, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    page = grid.reshape(n // columns * height, columns * width, channels)
    page = page.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    pixels = (page * 255).round().clamp(0, 255).byte().squeeze(-1)
    Image.fromarray(pixels.numpy()).save(path, optimize=True)


def held_out_digits(data: str | os.PathLike[str], rotation: float, seed: int = 0) -> Tensor:
    """Test digits that the library does not ship, shuffled and turned, in [0, 1].

    Args:
        data: the folder of MNIST's four .gz files.
        rotation: as the model was trained with.
        seed: of the order and the angles.

    Returns:
        digits (9900, 1, 28, 28): without the ten first of each class.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_mnist(data, "test")
    keep = torch.ones(len(images), dtype=torch.bool)
    keep[held_out(labels)] = False
    images = images[keep][torch.randperm(int(keep.sum()), generator=generator)]
    degrees = (2 * torch.rand(len(images), generator=generator) - 1) * rotation
    return (rotate(images, degrees) + 1) / 2


def _columns(batches: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(column).double() for column in zip(*batches, strict=True)]


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _section(result: dict[str, Any], kind: Kind) -> str:
    f = result["frechet"]
    lines = [
        "## Quality",
        "",
        f"Frechet distance in the features of {result['features']}, {result['samples']} pictures "
        "a side (+-: standard deviation over reference sets):",
        "",
        f"- samples ({result['sampler']}) to held-out {kind.pictures}: "
        f"{f['model']:.2f} +- {f['model_spread']:.2f}",
        f"- one set of held-out {kind.pictures} to another: "
        f"{f['real']:.2f} +- {f['real_spread']:.2f} (ratio {f['ratio']:.1f})",
        "",
        f"Jacobian J = dm/dz on held-out {kind.pictures} (+-: standard error).",
        "For a posterior mean tr J and",
        "|x0 - m|^2 / sigma^2 agree in expectation, and |Jv - J'v| / |Jv + J'v| (asymmetry) is 0.",
        "",
    ]
    table = []
    for at in result["jacobian"]:
        cells = [f"{at[k]:.3g} +- {at[k + '_se']:.2g}" for k in ("trace", "error")]
        cells.append(f"{at['ratio']:.3f} +- {at['ratio_se']:.2g}")
        cells.append(f"{at['asymmetry']:.3f} +- {at['asymmetry_se']:.1g}")
        table.append([f"{at['log_snr']:g}", *cells])
    lines.append(markdown(["log SNR", "tr J", "error / sigma^2", "ratio", "asymmetry"], table))
    return "\n".join(lines) + "\n\n![64 samples, not chosen](samples.png)\n" + kind.data


DIGITS = Kind(
    "turned digits",
    "digit-classifier-1",
    """
## Data and use

Trained on MNIST's training digits, by Yann LeCun, Corinna Cortes and Christopher Burges (no formal
licence, commonly given as CC BY-SA 3.0). No test digit was used. For studying and showing the
geometry of a learned model; it knows grey digits of 28x28 pixels, turned by at most the angle
above, and nothing else.
""",
)
