"""What is compared on rotated digits: methods, and what the numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from diffodesic.geometry.solvers.relax import Relax
from diffodesic.images.spaces import SPACES, PublishedScoreSpace, Space
from diffodesic.output.options import kinds

__all__ = ["KEPT", "METHODS", "NORM_METHODS", "OURS", "Method", "Settings"]


@dataclass(frozen=True)
class Method:
    """A curve at a noise level."""

    curve: str  # a baseline, or the name of a metric
    # the level of the ends; None: time 400 of DDPM's table, with one noise for both
    log_snr: float | None = 1.0
    weight: float = 10.0  # of the space, where it has one
    rank: int = 1  # of the space, where it has one
    # the published recipe: a weight of 1000 and a score that is not differentiated
    frozen: bool = False
    # frames get the norm of SLERP, as ``interpolate`` gives it; see :func:`with_norm`
    norm: bool = False

    def space(self) -> Space:
        """The space of a curve that is a metric's."""
        if self.frozen:
            return PublishedScoreSpace(rank=self.rank)
        kind = SPACES[self.curve]
        return kind(**{k: getattr(self, k) for k in ("weight", "rank") if k in kinds(kind)})

    def solver(self, settings: Settings) -> Relax | None:
        """A search on one level, from SLERP; None: the recipe's own."""
        if self.frozen:
            return None
        return Relax(
            rtol=settings.rtol,
            iterations=settings.iterations,
            coarsest=settings.nodes,
            # twelve conjugate gradients per step are too many for a Jacobian
            newton=False if self.curve == "jacobian" else None,
        )


OURS = "score size"
METHODS: Mapping[str, Method] = {
    "LERP": Method("LERP"),
    "SLERP": Method("SLERP"),
    "SLERP, full inversion": Method("SLERP", -6.0),
    "NAO": Method("NAO"),
    "NAO, full inversion": Method("NAO", -6.0),
    "NoiseDiffusion": Method("NoiseDiffusion"),
    "NoiseDiffusion, full inversion": Method("NoiseDiffusion", -6.0),
    "LERP, shared noise": Method("LERP", None),
    "SLERP, shared noise": Method("SLERP", None),
    "score metric, mode=paper": Method("score", None, frozen=True),
    "score metric, shared noise": Method("score", None),
    "score metric": Method("score"),
    "score metric, rank 8": Method("score", rank=8),
    "score metric, weight 1000, log SNR 4": Method("score", 4.0, 1000.0),
    OURS: Method("conformal", 1.0, 100.0),
    "score Jacobian": Method("jacobian", 0.0),
    "spacetime": Method("spacetime", 2.0),
    "likely path": Method("likely path"),
}
KEPT = "score size, norm kept"
NORM_METHODS: Mapping[str, Method] = {
    KEPT: replace(METHODS[OURS], norm=True),
    **{name: METHODS[name] for name in (OURS, "SLERP", "NoiseDiffusion")},
}


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    model: str = "mnist"  # name or folder
    split: str = "test"  # the digits; see :func:`choose`
    digits: int = 200  # how many
    gaps: tuple[float, ...] = (15.0, 30.0, 60.0, 90.0)  # angles between the ends, in degrees
    frames: int = 11  # images of a path, ends included
    nodes: int = 12  # segments of a solved path
    iterations: int = 20  # limit of the solver
    rtol: float = 2e-3  # its tolerance
    flow_steps: int = 16  # steps of the probability flow, each way
    resamples: int = 100  # of the intervals
    beyond: int = 100  # digits that are extrapolated
    seed: int = 0  # of everything random
