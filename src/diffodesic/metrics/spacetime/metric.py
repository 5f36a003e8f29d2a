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

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser, HasLogPartition
from diffodesic.denoisers.selfcheck import SelfCheck, self_check
from diffodesic.metrics.spacetime.estimators.base import Estimator, Gradient
from diffodesic.metrics.spacetime.estimators.closure import Closure
from diffodesic.metrics.spacetime.estimators.entropy import Mismatch
from diffodesic.metrics.spacetime.estimators.secant import FLOOR, Secant
from diffodesic.metrics.spacetime.estimators.two_point import TwoPoint
from diffodesic.metrics.spacetime.gaussian import Hyperbolic
from diffodesic.metrics.spacetime.points import NoisyPoints, from_natural, natural
from diffodesic.numerics.curves import Charted, Polyline
from diffodesic.numerics.hessians import Curvature, Tridiagonal

__all__ = ["EstimatorName", "Spacetime"]

EstimatorName = Literal["exact", "hutchinson", "secant", "closure", "path"]


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
            the probes themselves, (P, D) with unit second moment; fixed for the life of the
            object, so that the energy is a deterministic function.
        seed: seed of the probes, and of the trajectories of ``path``.
        log_snr_range: noise levels that a path may use; default the denoiser's own range, and not
            below an SNR of e^-14 per coordinate.
        gradient: ``reverse`` mode, or ``forward``: gradients from evaluations alone, for networks
            that cannot be differentiated or do not fit in memory when they are; exact only as far
            as the network's Jacobian is symmetric. ``auto`` is reverse until :meth:`settled` has
            looked at the network, as ``geodesic`` asks it to.

    Attributes:
        check: what that look has found, or None.

    Raises:
        ValueError: for an unknown estimator or gradient, probes of the wrong shape, or an empty
            range.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        estimator: EstimatorName | Estimator | None = None,
        probes: int | Tensor = 2,
        seed: int = 0,
        log_snr_range: tuple[float, float] | None = None,
        gradient: Gradient | Literal["auto"] = "auto",
    ) -> None:
        if not denoiser.variance > 0:
            raise ValueError("the data law is a single point: its spacetime has no lengths")
        self.denoiser, self.data_dim = denoiser, denoiser.dim
        self.check: SelfCheck | None = None
        self.gradient, self.probes = gradient, _probes(probes, self.data_dim, seed)
        if isinstance(estimator, Estimator):
            self.estimator, self._estimate = estimator.name, estimator
            self.gradient = estimator.gradient
        else:
            self.estimator = estimator or ("exact" if denoiser.closed_form else "secant")
            self._estimate = self._build(seed)
        self.coarsest = self._estimate.coarsest
        self.bent_segments = self._estimate.along_natural_lines
        self.log_snr_range = log_snr_range or _known_range(denoiser)
        low, high = self.log_snr_range
        if not low < high:
            raise ValueError(f"log_snr_range is empty: {low:g} to {high:g}")
        free = torch.full((self.data_dim,), math.inf, dtype=torch.float64)
        self.bounds = (
            torch.cat([-free, free.new_tensor([low])]),
            torch.cat([free, free.new_tensor([high])]),
        )
        self.gaussian = Hyperbolic(self.data_dim, denoiser.variance, denoiser.mean)

    def _build(self, seed: int) -> Estimator:
        for name, value, known in (
            ("estimator", self.estimator, get_args(EstimatorName)),
            ("gradient", self.gradient, (*get_args(Gradient), "auto")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        if self.estimator == "path" and self.gradient == "forward":
            raise ValueError('the path estimator has reverse-mode gradients only; use "secant"')
        if self.estimator == "path":
            return Mismatch(self.denoiser, seed=seed)
        kind = self._kind
        if self.estimator == "secant":
            # a closed form knows its Jacobian everywhere
            floor = 0.0 if self.denoiser.closed_form else FLOOR
            return Secant(self.denoiser, self.probes, gradient=kind, floor=floor)
        if self.estimator == "closure":
            return Closure(self.denoiser, self.probes, gradient=kind)
        probes = self.probes if self.estimator == "hutchinson" else None
        return TwoPoint(self.denoiser, probes, gradient=kind)

    @property
    def _kind(self) -> Gradient:
        return "forward" if self.gradient == "forward" else "reverse"

    def settled(self, a: Tensor, b: Tensor) -> Spacetime:
        """This metric with the kind of gradient that its network can give, where that is open.

        Reverse mode where it agrees with central differences on chords, else forward.

        Args:
            a: starts (B, D + 1).
            b: ends (B, D + 1).

        Returns:
            the metric, with ``gradient`` decided and ``check`` filled.

        Cost: 39 evaluations and 3 VJPs, for networks with ``gradient="auto"`` only.
        """
        if self.gradient != "auto" or self.denoiser.closed_form or self.estimator == "path":
            return self
        s = torch.tensor([[0.1], [0.5], [0.9]], dtype=a.dtype, device=a.device)
        some = torch.linspace(0, len(a) - 1, 3).round().long()
        found = copy.copy(self)
        try:
            found.check = self_check(self.denoiser, torch.lerp(a[some], b[some], s))
        except FloatingPointError:  # the solver says of every pair whether it is concerned
            return self
        found.check.warn()
        found.gradient = found.check.gradient
        found._estimate = found._build(0)  # no seed is left open: the probes are there
        return found

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
        return TwoPoint(self.denoiser, probes, gradient=self._kind).mu(x)

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
        return self._estimate.inner(x, u, v)

    def steps(self, x: Tensor) -> Tensor:
        """``(eta_{i+1} - eta_i).(mu_{i+1} - mu_i)``, or as the estimator has it.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n).

        Cost per node: one ``mu``; for ``secant`` an evaluation and P JVPs, for ``closure`` P + 2.
        """
        return self.judged_steps(x)[0]

    def judged_steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, and where the denoiser is no posterior mean along the path.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n) and a boolean (..., n): ``steps < 0``; for ``secant``,
            whether they are without their floor; for ``closure``, whose steps are bounded from
            below, ``w.Jw < 0`` at one end of the segment.
        """
        return self._estimate.judged_steps(x)

    def steps_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``judged_steps`` and the gradient of the sum, in closed form or as ``gradient`` says.

        Args:
            x: packed points (..., n+1, D + 1).

        Returns:
            squared lengths (..., n), gradient (..., n+1, D + 1), and a boolean (..., n).

        Cost per node: in closed form one evaluation; in reverse mode the forward pass of the
        steps and a backward pass through it; forward, 24 + 10 P more evaluations for ``closure``
        and 5 + 6 P for ``hutchinson``.
        """
        return self._estimate.steps_and_grad(x)

    def newton_steps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Curvature]:
        """For exact denoisers, steps and gradient with the full metric tensor of every segment.

        Args:
            x: paths (B, n+1, D + 1).

        Returns:
            see :meth:`Metric.newton_steps`.

        Cost per node: that of ``steps_and_grad`` and D + 1 evaluations, O(D^3) to solve: for
        D up to about 100.
        """
        if self.estimator != "exact" or not self.denoiser.closed_form:
            return super().newton_steps(x)
        steps, grad, wrong = self.steps_and_grad(x)
        with torch.no_grad():
            tensor = TwoPoint(self.denoiser).matrix(x)
        return steps, grad, wrong, Tridiagonal.of((tensor[:, 1:] + tensor[:, :-1]) / 2)

    def curve(self, nodes: Tensor) -> Polyline:
        """The C2 spline through nodes in the posterior of Gaussian data with this variance.

        Its coordinates are the mean, and the logarithm of the precision, 1/v + k: they stay of
        order one where the noise grows without limit, and are (z, log SNR) where there is little.

        Args:
            nodes: packed points (..., n+1, D + 1).

        Returns:
            the curve.
        """
        if not self.bent_segments:
            return super().curve(nodes)
        return Charted(nodes, self.gaussian.chart, self.gaussian.unchart)

    def lower_bound(self, a: Tensor, b: Tensor) -> Tensor:
        """``2 arccos BC``, BC the Bhattacharyya coefficient of the two posteriors.

        Posteriors are unit vectors sqrt(p), and spacetime is part of that sphere. Never above pi:
        it says something of close pairs only.

        Args:
            a: packed points (..., D + 1).
            b: packed points (..., D + 1).

        Returns:
            (...), zero where the log-partition has no closed form.
        """
        if self.estimator != "exact" or not isinstance(self.denoiser, HasLogPartition):
            return super().lower_bound(a, b)
        first, last = natural(a), natural(b)
        ends, middle = torch.stack([first, last]), (first + last) / 2
        psi = self.denoiser.log_partition
        outer = psi(ends[..., :-1], -2 * ends[..., -1])
        inner = psi(middle[..., :-1], -2 * middle[..., -1])
        # -log BC, less what the difference of large numbers loses
        lost = 64 * torch.finfo(a.dtype).eps * (outer.abs().sum(0) + inner.abs())
        gap = (outer.mean(0) - inner - lost).clamp(min=0)
        return 2 * torch.atan2((-torch.expm1(-2 * gap)).sqrt(), (-gap).exp())

    def segments(self, nodes: Tensor) -> Polyline:
        """The segments that :meth:`steps` measures: straight in eta for two-point estimators."""
        if not self.bent_segments:
            return super().segments(nodes)
        return Charted(nodes, natural, from_natural, Polyline)

    def resolves(self, x: Tensor) -> Tensor:
        """Whether no segment changes log SNR by more than the estimator's rule bears (1)."""
        return (x[..., -1].diff(dim=-1).abs() <= self._estimate.largest_step).all(-1)

    def stride(self, direction: Tensor) -> Tensor:
        """As :meth:`resolves`: an iteration moves log SNR by no more than the rule bears."""
        largest = direction[..., -1].abs().amax(-1).nan_to_num(0.0)
        return (self._estimate.largest_step / largest.clamp(min=1e-300)).clamp(max=1.0)

    def weights(self, x: Tensor) -> Tensor:
        """Diagonal of the metric of Gaussian data with this variance; no network call."""
        return self.gaussian.weights(x)

    def starts(self, a: Tensor, b: Tensor, nodes: int) -> dict[str, Tensor]:
        """The chord, arches over it that rise into noise, and two hyperbolic geodesics.

        Those are of Gaussian data with the data's variance v and with v/4: data of low dimension
        look like less variance.

        Args:
            a: starts (..., D + 1).
            b: ends (..., D + 1).
            nodes: number of segments.

        Returns:
            paths (..., nodes + 1, D + 1) by name.
        """
        low = self.log_snr_range[0]
        found = super().starts(a, b, nodes)
        s = torch.linspace(0, 1, nodes + 1, dtype=a.dtype, device=a.device)
        for depth in (0.5, 1.0, 2.0, 4.0):
            arch = found["chord"].clone()
            arch[..., -1] = arch[..., -1] - depth * 4 * s * (1 - s)
            found[f"arch {depth:g}"] = arch
        for name, share in (("hyperbolic", 1.0), ("hyperbolic/4", 0.25)):
            variance = share * self.denoiser.variance
            space = Hyperbolic(self.data_dim, variance, self.denoiser.mean)
            # six e-folds below the data's own precision nothing is left of the data
            floor = max(low, -math.log(variance) - 6)
            found[name] = space.path(a, b, nodes, lowest=floor)
        return {name: self.confine(path) for name, path in found.items()}


def _probes(probes: int | Tensor, dim: int, seed: int) -> Tensor:
    if isinstance(probes, int):
        generator = torch.Generator().manual_seed(seed)
        probes = torch.randint(0, 2, (probes, dim), generator=generator) * 2.0 - 1.0
    if probes.ndim != 2 or probes.shape[-1] != dim or not len(probes):
        raise ValueError(
            f"probes have shape {tuple(probes.shape)}; they must be (P, {dim}) with P >= 1"
        )
    return probes


def _known_range(denoiser: Denoiser) -> tuple[float, float]:
    """The denoiser's own range, cut where nothing is left of the data (SNR of e^-14)."""
    low, high = denoiser.log_snr_range
    return max(low, -math.log(denoiser.variance) - 14), high
