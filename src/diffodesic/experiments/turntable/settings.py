"""What is compared on turning fruit: methods, and what the numbers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["CHOICES", "METHODS", "OURS", "PIXELS", "REFERENCES", "Method", "Settings"]

PIXELS = "fruits_model"
"""Folder of a model of photographs at 64 x 64 pixels, without an autoencoder."""


@dataclass(frozen=True)
class Method:
    """A curve between two photographs, and how its points become frames.

    Attributes:
        curve: ``pixels`` (a blend without a model), ``ends`` (the nearer end), a baseline,
            ``arch``, ``graph``, or the name of a metric.
        log_snr: level of the ends.
        depth: e-folds of SNR that an arch falls.
        still: share of an arch on each side that does not cross.
        fresh: share of noise, the same in all frames, that takes the place of the arch's own in
            its middle; it fades out as ``sin(pi s)`` towards the ends.
        posterior: frames by the reverse SDE with one noise for all, in place of the flow.
        pace: frames at equal steps of the parameter, or of the posterior ``means`` or the clean
            ``codes``.
        graph: photographs that a ``graph`` leads through, or the start of a search: ``all`` of the
            training data, or those of ``other`` varieties than the ends'.
        model: folder of another model, beside the data; default the run's.
        few: takes long: joins a few pairs only.
    """

    curve: str
    log_snr: float = 1.0
    depth: float = 3.0
    still: float = 0.0
    fresh: float = 0.0
    posterior: bool = False
    pace: str = "parameter"
    graph: str = ""
    model: str = ""
    few: bool = False


def _arch(depth: float, still: float = 0.0, **more: float | bool | str) -> Method:
    return Method("arch", 2.0, depth, still, **more)  # type: ignore[arg-type]


REFERENCES: Mapping[str, Method] = {
    "nearer end": Method("ends"),
    "pixel blend": Method("pixels"),
}
OURS = "arch 4, pace of means"
_ARCH = _arch(3.0)
_OURS = _arch(4.0, pace="means")
_OTHERS: Mapping[str, Method] = {  # searches, ways through photographs, and another model
    "spacetime": Method("spacetime", 2.0, few=True),
    "score metric": Method("score", few=True),
    "score size": Method("conformal", few=True),
    "score size from the graph": Method("conformal", graph="all", few=True),
    "graph": Method("graph", graph="all"),
    "graph, other fruit": Method("graph", graph="other"),
    "SLERP, pixel model": Method("SLERP", model=PIXELS, few=True),
    f"{OURS}, pixel model": replace(_OURS, model=PIXELS, few=True),
}
CHOICES: Mapping[str, Method] = {
    **REFERENCES,
    "SLERP": Method("SLERP"),
    **{f"arch {depth:g}": _arch(depth) for depth in (2.0, 3.0, 4.0, 6.0)},
    **{f"late arch {depth:g}": _arch(depth, 1 / 3) for depth in (3.0, 6.0)},
    "arch 3, half fresh": replace(_ARCH, fresh=0.5),
    "arch 3, fresh": replace(_ARCH, fresh=1.0),
    "arch 3, posterior samples": replace(_ARCH, posterior=True),
    "arch 3, pace of means": replace(_ARCH, pace="means"),
    "arch 3, pace of codes": replace(_ARCH, pace="codes"),
    OURS: _OURS,
    **_OTHERS,
}
METHODS: Mapping[str, Method] = {
    **REFERENCES,
    "LERP": Method("LERP"),
    "SLERP, log SNR 3": Method("SLERP", 3.0),
    "SLERP, log SNR 1": Method("SLERP", 1.0),
    "SLERP, log SNR -1": Method("SLERP", -1.0),
    "SLERP, full inversion": Method("SLERP", -6.0),
    "NAO": Method("NAO"),
    "NAO, full inversion": Method("NAO", -6.0),
    "NoiseDiffusion": Method("NoiseDiffusion"),
    "NoiseDiffusion, full inversion": Method("NoiseDiffusion", -6.0),
    "likely path": Method("likely path"),
    **{name: CHOICES[name] for name in (OURS, "arch 3", "arch 6", "late arch 3")},
    **_OTHERS,
}


@dataclass(frozen=True)
class Settings:
    """What the numbers depend on."""

    model: str = "fruits"  # name or folder
    split: str = "test"  # the objects; see ``turns.SPLITS``
    objects: int = 10  # how many
    gaps: tuple[float, ...] = (15.0, 30.0, 60.0, 90.0)  # degrees between the ends
    frames: int = 7  # images of a path, ends included
    around: int = 120  # photographs of a turn
    few: int = 4  # objects that slow methods join, at 30 and 90 degrees
    nodes: int = 16  # segments of a searched path
    flow_steps: int = 12  # steps of the probability flow, each way
    pictures: int = 140  # of other fruit, as the reference of morphs
    components: int = 32  # principal components of real pictures in which FID is taken
    resamples: int = 200  # of the intervals
    seed: int = 0  # of everything random
