r"""The energies of spacetime: what they share, whichever way a denoiser is asked.

Nodes are packed points (z, log SNR), (..., n+1, D+1).  Every estimator knows the range of noise,
the hyperbolic space of Gaussian data with the law's variance, which preconditions and starts a
search, and how far log SNR may change along one segment.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.selfcheck import SelfCheck, self_check
from diffodesic.geometry.energy import Evaluation, Order, PathEnergy, Solver, chord
from diffodesic.geometry.solvers.redraw import Redraw
from diffodesic.metrics.one_level import NETWORK_SEARCH
from diffodesic.metrics.spacetime.flow_arches import flow_arches
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.mismatched_estimation import check_lengths
from diffodesic.numerics import checks
from diffodesic.numerics.hessians import PathHessian

__all__ = [
    "Gradient",
    "SpacetimeEnergy",
    "either",
    "frobenius",
    "rademacher",
    "relative_step",
    "reverse",
    "sides_of",
    "trapezoid",
]

Gradient = Literal["auto", "reverse", "forward"]
NOTHING_LEFT = -4.0  # log SNR per coordinate
MANY = 64  # coordinates from which few trajectories tell the length of a path


class SpacetimeEnergy(PathEnergy):
    """The energy of paths in spacetime by one estimator; points packed (..., D+1).

    Args:
        denoiser: posterior mean.
        gradient: ``reverse`` mode, or ``forward``: from evaluations alone, exact only as far as
            the denoiser's Jacobian is symmetric. ``auto`` is reverse until :meth:`settled` has
            looked at the network.
        log_snr_range: noise levels that a path may use; default the denoiser's own range, and not
            below an SNR of e^-14 per coordinate.

    Attributes:
        name: what results call the estimator.
        largest_step: largest change of log SNR along one segment for its rule to hold.
        probes: random directions (P, D), or None for an estimator without any.
        keeps_probes: whether they are the caller's own, and never drawn anew.
        check: what :meth:`settled` has found about the network, or None.

    Raises:
        ValueError: for an unknown gradient or an empty range.
    """

    name = "estimator"
    largest_step = math.inf
    check: SelfCheck | None = None
    probes: Tensor | None = None
    keeps_probes = False

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        gradient: Gradient = "reverse",
        log_snr_range: tuple[float, float] | None = None,
    ) -> None:
        checks.of_kind(denoiser, "denoiser", Denoiser)
        self.denoiser, self.dim, self.gradient = denoiser, denoiser.dim + 1, gradient
        self.gaussian = Hyperbolic(denoiser.dim, denoiser.variance, denoiser.mean)
        self._bound(log_snr_range or _known_range(denoiser))

    def _bound(self, log_snr_range: tuple[float, float]) -> None:
        low, high = log_snr_range
        if not low < high:
            raise ValueError(f"log_snr_range is empty: {low:g} to {high:g}")
        free = torch.full((self.dim - 1,), math.inf, dtype=torch.float64)
        self.log_snr_range = log_snr_range
        self.bounds = (
            torch.cat([-free, free.new_tensor([low])]),
            torch.cat([free, free.new_tensor([high])]),
        )

    def within(self, log_snr_range: tuple[float, float]) -> SpacetimeEnergy:
        """The same estimator on another range of noise levels."""
        other = copy.copy(self)
        other._bound(log_snr_range)
        return other

    @property
    def jvp(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Value and directional derivative of the denoiser, by derivatives or by differences."""
        # a denoiser known by its evaluations alone has no other derivatives either
        return self.denoiser.difference if self.gradient == "forward" else self.denoiser.jvp

    @abstractmethod
    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared lengths of paths (..., n+1, D+1), (..., n), and which are doubtful, (..., n)."""

    @abstractmethod
    def steps_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`steps` with, in the middle, the gradient of their sum, (..., n+1, D+1)."""

    def hessian(self, x: Tensor, squared_steps: Tensor) -> PathHessian:
        """Approximate Hessian at paths (B, n+1, D+1); default the preconditioner."""
        return self.preconditioner(x, squared_steps)

    def evaluate(self, x: Tensor, *, order: Order = 1) -> Evaluation:
        """By :meth:`steps`, :meth:`steps_and_slope` and :meth:`hessian`."""
        if not order:
            return Evaluation(*self.steps(x))
        squared, slope, doubtful = self.steps_and_slope(x)
        hessian = self.hessian(x, squared) if order == 2 else None
        return Evaluation(squared, doubtful, slope * (squared.shape[-1] / 2), hessian)

    @property
    def default_solver(self) -> Solver | None:  # type: ignore[override]
        """For a network :class:`Redraw` if it can be judged; without probes, none of that.

        The steps of a log-partition network are exact for its law, and have no probes to draw
        anew: splines keep a search where the network was trained (docs/log-partition.md).
        """
        if not self.denoiser.learned:
            return None
        if self.exact_segments:
            return NETWORK_SEARCH if self.denoiser.closed_form else None
        return Redraw() if self.fitted else NETWORK_SEARCH

    @property
    def fitted(self) -> bool:  # type: ignore[override]
        """True for a network of at least 64 coordinates."""
        # a squared difference of means is a sum over coordinates: that of a few scatters too much
        return self.denoiser.learned and self.denoiser.dim >= MANY

    @property
    def blocks(self) -> tuple[int, ...]:
        """The D coordinates of z, and log SNR."""
        return (self.dim - 1, 1)

    def weights(self, x: Tensor) -> Tensor:
        """Diagonal of the metric of Gaussian data with this variance; no network call."""
        return self.gaussian.weights(x)

    def resolves(self, x: Tensor) -> Tensor:
        """Whether no segment changes log SNR by more than :attr:`largest_step`, (...)."""
        return (x[..., -1].diff(dim=-1).abs() <= self.largest_step).all(-1)

    def outside(self, x: Tensor) -> Tensor:
        """Tell which paths rise to where the SNR per coordinate is below e^-4.

        Nothing is left of the data there: lengths tend to an infimum that no path attains.

        Args:
            x: paths (B, n+1, D + 1).

        Returns:
            (B,) boolean; where an end lies there itself, Gaussian data of this variance decide.
        """
        snr = x[..., -1] + math.log(self.denoiser.variance)
        rises = snr[:, [0, -1]].amin(-1) >= NOTHING_LEFT
        return (snr.amin(-1) < NOTHING_LEFT) & (rises | self.gaussian.escapes(x[:, 0], x[:, -1]))

    def longest_step(self, direction: Tensor) -> Tensor:
        """As :meth:`resolves`: an iteration moves log SNR by no more than the rule bears."""
        largest = direction[..., -1].abs().amax(-1).nan_to_num(0.0)
        return (self.largest_step / largest.clamp(min=1e-300)).clamp(max=1.0)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """The chord, arches over it that rise into noise, and two hyperbolic geodesics.

        Those are of Gaussian data with the data's variance v and with v/4: data of low dimension
        look like less variance.  For a network, the chord and :func:`flow_arches`.

        Args:
            a: starts (..., D + 1).
            b: ends (..., D + 1).
            nodes: number of segments.

        Returns:
            paths (..., nodes + 1, D + 1) by name.
        """
        # six e-folds below the data's own precision nothing is left of the data
        low, scale = self.log_snr_range[0], self.denoiser.variance
        found = {"chord": chord(a, b, nodes)}
        if self.denoiser.learned:
            lowest = max(low, -math.log(scale) - 6)
            found |= self._arches(a, b, nodes, lowest)
            return {name: self.confine(path) for name, path in found.items()}
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
        for depth in (0.5, 1.0, 2.0, 4.0):
            arch = found["chord"].clone()
            arch[..., -1] = arch[..., -1] - depth * 4 * s * (1 - s)
            found[f"arch {depth:g}"] = arch
        for name, share in (("hyperbolic", 1.0), ("hyperbolic/4", 0.25)):
            space = Hyperbolic(self.dim - 1, share * scale, self.denoiser.mean)
            floor = max(low, -math.log(share * scale) - 6)
            found[name] = space.path(a, b, nodes, lowest=floor)
        return {name: self.confine(path) for name, path in found.items()}

    def _arches(self, a: Tensor, b: Tensor, nodes: int, lowest: float) -> dict[str, Tensor]:
        """:func:`flow_arches`; the chord for a pair on whose flow the denoiser is not finite."""
        try:
            return flow_arches(self.denoiser, a, b, nodes, lowest)
        except FloatingPointError:
            if a.ndim == 1:
                return {}
        alone = [self._arches(p, q, nodes, lowest) for p, q in zip(a, b, strict=True)]
        names = next((found.keys() for found in alone if found), ())
        lines = chord(a, b, nodes)

        def together(name: str) -> Tensor:
            each = zip(alone, lines, strict=True)
            return torch.stack([found.get(name, line) for found, line in each])

        return {name: together(name) for name in names}

    def redrawn(self, seed: int) -> SpacetimeEnergy:
        """The same with other probes; itself where it has none, or where they were given."""
        if self.probes is None or self.keeps_probes:
            return self
        other = copy.copy(self)
        other.probes = rademacher(len(self.probes), self.denoiser.dim, seed)
        return other

    def judge(self, x: Tensor, seed: int, *, within: float | None = None) -> tuple[Tensor, Tensor]:
        """By :func:`check_lengths`; NaN for a path that is too clean for it."""
        return check_lengths(self.denoiser, x, seed, within=within)

    def noise_ratio(self, x: Tensor) -> Tensor | None:
        """``|z - m|^2 / (sigma^2 D)`` for a network, one evaluation per point; else None."""
        if not self.denoiser.learned:
            return None
        z, sigma = x[..., :-1], (-x[..., -1] / 2).exp()
        with torch.no_grad():
            return (z - self.denoiser(z, sigma)).square().mean(-1) / sigma**2

    def doubts(self) -> tuple[str, ...]:
        """What :meth:`settled` has found wrong with the network."""
        return self.check.doubts() if self.check else ()

    def settled(self, a: Tensor, b: Tensor) -> SpacetimeEnergy:
        """This energy with the kind of gradient that its network can give, where that is open.

        Reverse mode where it agrees with central differences on chords, else forward.

        Args:
            a: starts (B, D + 1).
            b: ends (B, D + 1).

        Returns:
            the energy, with ``gradient`` decided and ``check`` filled.

        Cost: 39 evaluations and 3 VJPs, for networks with ``gradient="auto"`` only; 63 evaluations
        more where its slopes by the noise depend on the step.
        """
        if self.gradient != "auto" or self.denoiser.closed_form:
            return self
        s = torch.tensor([[0.1], [0.5], [0.9]], dtype=a.dtype, device=a.device)
        some = torch.linspace(0, len(a) - 1, 3).round().long()
        try:
            check = self_check(self.denoiser, torch.lerp(a[some], b[some], s))
        except FloatingPointError:  # the search says of every pair whether it is concerned
            return self
        found = copy.copy(self)
        found.check, found.gradient = check, check.gradient
        return found


