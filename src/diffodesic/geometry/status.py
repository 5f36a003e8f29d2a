"""How a search for a path ended."""

from __future__ import annotations

from enum import Enum

__all__ = ["SearchWarning", "Status"]


class SearchWarning(RuntimeWarning):
    """The search for a path did not end well; the text is the sentence of its status."""


class Status(Enum):
    """How a solve ended; the value is a sentence with advice, worst last."""

    CONVERGED = "converged"
    SAME_POINT = "the end points are identical: the path has length zero"
    FIXED_BUDGET = "the solver ran its fixed number of steps; it does not test convergence"
    ITERATION_LIMIT = (
        "stopped at the iteration limit before the tolerance was met; "
        "raise `iterations` (`judgements` of `Redraw`) or loosen `rtol`"
    )
    STALLED = (
        "no further descent was found although the tolerance is not met, so the energy is "
        "probably at its rounding or estimator noise; loosen `rtol`; use float64, or more `probes`"
    )
    HELD_BACK = (
        "stopped where further descent would add segments that are doubtful: their squared length "
        "is negative, or the denoiser's Jacobian is not that of a posterior mean along them; the "
        "path is sound, but a better model may know a shorter one; more `probes` may, too"
    )
    START_KEPT = (
        "no path was found that an independent estimate calls shorter than the first one, which is "
        "kept: it is a guess, and a better model may know a shorter one"
    )
    UNTRAINED = (
        "the path runs through points with too little noise for their level, on which no network "
        "is trained: its length is a guess"
    )
    TOO_COARSE = (
        "the nodes are too far apart for the metric's own steps to be believed; raise `nodes` "
        "(`nodes` of `Redraw`)"
    )
    LEFT_DOMAIN = (
        "the path presses against the limit of the noise range, or runs where nothing is left of "
        "the data: no shortest path may exist, and the length is that of the best path seen; move "
        "the ends closer; widen `log_snr_range` if the model knows more noise"
    )
    NEGATIVE_STEPS = (
        "some squared lengths are negative: the denoiser is not a posterior mean "
        "along this path (guided, or badly trained); do not trust the length"
    )
    NOT_DIFFERENTIABLE = (
        "the energy does not change as its gradient says: the denoiser cannot be differentiated; "
        'use `gradient="forward"`, which needs evaluations only'
    )
    NON_FINITE = (
        "the metric is not finite at the first path, everywhere the solver went from it, or "
        "between the nodes of the path; check the end points and that the denoiser returns finite "
        "values there"
    )

    @property
    def ok(self) -> bool:
        """Whether the search ended as it was meant to: converged, or its whole budget was spent."""
        return self in (Status.CONVERGED, Status.SAME_POINT, Status.FIXED_BUDGET)
