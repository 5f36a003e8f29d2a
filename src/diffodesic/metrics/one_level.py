"""Metrics at one noise level: their score, their energies, and the unit of their weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.energy import PathEnergy, Solver, chord, evaluate
from diffodesic.geometry.graph_start import dense_path
from diffodesic.geometry.metric import Metric, MetricEnergy
from diffodesic.geometry.solvers.relax import Relax
from diffodesic.numerics import checks
from diffodesic.numerics.cost import record

__all__ = ["NETWORK_SEARCH", "AtNoise", "OneLevelEnergy", "check_level", "weight_unit"]

# powers of the length of a hop; chosen among 1.5 to 12 on the score metric of 8x8 digits
HOPS = {"hops": 3.0, "short hops": 4.0}
WIDER = (4.0, 16.0, 64.0)  # variance of the noise of a detour, over that of the level

# A network's energy is known to about 1e-3; chosen on the shipped 1 -> 7 and 0 -> 6, by the path
# estimator.
NETWORK_SEARCH = Relax(
    rtol=2e-3,
    coarse_rtol=5e-3,
    iterations=6,
    splines=(8, 2, 24),
    polish=False,
    explore=False,
)


def check_level(denoiser: Denoiser, log_snr: float) -> None:
    """Refuse a noise level that the denoiser does not know, or what is none."""
    log_snr = checks.number(log_snr, "log_snr")
    low, high = denoiser.log_snr_range
    low, high = max(low, -checks.WIDEST), min(high, checks.WIDEST)
    if not low <= log_snr <= high:
        raise ValueError(
            f"log_snr = {log_snr} is outside the noise levels of the denoiser; "
            f"choose one between {low:g} and {high:g}"
        )


class AtNoise(Metric):
    """A metric on noisy points at one fixed noise level of a denoiser."""

    def __init__(self, denoiser: Denoiser, log_snr: float) -> None:
        checks.of_kind(denoiser, "denoiser", Denoiser)
        check_level(denoiser, log_snr)
        self.denoiser, self.log_snr, self.dim = denoiser, float(log_snr), denoiser.dim
        self.sigma = math.exp(-log_snr / 2)

    def energy(self) -> PathEnergy:
        """The energy of ``squared_steps``, searched as suits the denoiser."""
        return OneLevelEnergy(self)

    def score(self, x: Tensor) -> Tensor:
        """Score ``(m - x)/sigma^2`` at the fixed level, (..., d); one evaluation per point."""
        x = checks.floating(x, "x")
        # not the denoiser's own score: that reads values, and solvers call this
        return (self.denoiser(x, x.new_tensor(self.sigma)) - x) / self.sigma**2

    def score_jvp(self, x: Tensor, u: Tensor) -> Tensor:
        """Derivative ``J u`` of the score along ``u``, (..., d); one JVP per point."""
        return (self.denoiser.jvp(x, x.new_tensor(self.sigma), u)[1] - u) / self.sigma**2


class OneLevelEnergy(MetricEnergy):
    """The energy of a metric at one noise level.

    Among many modes a straight path leads through nothing, and a search from it ends in the nearest
    valley.  The detour of an exact denoiser leads through where data are dense: it is the best of
    three parabolas, through the posterior mean of the chord's middle at wider noise.  Between many
    narrow modes a bow is not enough: a mixture has paths by hops between its centres
    (:func:`diffodesic.geometry.graph_start.dense_path`).
    """

    def __init__(self, metric: AtNoise) -> None:
        super().__init__(metric)
        self.denoiser, self.log_snr = metric.denoiser, metric.log_snr

    @property
    def default_solver(self) -> Solver | None:  # type: ignore[override]
        """:data:`NETWORK_SEARCH` for a network, else that of ``geodesic``."""
        return NETWORK_SEARCH if self.denoiser.learned else None

    def detours(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """For an exact denoiser the detour, for a mixture hops too; none for a network.

        Returns:
            paths (..., nodes+1, d) by their names.

        Cost: three evaluations and three energies per pair, and that of :meth:`hops`.
        """
        if self.denoiser.learned:
            return {}
        low, _ = self.denoiser.log_snr_range
        middle, found = (a + b) / 2, []
        with torch.no_grad():
            for wider in WIDER:
                sigma = math.exp(-max(self.log_snr - math.log(wider), low) / 2)
                away = self.denoiser(middle, middle.new_tensor(sigma)) - middle
                fine = _parabola(a, b, away, max(nodes, self.coarsest))
                energy = evaluate(self, fine, order=0).energy.nan_to_num(nan=torch.inf)
                record(node_gradients=fine[..., 0].numel() / 3)
                found.append((energy, away))
        best = torch.stack([energy for energy, _ in found]).argmin(0)[None, ..., None]
        away = torch.stack([away for _, away in found])
        away = away.gather(0, best.expand_as(away[:1]))[0]
        named = {"detour": _parabola(a, b, away, nodes)}
        return {**named, **self.hops(a, b, nodes)}

    def hops(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """For a mixture, paths between its centres; none for other denoisers.

        Returns:
            paths (..., nodes+1, d) by their names.

        Cost: no evaluation, but distances between the mixture's centres.
        """
        if not isinstance(self.denoiser, GaussianMixture):
            return {}
        means = self.denoiser.means.to(a)
        pairs = list(zip(a.reshape(-1, self.dim), b.reshape(-1, self.dim), strict=True))
        named = {}
        for name, power in HOPS.items():
            paths = [dense_path(means, *pair, nodes, power=power) for pair in pairs]
            named[name] = torch.stack(paths).reshape(*a.shape[:-1], nodes + 1, self.dim)
        return named


def _parabola(a: Tensor, b: Tensor, away: Tensor, nodes: int) -> Tensor:
    """The path (..., nodes+1, d) whose middle is ``away`` from that of the chord."""
    s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device).unsqueeze(-1)
    return chord(a, b, nodes) + 4 * s * (1 - s) * away.unsqueeze(-2)


def weight_unit(denoiser: Denoiser, points: Tensor, log_snr: float) -> float:
    """The natural unit of a score metric's weight, ``1 / E|s|^2``.

    Args:
        denoiser: posterior mean.
        points: noisy points (..., D) at the level, such as the two ends of a path.
        log_snr: the noise level.

    Returns:
        one over the mean of ``|s|^2`` at the points.

    Raises:
        TypeError: for complex numbers.
        ValueError: for points of another dimension, none, or not finite; where the score is zero
            at all the points, or not finite at one.

    Cost: one evaluation per point.
    """
    checks.of_kind(denoiser, "denoiser", Denoiser)
    points = checks.points(points, "points", denoiser.dim, "the dimension of the data")
    with torch.no_grad():
        score = denoiser.score(points, points.new_tensor(math.exp(-log_snr / 2)))
    size = score.square().sum(-1)
    if not bool(torch.isfinite(size).all()):
        where = torch.nonzero(~torch.isfinite(size).flatten()).flatten().tolist()
        raise ValueError(
            f"the score is not finite at points {where} of log_snr = {log_snr:g}, so the weight "
            "has no unit; check these points, or choose another log_snr"
        )
    if not float(size.mean()) > 0:
        raise ValueError(
            f"the score is zero at all points of log_snr = {log_snr:g}, so the weight has no "
            "unit; choose another log_snr, or give an absolute weight"
        )
    return 1 / float(size.mean())