def _known_range(denoiser: Denoiser) -> tuple[float, float]:
    """The denoiser's own range, cut where nothing is left of the data (SNR of e^-14)."""
    low, high = denoiser.log_snr_range
    return max(low, -math.log(denoiser.variance) - 14), high


def reverse(
    steps: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps, the gradient of their sum in reverse mode, and which are doubtful."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        squared, doubtful = steps(leaf)
        (slope,) = torch.autograd.grad(squared.sum(), leaf)
    return squared.detach(), slope, doubtful


def sides_of(x: Tensor) -> Tensor:
    """Differences to the node before and to the node after, zero beyond the ends: (..., 2, d)."""
    delta = x.diff(dim=-2)
    none = torch.zeros_like(delta[..., :1, :])
    return torch.stack([torch.cat([none, delta], -2), torch.cat([delta, none], -2)], -2)


def trapezoid(squares: Tensor) -> Tensor:
    """Squared lengths of segments, (..., n), from those of both sides of nodes, (..., n+1, 2)."""
    return (squares[..., :-1, 1] + squares[..., 1:, 0]) / 2


def either(doubtful: Tensor) -> Tensor:
    """Segments (..., n) that are doubtful at one of their ends, from sides (..., n+1, 2)."""
    return doubtful[..., :-1, 1] | doubtful[..., 1:, 0]


def frobenius(pushed: Tensor) -> Tensor:
    """|J|_F^2 from J applied to probes (..., P, D)."""
    return pushed.square().sum(-1).mean(-1)


def rademacher(count: int, dim: int, seed: int) -> Tensor:
    """Probes (count, D) of signs, drawn on the CPU."""
    generator = checks.generator(seed)
    return torch.randint(0, 2, (count, dim), generator=generator) * 2.0 - 1.0


def relative_step(denoiser: Denoiser, x: Tensor) -> Tensor:
    """Step of a central difference in units of the noise: of z / sigma, and of log SNR; (...)."""
    sigma = (-x[..., -1] / 2).exp()
    return denoiser.displacement(sigma, x.dtype) / sigma
