"""Functions of the Python API with arguments that hypothesis draws: right, or a typed sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from campaign.oracle import Fault, judge
from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.geometry.boundary_value import distance, geodesic
from diffodesic.geometry.exponential import exp, log
from diffodesic.geometry.frechet import mean
from diffodesic.images.distances import pairwise
from diffodesic.images.editing import edit_distance
from diffodesic.images.interpolation import InterpolateOptions
from diffodesic.metrics.elementary import Euclidean
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.models.image_training import TrainSettings
from diffodesic.transitions.annealing import PathOptions
from diffodesic.transitions.grid_denoiser import GridDenoiser
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.potentials import DoubleWell, Potential
from diffodesic.transitions.surfaces import PeriodicSurface

LAW = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64), std=0.7)
FLAT, SPACE = Euclidean(2), Spacetime(LAW)
FULL, QUICK = 12, 2  # examples of every function

ODD = st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-300, 1e9, 1e100, math.nan, math.inf, -math.inf])
NUMBER = st.one_of(
    ODD, st.floats(-3, 3), st.integers(-3, 40), st.sampled_from([None, "1", True, 10**30])
)
SHAPES = st.sampled_from([(2,), (2,), (3,), (1, 2), (3, 2), (2, 2), (0, 2), (), (1,), (2, 1)])


@st.composite
def points(draw: st.DrawFn) -> Tensor:
    """Tensors of two coordinates and of other shapes, dtypes and values."""
    shape = draw(SHAPES)
    count = math.prod(shape)
    tame = draw(st.booleans())
    values = st.floats(-2, 2) if tame else st.one_of(ODD, st.floats(-2, 2))
    dtype = draw(st.sampled_from(["float64", "float64", "float32", "int64", "complex128", "bool"]))
    flat = draw(st.lists(values, min_size=count, max_size=count))
    if dtype in ("int64", "bool"):
        flat = [float(round(v)) if math.isfinite(v) and abs(v) < 9 else 1.0 for v in flat]
    return torch.tensor(flat, dtype=torch.float64).to(getattr(torch, dtype)).reshape(shape)


def finite(found: object) -> bool:
    """Whether a result is made of numbers."""
    tensors = found if isinstance(found, (tuple, list)) else [found]
    return all(bool(torch.isfinite(torch.as_tensor(x)).all()) for x in tensors)


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-3)


def answered(law: Denoiser, z: Tensor, sigma: float | Tensor = 1.0) -> Tensor:
    return law(z, torch.as_tensor(sigma, dtype=torch.float64))


def lengths(log_snr: float, weight: float) -> Tensor:
    """Squared length of a vector under the score metric."""
    metric = ScoreMetric(LAW, log_snr=log_snr, weight=weight)
    return metric.inner(torch.zeros(2), torch.ones(2), torch.ones(2))


def bowl(low: float, high: float) -> Potential:
    return from_callable(lambda x: x.square().sum(-1), dim=1, kT=1.0, box=((low, high),), unit="kT")


def plain(a: Tensor, b: Tensor) -> Callable[[Tensor], bool]:
    """Whether a distance is that of the plane."""
    return lambda found: torch.allclose(
        found.double(), (a.double() - b.double()).norm(dim=-1), rtol=1e-4, atol=1e-5
    )


Case = tuple[Callable[[], Any], Callable[[Any], object]]


def _options(kind: Callable[..., Any], name: str, value: Any) -> Case:
    """One option of a class: it comes back as it was given."""

    def kept(found: Any) -> bool:
        back = getattr(found, name)
        return (
            back is None if value is None else type(back) is not str and float(back) == float(value)
        )

    return lambda: kind(**{name: value}), kept


P, N = points(), NUMBER
DOORS: dict[str, tuple[tuple[st.SearchStrategy[Any], ...], Callable[..., Case]]] = {
    "distance": ((P, P), lambda a, b: (lambda: distance(FLAT, a, b), plain(a, b))),
    "geodesic": (
        (P, P),
        lambda a, b: (lambda: geodesic(FLAT, a, b, nodes=4).length, plain(a, b)),
    ),
    "geodesic nodes": (
        (N,),
        lambda n: (
            lambda: geodesic(FLAT, torch.zeros(2), torch.ones(2), nodes=n),
            lambda found: n is None or len(found.nodes) == int(n) + 1,
        ),
    ),
    "exp": ((P, P), lambda x, v: (lambda: exp(FLAT, x, v), lambda y: near(y, x + v))),
    "log": ((P, P), lambda a, b: (lambda: log(FLAT, a, b), lambda v: near(v, b.double() - a))),
    "mean": ((P,), lambda x: (lambda: mean(FLAT, x), lambda m: near(m, x.double().mean(-2)))),
    "mixture": (
        (P, N),
        lambda m, s: (lambda: answered(GaussianMixture(m, std=s), m.to(torch.float64)), finite),
    ),
    "denoiser": (
        (P, N),
        # what solvers call reads no values: there the answer of NaN is NaN
        lambda z, s: (
            lambda: answered(LAW, z, s),
            lambda m: finite(m) or not finite(z) or not 1e-75 < float(s) < 1e75,
        ),
    ),
    "spacetime point": (
        (P, N),
        lambda x, k: (lambda: SPACE.point(x, k), lambda y: finite(y) and y.shape[-1] == 3),
    ),
    "edit distance": (
        (P, N),
        lambda x, k: (lambda: edit_distance(LAW, x, x.flip(-1), log_snr=k), finite),
    ),
    "pairwise": (
        (P, N),
        lambda x, k: (
            lambda: pairwise(LAW, x, log_snr=k, nodes=4).matrix,
            lambda m: finite(m) and torch.equal(m, m.mT),
        ),
    ),
    "score metric": ((N, N), lambda k, w: (lambda: lengths(k, w), lambda v: float(v) >= 1.99999)),
    "from callable": (
        (N, N),
        lambda d, v: (
            lambda: answered(
                Denoiser.from_callable(LAW.posterior_mean, dim=d, variance=v), torch.zeros(2)
            ),
            finite,
        ),
    ),
    "potential": (
        (P,),
        lambda x: (lambda: DoubleWell()(x), lambda u: finite(u) and u.shape == x.shape[:-1]),
    ),
    "potential kT": ((N,), lambda k: (lambda: DoubleWell().at(k).kT, lambda kT: kT == float(k))),
    "grid": (
        (N,),
        lambda n: (
            lambda: GridDenoiser(DoubleWell(), points=n),
            lambda found: abs(float(found.weights.sum()) - 1) < 1e-9,
        ),
    ),
    "surface": ((P, N), lambda v, k: (lambda: PeriodicSurface(v, kT=k), lambda s: s.kT > 0)),
    "callable potential": ((N, N), lambda a, b: (lambda: bowl(a, b), lambda p: p.size > 0)),
    "interpolate frames": ((N,), lambda n: _options(InterpolateOptions, "frames", n)),
    "interpolate nodes": ((N,), lambda n: _options(InterpolateOptions, "nodes", n)),
    "path step": ((N,), lambda n: _options(PathOptions, "step", n)),
    "paths": ((N,), lambda n: _options(PathOptions, "paths", n)),
    "train lr": ((N,), lambda n: _options(TrainSettings, "lr", n)),
    "train batch": ((N,), lambda n: _options(TrainSettings, "batch", n)),
    "train sigma": ((N,), lambda n: _options(TrainSettings, "sigma_max", n)),
}


@pytest.mark.parametrize("door", DOORS)
def test_api(
    door: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
):
    full = request.config.getoption("--campaign", "quick") == "full"
    strategies, make = DOORS[door]
    counts: Counter[str] = Counter()

    @settings(
        max_examples=FULL if full else QUICK, database=None, derandomize=True, deadline=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=True,
    )  # fmt: skip
    @given(st.tuples(*strategies))
    def tried(arguments: tuple[Any, ...]) -> None:
        do, right = make(*arguments)
        what = f"{door} of {', '.join(map(repr, arguments))}"
        outcome = judge(what, do, right, family=(ValueError, TypeError))
        counts[outcome] += 1

    try:
        tried()
    except Fault as fault:
        counts[fault.outcome] += 1
        raise
    finally:
        for outcome, count in counts.items():
            record_property("campaign", ("Python API", outcome, count))
