r"""How good are the frames of an interpolation?  Sharpness, smoothness and truth, by name.

    sharpness     FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) of all frames against
                  real pictures
    smoothness    PPL, the sum of distances of neighbouring frames, and PDV, the variance of these
                  distances, per sequence  (DiffMorpher, 2312.07409)
    truth         PSNR, SSIM and the feature distance of every frame to the picture it should be,
                  and to the nearest of several (the orbit)
    ends          PSNR of the first and last frame against the two pictures given

Every number that comes from features carries the extractor's name.  FID is biased upwards for few
pictures, by an amount that depends on their number: compare only with sets of the same size.  With
fewer pictures than twice the features its covariances are singular, and it is refused.

All four measures of sets and pictures are written here: torchmetrics has them too, but its SSIM is
another one (see :func:`ssim`), and FID and KID take no more lines than it takes to call them there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffodesic.images.features import Features, load_features
from diffodesic.numerics import checks
from diffodesic.numerics.words import brief
from diffodesic.output.records import json_ready

__all__ = [
    "Evaluation",
    "cubic_kernel",
    "evaluate",
    "fid",
    "frechet",
    "kid",
    "psnr",
    "square_root",
    "ssim",
]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What :func:`evaluate` measured; NaN or None for what was not asked for.

    Attributes:
        extractor: name of the feature extractor.
        distance: what its distance is called.
        frames: number of frames judged.
        fid: Frechet distance of the frames' features to the reference's.
        kid: kernel distance, unbiased, times 1000.
        kid_error: its standard error over subsets.
        ppl: sum of distances of neighbouring frames, per sequence (P,).
        pdv: variance of these distances, per sequence (P,).
        psnr: of every frame against its truth, dB, (P, F).
        ssim: of every frame against its truth, (P, F); None for pictures below 11 pixels.
        feature: feature distance of every frame to its truth, (P, F).
        orbit: feature distance of every frame to the nearest picture of its orbit, (P, F).
        ends: PSNR of first and last frame against the pictures given, dB, (P, 2).
    """

    extractor: str
    distance: str
    frames: int
    fid: float = math.nan
    kid: float = math.nan
    kid_error: float = math.nan
    ppl: Tensor | None = None
    pdv: Tensor | None = None
    psnr: Tensor | None = None
    ssim: Tensor | None = None
    feature: Tensor | None = None
    orbit: Tensor | None = None
    ends: Tensor | None = None

    def __repr__(self) -> str:
        """One line of what was measured."""
        known = {k: v for k, v in vars(self).items() if not (isinstance(v, float) and v != v)}
        return f"Evaluation({brief(known)})"

    def as_dict(self) -> dict[str, Any]:
        """Numbers and lists for JSON, without what was not asked for; infinity is None."""
        return {key: value for key, value in json_ready(self).items() if value is not None}


