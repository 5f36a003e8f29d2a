r"""Spacetime: the Fisher-Rao geometry of denoising posteriors over (z, log SNR)  (2505.17517).

The posteriors p(x0 | z, lam) form an exponential family with statistic T = (x0, |x0|^2),

    eta = (k z, -k/2),   mu = (m, E|x0|^2),   k = e^lam,   metric G = d mu / d eta,

so two points are at squared distance ``d_eta . d_mu`` = KL + reverse KL, exactly, and a polyline
in eta needs no simulation: its steps are ``(eta_{i+1}-eta_i).(mu_{i+1}-mu_i)``, which for an
exact posterior mean bound the energy from above for every number of nodes.  How a model that gives
only m answers for E|x0|^2, or does without it, is an estimator
(:mod:`diffodesic.metrics.spacetime.estimators.two_point`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.metrics.spacetime.estimators.base import (
    MANY,
    Gradient,
    SpacetimeEnergy,
    rademacher,
)
from diffodesic.metrics.spacetime.estimators.closure import Closure
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.metrics.spacetime.estimators.secant import FLOOR, Secant
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.points import NoisyPoints, natural
from diffodesic.numerics import checks

__all__ = ["ESTIMATORS", "EstimatorName", "Spacetime"]

EstimatorName = Literal["exact", "hutchinson", "secant", "closure", "path"]


def _secant(denoiser: Denoiser, probes: Tensor, gradient: Gradient, seed: int) -> Secant:
    # a closed form knows its Jacobian everywhere
    floor = 0.0 if denoiser.closed_form else FLOOR
    return Secant(denoiser, probes, gradient=gradient, floor=floor)


def _path(denoiser: Denoiser, _: Tensor, __: Gradient, seed: int) -> Mismatch:
    # the search of a network averages over noise that it draws anew: one pair a draw suffices
    few = denoiser.learned and denoiser.dim >= MANY
    samples, levels = (1, 8) if few else (4, 16)
    return Mismatch(denoiser, samples=samples, levels=levels, seed=seed)


# name -> made of (denoiser, probes, gradient, seed)
ESTIMATORS: dict[str, Callable[[Denoiser, Tensor, Gradient, int], SpacetimeEnergy]] = {
    "exact": lambda denoiser, _, gradient, __: TwoPoint(denoiser, gradient=gradient),
    "hutchinson": lambda denoiser, probes, gradient, _: TwoPoint(
        denoiser, probes, gradient=gradient
    ),
    "secant": _secant,
    "closure": lambda denoiser, probes, gradient, _: Closure(denoiser, probes, gradient=gradient),
    "path": _path,
}


class Spacetime(NoisyPoints):
    """Fisher-Rao metric of the denoising posteriors of a model, on points (z, log SNR).

    Args:
        denoiser: posterior mean of the model.
        estimator: ``exact`` (two-point form, E|x0|^2 in closed form or by the full divergence),
            ``hutchinson`` (two-point form, the divergence by random probes: the paper's way),
            ``secant`` (two-point form of the means, their spread closed at second order, over a
            small floor for networks), ``closure`` (the whole posterior closed at second order),
            ``path`` (relative entropy along reverse trajectories), or an estimator of one's own
            settings. Default ``exact`` for denoisers in closed form and ``secant`` for networks.
        probes: number P of random directions for ``hutchinson``, ``secant`` and ``closure``, or
            the probes themselves, (P, D) with unit second moment. The metric is a deterministic
            function; the search of networks draws a number of probes anew, never given ones.
        seed: seed of the probes, and of the trajectories of ``path``.
        log_snr_range: noise levels that a path may use; default the denoiser's own range, and not
            below an SNR of e^-14 per coordinate.
        gradient: ``reverse`` mode, or ``forward``: gradients from evaluations alone, for networks
            that cannot be differentiated or do not fit in memory when they are; exact only as far
            as the network's Jacobian is symmetric. ``auto`` is reverse until :meth:`settled` has
            looked at the network, as ``geodesic`` asks it to.

    Attributes:
        estimator: its name.

    Raises:
        ValueError: for an unknown estimator or gradient, probes of the wrong shape, or an empty
            range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        estimator: str | SpacetimeEnergy | None = None,
        probes: int | Tensor = 2,
        seed: int = 0,
        log_snr_range: tuple[float, float] | None = None,
        gradient: Gradient = "auto",
    ) -> None:
        checks.of_kind(denoiser, "denoiser", Denoiser)
        if not denoiser.variance > 0:
            raise ValueError("the data law is a single point: its spacetime has no lengths")
        self.denoiser, self.data_dim = denoiser, denoiser.dim
        seed = checks.seed(seed)
        self.probes = _probes(probes, self.data_dim, seed)
        if not isinstance(estimator, SpacetimeEnergy):
            name = estimator or ("exact" if denoiser.closed_form else "secant")
            found = self._build(name, gradient, seed)
            found.keeps_probes = isinstance(probes, Tensor)
        else:
            found = estimator
        self._energy = found if log_snr_range is None else found.within(log_snr_range)
        self.estimator, self.gaussian = found.name, found.gaussian

    def _build(self, name: str, gradient: Gradient, seed: int) -> SpacetimeEnergy:
        for option, value, known in (
            ("estimator", name, tuple(ESTIMATORS)),
            ("gradient", gradient, get_args(Gradient)),
        ):
            if value not in known:
                raise ValueError(f"unknown {option} {value!r}; choose one of {', '.join(known)}")
        if name == "path" and gradient == "forward":
            raise ValueError('the path estimator has reverse-mode gradients only; use "secant"')
        return ESTIMATORS[name](self.denoiser, self.probes, gradient, seed)

    @property
    def log_snr_range(self) -> tuple[float, float]:  # type: ignore[override]
        """Noise levels that a path may use."""
        return self._energy.log_snr_range

    def energy(self) -> SpacetimeEnergy:
        """The estimator: an energy of paths."""
        return self._energy

    def eta(self, x: Tensor) -> Tensor:
        """Natural parameters ``(k z, -k/2)`` of packed points (..., D + 1); no network call."""
        return natural(x)

    def mu(self, x: Tensor) -> Tensor:
        """Mean parameters ``(m, E|x0|^2)``.

        Args:
            x: packed points (..., D + 1).

        Returns:
            (..., D + 1).

        Cost per point: one evaluation in closed form; D + 1 evaluations and D derivatives for
        ``exact`` on a network; P + 1 and P by probes, for all other estimators.
        """
        probes = None if self.estimator == "exact" else self.probes
        return TwoPoint(self.denoiser, probes, gradient=self._energy.gradient).mu(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """``d_eta(u) . d_mu(v)``, or the form of the estimator.

        Args:
            x: packed points (..., D + 1).
            u: tangent vectors (..., D + 1).
            v: tangent vectors (..., D + 1).

        Returns:
            inner products (...).

        Cost per point: one evaluation in closed form; one JVP of ``mu`` (two if ``u`` is not
        ``v``) for other denoisers; for ``secant`` 3 evaluations (5 if ``u`` is not ``v``) and P
        JVPs; for ``closure`` an evaluation and P + 2 JVPs.
        """
        return self._energy.inner(x, u, v)

    def squared_steps(self, x: Tensor) -> Tensor:
        """``(eta_{i+1} - eta_i).(mu_{i+1} - mu_i)``, or as the estimator has it.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n).

        Cost per node: one ``mu``; for ``secant`` an evaluation and P JVPs, for ``closure`` P + 2.
        """
        return self._energy.steps(x)[0]


def _probes(probes: int | Tensor, dim: int, seed: int) -> Tensor:
    if isinstance(probes, int):
        probes = rademacher(probes, dim, seed)
    if probes.ndim != 2 or probes.shape[-1] != dim or not len(probes):
        raise ValueError(
            f"probes have shape {tuple(probes.shape)}; they must be (P, {dim}) with P >= 1"
        )
    return probes
