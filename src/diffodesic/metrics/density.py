r"""Conformal metrics ``c(x) I`` of one noise level: of the density, or of the size of the score.

    density         c = (p/p_0)^(-2a)                    Yu et al. 2504.06675
    inverse density c = 1/(a p/p_0 + b)                  RiemannEBM
    score size      c = 1 + w |s|^2                      the score metric's largest eigenvalue

A path is charged for where it is, not for its direction.  With f = 1/2 log c,

    g^-1 p = p/c,    log vol = D f,    Gamma(u, v) = (df.u) v + (df.v) u - (u.v) df,

and for the first two df is a number times the score: nothing is differentiated.  p_0 is the density
at a reference point.  Where the denoiser knows no density, log p is integrated from scores: along
the chord from the reference to a point, by adaptive quadrature, and along a path by the trapezoidal
rule.

The steps are ``|u|^2 (c_i + c_{i+1})/2``, one evaluation per node.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy
from diffodesic.metrics.one_level import AtNoise, OneLevelEnergy
from diffodesic.numerics import checks
from diffodesic.numerics.hessians import bend
from diffodesic.numerics.quadrature import adaptive

__all__ = ["DensityMetric", "InverseDensity", "ScoreSize"]

_CHANGE = 1e-3  # of a length, by the error of log-density at its start
_MOST = 0.1  # nats: where more is allowed, two rules may agree by chance
_PIECES = 64  # of a chord at most, for a network that is not smooth


@runtime_checkable
class _KnowsDensity(Protocol):
    def log_density(self, z: Tensor, sigma: Tensor) -> Tensor: ...


class _Scaled(AtNoise):
    """A metric ``c(x) I``."""

    @abstractmethod
    def factor(self, x: Tensor) -> Tensor:
        """The factor ``c`` at points (..., D), (...)."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """Gradient of ``1/2 log c`` at points (..., D), (..., D)."""

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``c(x) u.v``; one call of :meth:`factor`."""
        return self.factor(x) * (u * v).sum(-1)

    def squared_steps(self, x: Tensor) -> Tensor:
        """``|u|^2`` times the mean of the factor at the two nodes, (..., n+1, D) -> (..., n)."""
        c = self.factors(x)
        return x.diff(dim=-2).square().sum(-1) * (c[..., 1:] + c[..., :-1]) / 2

    def sharp(self, x: Tensor, p: Tensor) -> Tensor:
        """``p / c``; one call of :meth:`factor`."""
        return p / self.factor(x).unsqueeze(-1)

    def log_volume(self, x: Tensor) -> Tensor:
        """Log of the volume element, ``D/2 log c``, (...)."""
        return self.dim / 2 * self.factor(x).log()

    def christoffel(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Christoffel symbols on vectors (..., D), ``Gamma(u, v)``; one call of :meth:`slope`."""
        f = self.slope(x)
        along_u, along_v, both = (
            (p * q).sum(-1, keepdim=True) for p, q in ((f, u), (f, v), (u, v))
        )
        return along_u * v + along_v * u - both * f

    def factors(self, x: Tensor) -> Tensor:
        """The factor at the nodes of paths (..., n+1, D)."""
        return self.factor(x)


class _OfDensity(_Scaled):
    """A factor that is a function of log-density.

    Attributes:
        reference: the point of density p_0, (D,).
        nats: error of log-density that is allowed: .1, or less where lengths would change by 1e-3.
    """

    nats = 2 * _CHANGE  # half of log c changes by half of log p at most

    def __init__(self, denoiser: Denoiser, log_snr: float, reference: Tensor | None) -> None:
        super().__init__(denoiser, log_snr)
        if reference is None:
            reference = torch.as_tensor(denoiser.mean).detach().expand(denoiser.dim)
        if reference.shape != (denoiser.dim,) or not bool(torch.isfinite(reference).all()):
            raise ValueError(
                f"reference must be a finite point ({denoiser.dim},), got {tuple(reference.shape)}"
            )
        self.reference = reference
        self._kept: tuple[Tensor, Tensor] | None = None  # first nodes, and their log-density

    @abstractmethod
    def of(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """The factor, and half the derivative of its logarithm, at ``log p/p_0`` (...)."""

    def height(self, x: Tensor) -> Tensor:
        """``log p(x)/p_0``: exact where the denoiser knows it, else integrated from scores.

        Args:
            x: points (..., D).

        Returns:
            (...), by adaptive quadrature to :attr:`nats`; NaN for points that are not finite.

        Warns:
            RuntimeWarning: where the quadrature does not reach it.

        Cost: none, or 15 evaluations for each piece of a chord, of which a chord between narrow
        modes has tens.
        """
        x = checks.floating(x, "x")
        sigma, origin = x.new_tensor(self.sigma), self.reference.to(x)
        if isinstance(self.denoiser, _KnowsDensity):
            # the denoiser refuses points that are not finite, which searches try
            known = torch.isfinite(x).all(-1)
            found = self.denoiser.log_density(torch.where(known[..., None], x, origin), sigma)
            return found.where(known, torch.nan) - self.denoiser.log_density(origin, sigma)
        points = x.reshape(-1, self.dim)
        known = torch.isfinite(points).all(-1)
        reach = torch.where(known[:, None], points - origin, 0.0)

        def rise(index: Tensor, s: Tensor) -> Tensor:
            along = reach[index].unsqueeze(-2)
            return (self.score(origin + s.unsqueeze(-1) * along) * along).sum(-1)

        climb = adaptive(
            rise,
            reach[:, 0],
            (0.0, 1.0),
            goal=lambda panels: torch.ones_like(panels[:, 0]),
            rtol=self.nats,
            pieces=_PIECES,
        )
        missed = ~(climb.error <= self.nats) & known
        if bool(missed.any()):
            warnings.warn(
                f"log-density at {int(missed.sum())} of {len(points)} points is known to "
                f"{float(climb.error[missed].max()):.2g} nats only, from scores along a chord: "
                "lengths of these pairs do not compare with those of others; take a noisier level, "
                "or a reference that is nearer",
                RuntimeWarning,
                stacklevel=2,
            )
        return torch.where(known, climb.panels[:, 0], torch.nan).reshape(x.shape[:-1])

    def factor(self, x: Tensor) -> Tensor:
        """The factor ``c`` at points (..., D), (...)."""
        return self.of(self.height(x))[0]

    def slope(self, x: Tensor) -> Tensor:
        """Gradient of ``1/2 log c``: a number times the score; one evaluation more."""
        return self.of(self.height(x))[1].unsqueeze(-1) * self.score(x)

    def energy(self) -> PathEnergy:
        """The energy of ``squared_steps``, with a gradient from scores alone."""
        return DensityEnergy(self)

    def factors(self, x: Tensor) -> Tensor:
        """The factor at the nodes of paths (..., n+1, D), log-density by the trapezoidal rule."""
        exact = isinstance(self.denoiser, _KnowsDensity)
        return self.factor(x) if exact else self.of(self.heights(x, self.score(x)))[0]

    def heights(self, x: Tensor, score: Tensor) -> Tensor:
        """Log-density at nodes (..., n+1, D), by the trapezoidal rule if it must be."""
        if isinstance(self.denoiser, _KnowsDensity):
            return self.height(x)
        rise = ((score[..., 1:, :] + score[..., :-1, :]) / 2 * x.diff(dim=-2)).sum(-1)
        first = self._start(x[..., 0, :]).unsqueeze(-1)
        return torch.cat([first, first + rise.cumsum(-1)], -1)

    def _start(self, x: Tensor) -> Tensor:
        """Log-density at the first nodes (..., D): a search holds them, so it is kept."""
        if torch.is_grad_enabled():
            return self.height(x)
        kept = self._kept
        if kept is None or kept[0].dtype != x.dtype or kept[0].device != x.device:
            kept = None
        if kept is None or not torch.equal(kept[0], x):
            kept = self._kept = x.clone(), self.height(x)
        return kept[1]


class DensityEnergy(OneLevelEnergy):
    """The energy of a function of log-density: a gradient from scores alone.

    Cost: one evaluation per node, and once a search that of :meth:`_OfDensity.height` per path
    where the denoiser knows no density.
    """

    metric: _OfDensity
    # along a path log-density is exact only as far as the trapezoidal rule
    tolerance = 1e-3

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """Steps and their gradient, no segment doubtful; the Hessian is the preconditioner."""
        metric = self.metric
        if not order:
            return Evaluation(*self.steps(x))
        with torch.no_grad():
            score = metric.score(x)
            c, rate = metric.of(metric.heights(x, score))
            u = x.diff(dim=-2)
            square, mean = u.square().sum(-1), (c[..., 1:] + c[..., :-1]) / 2
            steps = square * mean
            # each node's factor counts in both of its segments
            pad = torch.nn.functional.pad
            share = (pad(square, (1, 0)) + pad(square, (0, 1))) / 2
            pull = (share * c * 2 * rate).unsqueeze(-1) * score
            slope = 2 * bend(mean.unsqueeze(-1) * u) + pull
        doubtful = torch.zeros_like(steps, dtype=torch.bool)
        hessian = self.hessian(x, steps) if order == 2 else None
        return Evaluation(steps, doubtful, steps.shape[-1] / 2 * slope, hessian)


class DensityMetric(_OfDensity):
    """``(p/p_0)^(-2a) I`` (2504.06675): short where the data are.

    Args:
        denoiser: posterior mean.
        log_snr: noise level of the density.
        power: the exponent a >= 0; default 1/D, by which ``log c = -2/D log p/p_0`` does not grow
            with the dimension as log p does.  The volume element is then ``p_0/p``: volume grows
            where data are rare, and the density of the data per unit of it is ``p^2/p_0``, less
            even than p (a = -1/D would make it even).
        reference: point (D,) of density p_0; default the mean of the data.

    Raises:
        ValueError: for a negative power, a level outside the denoiser's range, or a reference
            that is no point.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        log_snr: float,
        power: float | None = None,
        reference: Tensor | None = None,
    ) -> None:
        super().__init__(denoiser, log_snr, reference)
        self.power = 1 / denoiser.dim if power is None else checks.number(power, "power")
        if not 0 <= self.power < math.inf:
            raise ValueError(f"power must be >= 0 and finite, got {power}")
        self.nats = min(_CHANGE / max(self.power, _CHANGE), _MOST)

    def of(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(-2 a height)`` and -a."""
        return (-2 * self.power * height).exp(), torch.full_like(height, -self.power)


class InverseDensity(_OfDensity):
    """``I / (scale p/p_0 + floor)``: as short as the data are dense, and nowhere infinite.

    Args:
        denoiser: posterior mean.
        log_snr: noise level of the density.
        scale: weight of the density, >= 0.
        floor: what is left where there are no data, > 0.
        reference: point (D,) of density p_0; default the mean of the data.

    Raises:
        ValueError: for a negative scale, a floor that is not positive, a level outside the
            denoiser's range, or a reference that is no point.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        log_snr: float,
        scale: float = 1.0,
        floor: float = 1e-2,
        reference: Tensor | None = None,
    ) -> None:
        super().__init__(denoiser, log_snr, reference)
        scale, floor = checks.number(scale, "scale"), checks.number(floor, "floor")
        if not (0 <= scale < math.inf and 0 < floor < math.inf):
            raise ValueError(f"scale must be >= 0 and floor > 0, got {scale} and {floor}")
        self.scale, self.floor = scale, floor

    def of(self, height: Tensor) -> tuple[Tensor, Tensor]:
        """``1/(scale e^height + floor)``, and minus half the density's share in it."""
        # by logarithms: e^height itself may overflow
        dense = height + (math.log(self.scale) if self.scale else -math.inf)
        floor = height.new_tensor(math.log(self.floor))
        c = (-torch.logaddexp(dense, floor)).exp()
        if bool((c == 0).any()):
            raise ValueError(
                f"InverseDensity underflows to 0 in {height.dtype}: log p/p_0 reaches "
                f"{float(height.max()):.4g}; give as reference a point that is about as dense as "
                "the data on the path, or a smaller scale"
            )
        return c, -(dense - floor).sigmoid() / 2


class ScoreSize(_Scaled):
    """``(1 + weight |s|^2) I``: dear wherever the score is large, in every direction.

    Args:
        denoiser: posterior mean.
        log_snr: noise level of the score.
        weight: >= 0.

    Raises:
        ValueError: for a weight that is negative or not finite, or a level outside the
            denoiser's range.
    """

    def __init__(self, denoiser: Denoiser, *, log_snr: float, weight: float = 1.0) -> None:
        super().__init__(denoiser, log_snr)
        weight = checks.number(weight, "weight")
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be >= 0 and finite, got {weight}")
        self.weight = weight

    def factor(self, x: Tensor) -> Tensor:
        """``1 + weight |s|^2``; one evaluation per point."""
        return 1 + self.weight * self.score(x).square().sum(-1)

    def slope(self, x: Tensor) -> Tensor:
        """``weight J s / c``, the Jacobian of a score being symmetric; one JVP more."""
        s = self.score(x)
        c = 1 + self.weight * s.square().sum(-1, keepdim=True)
        return self.weight * self.score_jvp(x, s) / c