def evaluate(
    frames: Tensor,
    reference: Tensor | None = None,
    *,
    features: str | Features = "digit-classifier-1",
    truth: Tensor | None = None,
    orbit: Tensor | None = None,
    ends: Tensor | None = None,
    force: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Measure sequences of frames.

    Args:
        frames: P sequences of F frames, (P, F, C, H, W), or one, (F, C, H, W), in [0, 1].
        reference: real pictures (N, C, H, W), for FID and KID.
        features: name of an extractor (:func:`diffodesic.images.features.load_features`), or one.
        truth: what each frame should be, of the shape of ``frames``.
        orbit: K pictures per sequence that any of its frames may be, (P, K, C, H, W).
        ends: the two pictures that each sequence joins, (P, 2, C, H, W).
        force: FID of fewer than twice as many pictures as features, which says little.
        seed: of KID's subsets.

    Returns:
        the numbers, with the extractor's name.

    Raises:
        ValueError: for pictures of other sizes or outside [0, 1], fewer than two frames, or too
            few pictures for FID.
        FeaturesError: if the extractor's files are missing; no other is taken.

    Cost: one pass of the extractor per picture.
    """
    seed = checks.seed(seed)
    extractor = load_features(features)
    one = frames.ndim == 4
    frames = frames.unsqueeze(0) if one else frames
    given = {
        "frames": frames,
        "reference": reference,
        "truth": _batched(truth, one),
        "orbit": _batched(orbit, one),
        "ends": _batched(ends, one),
    }
    _check(given)
    measured: dict[str, Any] = {}
    if reference is not None:
        measured |= _sets(frames.flatten(0, 1), reference, extractor, force, seed)
    count, length = frames.shape[:2]
    if length > 1:
        steps = extractor.distance(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
        steps = steps.unflatten(0, (count, length - 1))
        measured |= {"ppl": steps.sum(-1), "pdv": steps.var(-1, correction=0)}
    if (right := given["truth"]) is not None:
        pair = frames.flatten(0, 1), right.flatten(0, 1)
        measures = {"psnr": psnr, "feature": extractor.distance}
        if min(frames.shape[-2:]) >= 11:
            measures["ssim"] = ssim
        for name, measure in measures.items():
            measured[name] = measure(*pair).unflatten(0, (count, length))
    if (choice := given["orbit"]) is not None:
        measured["orbit"] = _nearest(frames, choice, extractor)
    if (pictures := given["ends"]) is not None:
        outer = frames[:, [0, -1]].flatten(0, 1)
        measured["ends"] = psnr(outer, pictures.flatten(0, 1)).unflatten(0, (count, 2))
    return Evaluation(extractor.name, extractor.distance_name, count * length, **measured)


def _batched(x: Tensor | None, one: bool) -> Tensor | None:
    return x.unsqueeze(0) if one and x is not None and x.ndim == 4 else x


def _check(given: dict[str, Tensor | None]) -> None:
    frames = given["frames"]
    assert frames is not None
    if frames.ndim != 5 or not frames.numel():
        raise ValueError(f"frames have shape {tuple(frames.shape)}; give (P, F, C, H, W)")
    lead = {"truth": frames.shape[:2], "orbit": frames.shape[:1], "ends": (len(frames), 2)}
    for name, x in given.items():
        if x is None:
            continue
        if x.shape[-3:] != frames.shape[-3:]:
            raise ValueError(
                f"{name} has pictures of {tuple(x.shape[-3:])}, the frames are "
                f"{tuple(frames.shape[-3:])}: bring them to one size"
            )
        first = tuple(lead.get(name, ()))
        wanted = 4 if name == "reference" else 5
        if x.ndim != wanted or tuple(x.shape[: len(first)]) != first:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, the frames {tuple(frames.shape)}")
        if not (x.is_floating_point() and bool(((x >= 0) & (x <= 1)).all())):
            raise ValueError(f"{name} must be floating-point pictures in [0, 1]")


def _sets(
    frames: Tensor, reference: Tensor, extractor: Features, force: bool, seed: int
) -> dict[str, float]:
    few = min(len(frames), len(reference))
    if few < 2 * extractor.size and not force:
        raise ValueError(
            f"FID in {extractor.size} features of {extractor.name} needs at least "
            f"{2 * extractor.size} pictures a side, got {len(frames)} frames and {len(reference)} "
            "references: with fewer its covariances are singular; give more, or force=True"
        )
    first, second = extractor.pooled(frames), extractor.pooled(reference)
    value, error = kid(first, second, seed=seed)
    return {"fid": fid(first, second), "kid": value, "kid_error": error}


def _nearest(frames: Tensor, orbit: Tensor, extractor: Features) -> Tensor:
    pairs = zip(frames, orbit, strict=True)
    return torch.stack([extractor.distances(*pair).amin(-1) for pair in pairs])


def fid(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features a (N, F) and b (M, F)."""
    (mean, covariance), (other, second) = (
        (x.mean(0), torch.cov(x.T)) for x in (a.double(), b.double())
    )
    return float(frechet(mean, covariance, other, square_root(second)))


def frechet(mean: Tensor, covariance: Tensor, other: Tensor, root: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians, ``|m - m'|^2 + tr(C + C' - 2 (C C')^{1/2})``.

    Args:
        mean: m, (F,).
        covariance: C, (F, F).
        other: m', (F,).
        root: R with ``C' = R R^T``, (F, F), as of :func:`square_root`.

    Returns:
        the distance, ().
    """
    # C C' has the eigenvalues of R^T C R, which is symmetric
    shared = torch.linalg.eigvalsh(root.mT @ covariance @ root).clamp(min=0).sqrt().sum()
    return (mean - other).square().sum() + covariance.trace() + root.square().sum() - 2 * shared


def square_root(covariance: Tensor) -> Tensor:
    """R with ``C = R R^T`` of covariances C (..., F, F); eigenvalues below zero are rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt().unsqueeze(-2)


def kid(a: Tensor, b: Tensor, *, subsets: int = 100, seed: int = 0) -> tuple[float, float]:
    """Kernel distance times 1000 of features a (N, F) and b (M, F), and its standard error.

    The mean over random subsets of half the smaller set, at most 1000, with the cubic polynomial
    kernel. The error is that of the delete-d jackknife: the standard deviation over subsets of m of
    n pictures times sqrt(m / (n - m)).

    Args:
        a: features of one set.
        b: features of the other.
        subsets: number of subsets.
        seed: of their choice.

    Returns:
        the distance, which may be negative, and its standard error.

    Raises:
        ValueError: for fewer than four pictures.
    """
    few = min(len(a), len(b))
    if few < 4:
        raise ValueError(f"KID needs at least 4 pictures a side, got {few}")
    size, generator = min(1000, few // 2), checks.generator(seed)
    values = []
    for _ in range(subsets):
        y, x = (
            features[torch.randperm(len(features), generator=generator)[:size]].double()
            for features in (b, a)
        )
        within = sum(k.sum() - k.trace() for k in (cubic_kernel(x, x), cubic_kernel(y, y)))
        values.append(within / (size * (size - 1)) - 2 * cubic_kernel(x, y).mean())
    spread, mean = torch.std_mean(torch.stack(values), correction=0)
    return 1000 * float(mean), 1000 * float(spread) * math.sqrt(size / (few - size))


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """The kernel of KID, ``(x.y/F + 1)^3``, of all pairs of features x (N, F) and y (M, F)."""
    return (x @ y.T / x.shape[-1] + 1) ** 3


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio of pictures (N, C, H, W) in [0, 1], dB, (N,); inf if equal."""
    return -10 * (a - b).square().flatten(1).mean(-1).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of pictures (N, C, H, W) in [0, 1], at least 11 pixels wide, (N,).

    The mean over channels and over the windows inside the picture, Gaussian of 11 x 11 pixels and
    deviation 1.5 (Wang, Bovik, Sheikh & Simoncelli 2004). Libraries that average
    over mirrored borders too see little else in a digit of 28 x 28: .46 there is .87 here.

    Args:
        a: pictures.
        b: pictures.

    Returns:
        similarities, 1 for equal pictures.
    """
    channels = a.shape[1]
    line = torch.exp(-((torch.arange(11, dtype=a.dtype, device=a.device) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2).expand(channels, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, window, groups=channels)

    ma, mb = blur(a), blur(b)
    va, vb, both = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return likeness.flatten(1).mean(-1)
