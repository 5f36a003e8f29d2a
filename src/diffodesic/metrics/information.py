r"""The information-estimation metric: how differently two points are denoised  (2510.02514).

Observe x through z = x + eps / sqrt(gamma) and let m = E[x0 | z].  With one noise for all points,

    IEM(a, b)^2 = int_0^Gamma E |(a - m(z_a)) - (b - m(z_b))|^2 dgamma,       gamma = e^(log SNR).

- A metric: it is the distance in L^2 of the *errors* x - m(z) as functions of gamma and eps.  With
  any levels, positive weights and noises that all points share it is a distance in R^n of such
  errors, so the triangle inequality holds to the last digit, and N points cost N evaluations per
  level and noise, not N^2.
- Noise: the paper takes eps / sqrt(gamma) = W(gamma) / gamma with one Brownian motion W.  Integral
  and expectation commute, so only the law of eps at each gamma counts, and noise drawn anew at
  every level gives the same number.  It is what is done here, since the scatter of the levels then
  averages out: on the shipped digits it is 2.3 times smaller than with one eps for all levels.
- Gaussian data of variances c_i^2: ``sum_i (a_i - b_i)^2 / c_i^2 (1 - 1/(1 + Gamma c_i^2))``, the
  distance of Mahalanobis as Gamma grows.
- Levels are those of Clenshaw & Curtis in log SNR; each refinement keeps those that are there.
  Below the first level the integrand is constant.  Where Gamma is infinite it falls as gamma^-2
  above the last one; both ends are chosen so that little is left there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.numerics.quadrature import clenshaw_curtis

__all__ = ["Features", "InformationRule", "Settled", "each_pair", "every_pair", "settle"]

FEWEST, MOST = 8, 128  # intervals of the first rule and of the last
BLOCK = 1024  # points of one call
LADDER = range(-40, 41, 2)  # log of k v where ends of an infinite range are looked for
SHARE = 1e-3  # of the largest integrand: levels beyond it are left to the two ends

Reduce = Callable[[Tensor], Tensor]


def each_pair(features: Tensor) -> Tensor:
    """Squared distances (M, P) of features (M, 2 P, D) of P first and P second points."""
    return (features[:, 0::2] - features[:, 1::2]).square().sum(-1)


def every_pair(features: Tensor) -> Tensor:
    """Squared distances (M, N (N - 1) / 2) of features (M, N, D), of ``torch.triu_indices``."""
    features = features - features.mean(1, keepdim=True)
    products = features @ features.mT
    i, j = torch.triu_indices(features.shape[1], features.shape[1], 1, device=features.device)
    size = products.diagonal(dim1=-2, dim2=-1)
    square = size[:, i] + size[:, j] - 2 * products[:, i, j]
    # a difference of sums: what rounding leaves of equal points is no distance
    noise = 8 * torch.finfo(square.dtype).eps * (size[:, i] + size[:, j])
    return torch.where(square > noise, square, 0.0)


@dataclass(frozen=True)
class Features:
    """What a denoiser makes of points under noise that all points share.

    Attributes:
        denoiser: posterior mean m.
        noises: number S of noises per level; each comes as eps and -eps.
        seed: of the noises; those of a place depend on nothing else.
        kind: the error ``x - m``, or the ``mean`` m alone.
    """

    denoiser: Denoiser
    noises: int
    seed: int
    kind: Literal["error", "mean"] = "error"

    def squares(self, points: Tensor, level: float, place: int, reduce: Reduce) -> Tensor:
        """Squared distances of features at one level, averaged over eps and -eps.

        Args:
            points: (N, D).
            level: log SNR.
            place: number of the level, for its noise.
            reduce: :func:`each_pair` or :func:`every_pair`.

        Returns:
            one value per noise and pair, (S, P).

        Cost: ``2 S`` evaluations per point.
        """
        generator = torch.Generator().manual_seed((self.seed * (2 * MOST) + place) % 2**63)
        noise = torch.randn(
            self.noises, 1, self.denoiser.dim, generator=generator, dtype=torch.float64
        )
        noise = torch.cat([noise, -noise]).to(points)
        sigma = points.new_tensor(math.exp(-level / 2))
        with torch.no_grad():
            parts = [self._of(part, sigma, noise) for part in points.split(BLOCK)]
        return reduce(torch.cat(parts, 1)).unflatten(0, (2, -1)).mean(0)

    def _of(self, points: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        mean = self.denoiser(points + sigma * noise, sigma)
        return points - mean if self.kind == "error" else mean


@dataclass(frozen=True)
class InformationRule:
    """Levels and weights of the integral over gamma.

    Attributes:
        levels: log SNR, (n + 1,), increasing.
        weights: in gamma, positive, (n + 1,).
        places: numbers of the levels, the same in every refinement.
    """

    levels: Tensor
    weights: Tensor
    places: tuple[int, ...]

    @classmethod
    def over(cls, span: tuple[float, float], count: int, *, unbounded: bool) -> InformationRule:
        """The rule of ``count`` intervals; with ``unbounded`` the integral has no upper end."""
        low, high = span
        s, weights = clenshaw_curtis(count, torch.zeros((), dtype=torch.float64))
        levels = low + (high - low) * s
        gamma = levels.exp()
        weights = (high - low) * gamma * weights
        weights[0] += gamma[0]  # constant below
        if unbounded:
            weights[-1] += gamma[-1]  # int_K^inf (K/k)^2 dk = K
        return cls(levels, weights, tuple(range(0, MOST + 1, MOST // count)))

    def integral(
        self,
        features: Features,
        points: Tensor,
        reduce: Reduce,
        progress: Callable[[str], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """IEM^2 of pairs, and the variance of this estimate, level by level.

        Args:
            features: of the denoiser.
            points: (N, D).
            reduce: :func:`each_pair` or :func:`every_pair`.
            progress: called with a short line after every level.

        Returns:
            (P,) and (P,).

        Cost: ``2 S (n + 1)`` evaluations per point.
        """
        total, variance = points.new_zeros(1), points.new_zeros(1)
        levels, weights = self.levels.tolist(), self.weights.tolist()
        for done, (level, weight, place) in enumerate(
            zip(levels, weights, self.places, strict=True), 1
        ):
            values = features.squares(points, level, place, reduce)
            total = total + weight * values.mean(0)
            variance = variance + weight**2 * values.var(0) / len(values)
            if progress:
                progress(f"{done} of {len(levels)} noise levels done")
        return total, variance


@dataclass(frozen=True)
class Settled:
    """A rule that was refined for some pairs, and what it gives for them.

    Attributes:
        rule: the rule.
        square: IEM^2 per pair, (P,).
        variance: of this estimate, from the noise, (P,).
        change: of IEM^2 from the rule before, (P,); None for a rule that was asked for.
        profile: integrand over log SNR at the levels of the rule, (n + 1, P).
        evaluations: per point.
    """

    rule: InformationRule
    square: Tensor
    variance: Tensor
    change: Tensor | None
    profile: Tensor
    evaluations: int


def settle(
    features: Features,
    points: Tensor,
    reduce: Reduce,
    *,
    log_snr: float,
    rtol: float,
    levels: int | None = None,
) -> Settled:
    """Refine the rule until IEM changes by no more than a tolerance, for all pairs alike.

    A change is compared with the tolerance after twice the standard error of its noise.

    Args:
        features: of the denoiser.
        points: (N, D).
        reduce: :func:`each_pair` or :func:`every_pair`.
        log_snr: log Gamma; may be infinite.
        rtol: relative change of IEM allowed.
        levels: number of levels instead, 2^j + 1.

    Returns:
        the rule and its values.

    Raises:
        ValueError: where the integral has no bound.

    Cost: ``2 S`` evaluations per level and point, and 82 per point where the range is infinite.
    """
    low = features.denoiser.log_snr_range[0]
    spent, unbounded = 0, math.isinf(log_snr)
    if unbounded or math.isinf(low):
        low, log_snr = _span(features, points, reduce, low, log_snr)
        spent = 2 * len(LADDER)
    counts = [levels - 1] if levels else [FEWEST << j for j in range((MOST // FEWEST).bit_length())]
    known: dict[int, Tensor] = {}
    before, change = None, None
    for count in counts:
        rule = InformationRule.over((low, log_snr), count, unbounded=unbounded)
        for level, place in zip(rule.levels.tolist(), rule.places, strict=True):
            if place not in known:
                known[place] = features.squares(points, level, place, reduce)
        values = torch.stack([known[place] for place in rule.places])  # (n + 1, S, P)
        mean, scatter = values.mean(1), values.var(1) / values.shape[1]
        weights = rule.weights.to(mean)
        square = weights @ mean
        if before is not None:
            step = weights.clone()
            step[::2] -= before
            change = (step @ mean).abs()
            noise = (step**2 @ scatter).sqrt()
            if bool((change <= 2 * (rtol * square + noise)).all()):
                break
        before = weights
    spent += 2 * features.noises * len(rule.places)
    profile = rule.levels.exp().to(mean).unsqueeze(-1) * mean
    return Settled(rule, square, weights**2 @ scatter, change, profile, spent)


def _span(
    features: Features, points: Tensor, reduce: Reduce, low: float, high: float
) -> tuple[float, float]:
    """Finite ends of a range: the integrand over log SNR is small beyond them, for all pairs."""
    centre = -math.log(features.denoiser.variance or 1.0)
    one = Features(features.denoiser, 1, features.seed, features.kind)
    ladder = [centre + step for step in LADDER]
    parts = [math.exp(k) * one.squares(points, k, MOST + 1, reduce)[0] for k in ladder]
    values = torch.stack(parts)
    large = (values > SHARE * values.amax(0)).any(1).nonzero().flatten().tolist()
    if not large:  # all points are equal
        large = [len(ladder) // 2]
    if math.isinf(high) and large[-1] == len(ladder) - 1:
        raise ValueError(
            "the distance grows without bound with the SNR: two points differ where data never "
            "do; give snr, the largest one"
        )
    bottom = ladder[max(large[0] - 1, 0)] if math.isinf(low) else low
    top = ladder[min(large[-1] + 1, len(ladder) - 1)] if math.isinf(high) else high
    return min(bottom, top - 1), top
