"""Every public function that takes points, given bad ones: a typed sentence or the right answer.

The table names the functions; each test runs one kind of badness over all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from diffodesic.denoisers.denoiser import Denoiser
from diffodesic.denoisers.flow import drop, lift, sample_posterior, trajectory
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.denoisers.noise_level import choose_noise_level
from diffodesic.denoisers.selfcheck import self_check
from diffodesic.geometry.boundary_value import distance, geodesic
from diffodesic.geometry.constraints import constrained_geodesic
from diffodesic.geometry.exponential import exp, log, transport
from diffodesic.geometry.frechet import mean
from diffodesic.geometry.graph_start import graph_path
from diffodesic.metrics.density import DensityMetric
from diffodesic.metrics.elementary import Euclidean
from diffodesic.metrics.one_level import weight_unit
from diffodesic.metrics.score import ScoreMetric
from diffodesic.metrics.spacetime.consistency import path_diagnostics
from diffodesic.metrics.spacetime.constraints import AvoidRegion, MinLogSNR
from diffodesic.metrics.spacetime.dimension import flipd, normal_bundle
from diffodesic.metrics.spacetime.metric import Spacetime
from diffodesic.metrics.spacetime.mismatched_estimation import (
    mismatch_length,
    mismatch_steps,
    relative_entropy,
)
from diffodesic.metrics.spacetime.posterior_divergences import (
    divergences,
    jeffreys,
    kl,
    kl_along,
    log_density,
    log_partition,
    sandwich,
)
from diffodesic.metrics.spacetime.straight_lines import e_geodesic, m_geodesic
from diffodesic.transitions.minimum_energy import lowest_pass, string
from diffodesic.transitions.potentials import DoubleWell
from diffodesic.transitions.simulation import committor
from diffodesic.transitions.states import Basin
from diffodesic.transitions.stationary import relax, relax_to_saddle

MIXTURE = GaussianMixture(
    torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64), std=0.7
)
# the same distribution, known by its evaluations, as a network is
NETWORK = Denoiser.from_callable(
    MIXTURE.posterior_mean, dim=2, variance=MIXTURE.variance, log_snr_range=(-9.0, 9.0)
)
LOG_SNR = 0.7
SPACE, FLAT, WELL = Spacetime(MIXTURE), Euclidean(2), DoubleWell()
SCORE, DENSITY = ScoreMetric(MIXTURE, log_snr=LOG_SNR), DensityMetric(MIXTURE, log_snr=LOG_SNR)
STEP = torch.tensor([[1.0], [2.0]])

# whole numbers, so that the tensors of integers are the same points
Z = torch.tensor([[1.0, 2.0], [0.0, -1.0], [2.0, 1.0]], dtype=torch.float64)
X = torch.tensor([[1.0, 2.0, 1.0], [0.0, -1.0, 0.0], [-2.0, 1.0, 2.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Door:
    """A public function of one of its arguments.

    Attributes:
        name: of the function, and of the argument in its messages.
        call: the function of that argument.
        good: points that it takes.
        finite: what it makes of points that are not: a sentence, or NaN in their rows alone, for
            what solvers call.
        empty: what it makes of none: a sentence, or as many answers.
        graph: whether derivatives pass through it.
        kind: ``own`` where the answer has the dtype of the points, ``none`` where it has no dtype.
        rtol: relative error of float32.
    """

    name: str
    call: Callable[[Tensor], object]
    good: Tensor
    finite: Literal["sentence", "row"] = "sentence"
    empty: Literal["sentence", "empty"] = "sentence"
    graph: bool = False
    kind: Literal["own", "none"] = "own"
    rtol: float = 1e-4

    @property
    def argument(self) -> str:
        """The argument's name in messages."""
        return self.name.split()[1]


def like(x: Tensor, other: Tensor) -> Tensor:
    """The other argument, in the dtype in which the points are computed with."""
    return other if x.dtype in (torch.float64, torch.complex128) else other.float()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _wells(x: Tensor) -> tuple[Basin, Basin]:
    centre = like(x, torch.tensor([1.0, 0.0], dtype=torch.float64))
    return Basin(-centre, 0.4), Basin(centre, 0.4)


ENDS = torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
SIGMA = torch.tensor(0.5, dtype=torch.float64)

DOORS = [
    # denoisers: one answer per point
    Door("call z", lambda z: MIXTURE(z, SIGMA), Z, "row", "empty", True),
    Door("network z", lambda z: NETWORK(z, SIGMA), Z, "row", "empty", True),
    Door("moments z", lambda z: MIXTURE.moments(z, SIGMA), Z, "row", "empty", True),
    Door("moments-by-divergence z", lambda z: NETWORK.moments(z, SIGMA), Z, "row", "empty", True),
    Door("jvp z", lambda z: NETWORK.jvp(z, SIGMA, like(z, Z)), Z, "row", "empty", True),
    Door("difference z", lambda z: NETWORK.difference(z, SIGMA, like(z, Z)), Z, "row", "empty"),
    Door(
        "second_difference z",
        lambda z: NETWORK.second_difference(z, SIGMA, like(z, Z), like(z, Z)),
        Z,
        "row",
        "empty",
        rtol=0.2,
    ),
    Door("covariance z", lambda z: MIXTURE.covariance(z, SIGMA, like(z, Z)), Z, "row", "empty"),
    Door(
        "statistic_covariance z",
        lambda z: NETWORK.statistic_covariance(z, SIGMA, like(z, Z), like(z, Z[:, 0])),
        Z,
        "row",
        "empty",
    ),
    Door(
        "mixture-log_partition h",
        lambda h: MIXTURE.log_partition(h, 1 / SIGMA**2),
        Z,
        "row",
        "empty",
    ),
    Door("score z", lambda z: MIXTURE.score(z, SIGMA), Z, "sentence", "empty", True),
    Door("log_density z", lambda z: MIXTURE.log_density(z, SIGMA), Z, "sentence", "empty", True),
    Door("lift x", lambda x: lift(MIXTURE, x, LOG_SNR, steps=4), Z, "sentence", "empty", True),
    Door("drop z", lambda z: drop(MIXTURE, z, LOG_SNR, steps=4), Z, "sentence", "empty", True),
    Door(
        "trajectory z", lambda z: trajectory(MIXTURE, z, LOG_SNR, steps=4), Z, "sentence", "empty"
    ),
    Door(
        "sample_posterior z",
        lambda z: sample_posterior(MIXTURE, z, LOG_SNR, steps=4),
        Z,
        "sentence",
        "empty",
        kind="none",  # the noise of another dtype is other noise
    ),
    Door(
        "self_check x",
        lambda x: torch.tensor(self_check(NETWORK, x).asymmetry),
        X,
        kind="none",
    ),
    # metrics
    Door("metric-score x", lambda x: SCORE.score(x), Z, "row", "empty", True),
    Door("inner x", lambda x: SCORE.inner(x, like(x, Z), like(x, Z)), Z, "row", "empty", True),
    Door("inner u", lambda u: SPACE.inner(like(u, X), u, like(u, X)), X, "row", "empty", True),
    Door("norm u", lambda u: FLAT.norm(like(u, Z), u), Z, "row", "empty", True),
    Door("squared_steps x", lambda x: DENSITY.squared_steps(x[:, None] * STEP), Z, "row", "empty"),
    Door("sharp p", lambda p: SCORE.sharp(like(p, Z), p), Z, "row", "empty", True),
    Door("flat u", lambda u: FLAT.flat(like(u, Z), u), Z, "row", "empty"),
    Door("point z", lambda z: SPACE.point(z, LOG_SNR), Z, "sentence", "empty", True),
    Door("log_partition x", lambda x: log_partition(SPACE, x), X, graph=True),
    Door(
        "log_partition-by-quadrature x",
        lambda x: log_partition(Spacetime(NETWORK, estimator="exact"), x, rtol=1e-4),
        X,
    ),
    Door("log_density x", lambda x: log_density(SPACE, x), X, graph=True),
    Door("flipd x", lambda x: flipd(SPACE, x), X, graph=True),
    Door("jeffreys a", lambda a: jeffreys(SPACE, a, like(a, X[:1])), X, graph=True, rtol=1e-3),
    Door("jeffreys b", lambda b: jeffreys(SPACE, like(b, X[:1]), b), X, graph=True, rtol=1e-3),
    Door("kl a", lambda a: kl(SPACE, a, like(a, X[1:2]), rtol=1e-4), X, graph=True, rtol=1e-3),
    Door("kl b", lambda b: kl(SPACE, like(b, X[1:2]), b, rtol=1e-4), X, graph=True, rtol=1e-3),
    Door(
        "divergences a",
        lambda a: divergences(SPACE, a, like(a, X[1:2]), rtol=1e-4).bhattacharyya,
        X,
        rtol=1e-3,
    ),
    Door("sandwich a", lambda a: sandwich(SPACE, a, like(a, X[1:2] + 1)), X, rtol=1e-3),
    Door("kl_along point", lambda p: kl_along(SPACE, p, like(p, X)), X[0], rtol=1e-3),
    Door("kl_along path", lambda x: kl_along(SPACE, like(x, X[0]), x), X, rtol=1e-3),
    Door(
        "relative_entropy a",
        lambda a: relative_entropy(MIXTURE, a, like(a, X[:1]), levels=8, samples=1),
        X,
        rtol=1e-3,
    ),
    Door(
        "relative_entropy b",
        lambda b: relative_entropy(MIXTURE, like(b, X[:1]), b, levels=8, samples=1),
        X,
        rtol=1e-3,
    ),
    Door("mismatch_steps x", lambda x: mismatch_steps(MIXTURE, x, levels=8, samples=1), X),
    Door(
        "mismatch_length x",
        lambda x: torch.tensor(mismatch_length(MIXTURE, x, levels=8, samples=2)),
        X,
        kind="none",
    ),
    Door(
        "path_diagnostics nodes",
        lambda x: path_diagnostics(NETWORK, x).raw_steps,
        X,
        rtol=1e-3,
    ),
    Door(
        "normal_bundle x",
        lambda x: normal_bundle(MIXTURE, x, 4.0, scores=8, generator=seeded()).values,
        Z[0],
        rtol=1e-3,
    ),
    Door("e_geodesic a", lambda a: e_geodesic(SPACE, a, like(a, X[:1]), 0.5), X, graph=True),
    Door("e_geodesic b", lambda b: e_geodesic(SPACE, like(b, X[:1]), b, 0.5), X, graph=True),
    Door("m_geodesic a", lambda a: m_geodesic(SPACE, a, like(a, X + 0.2), 0.5), X),
    Door(
        "AvoidRegion point",
        lambda p: AvoidRegion(SPACE, p, 0.1).kl(like(p, X)),
        X[0],
        rtol=1e-3,
    ),
    Door(
        "weight_unit points",
        lambda x: torch.tensor(weight_unit(NETWORK, x, LOG_SNR)),
        Z,
        kind="none",
    ),
    Door(
        "choose_noise_level data",
        lambda x: torch.tensor(choose_noise_level(MIXTURE, x, points=3).log_snr),
        Z,
        kind="none",
    ),
    # geometry
    Door("distance a", lambda a: distance(FLAT, a, like(a, Z[:1] + 1), nodes=4), Z),
    Door("distance b", lambda b: distance(SPACE, like(b, X[:1] + 1), b, nodes=8), X, rtol=1e-2),
    Door("geodesic a", lambda a: geodesic(FLAT, a, like(a, Z[0] + 1), nodes=4).nodes, Z),
    Door(
        "geodesic init",
        lambda x: geodesic(FLAT, like(x, Z[0]), like(x, Z[2]), nodes=4, init=x).nodes,
        Z,
    ),
    Door("exp x", lambda x: exp(FLAT, x, like(x, Z)), Z),
    Door("exp v", lambda v: exp(FLAT, like(v, Z), v), Z),
    Door("log x", lambda x: log(FLAT, x, like(x, Z + 1), nodes=4, tol=1e-4), Z),
    Door("log y", lambda y: log(FLAT, like(y, Z - 1), y, nodes=4, tol=1e-4), Z),
    Door("mean points", lambda x: mean(FLAT, x, nodes=4, tol=1e-3), Z, rtol=1e-3),
    Door(
        "transport v",
        lambda v: transport(geodesic(FLAT, like(v, Z), like(v, Z + 1), nodes=4), v),
        Z,
    ),
    Door(
        "constrained_geodesic a",
        lambda a: constrained_geodesic(SPACE, a, like(a, X[1]), [MinLogSNR(-5.0)], nodes=8).length,
        X[0],
        rtol=1e-2,
    ),
    Door("graph_path data", lambda x: graph_path(FLAT, x, like(x, Z[0]), like(x, Z[1])), Z + 1),
    Door("graph_path a", lambda a: graph_path(FLAT, like(a, Z + 1), a, like(a, Z[1])), Z[0]),
    # transitions
    Door("potential x", lambda x: WELL(x), Z, "sentence", "empty", True),
    Door("gradient x", lambda x: WELL.gradient(x), Z, "sentence", "empty"),
    Door("force x", lambda x: WELL.force(x), Z, "sentence", "empty"),
    Door("hessian x", lambda x: WELL.hessian(x), Z, "sentence", "empty", rtol=0.2),
    Door("wrap x", lambda x: WELL.wrap(x), Z, "row", "empty", True),
    Door("relax x", lambda x: relax(WELL, x, rtol=1e-3), ENDS[[0, 2]], rtol=1e-3),
    Door("relax_to_saddle x", lambda x: relax_to_saddle(WELL, x)[0], ENDS[:1] * 0, rtol=1e-3),
    Door("string start", lambda x: string(WELL, x, images=5, iterations=3).nodes, ENDS, rtol=1e-2),
    Door("lowest_pass a", lambda a: lowest_pass(WELL, a, like(a, ENDS[2]), nodes=9).path, ENDS[0]),
    Door("lowest_pass b", lambda b: lowest_pass(WELL, like(b, ENDS[0]), b, nodes=9).path, ENDS[2]),
    Door(
        "committor x",
        lambda x: committor(WELL, x, *_wells(x), step=1e-3, shots=1, steps=3)[1],
        ENDS[[0, 2]],
        kind="none",
    ),
]
CASES = pytest.mark.parametrize("door", DOORS, ids=[door.name.replace(" ", "-") for door in DOORS])
pytestmark = pytest.mark.filterwarnings("ignore::diffodesic.geometry.status.SearchWarning")


def values(answer: object) -> list[Tensor]:
    """The tensors of an answer."""
    found = answer if isinstance(answer, tuple) else (answer,)
    assert all(isinstance(value, Tensor) for value in found)
    return [value for value in found if isinstance(value, Tensor)]


def total(tensors: list[Tensor]) -> Tensor:
    return torch.stack([value.sum() for value in tensors]).sum()


@CASES
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_points_that_are_not_finite(door: Door, bad: float):
    x = door.good.clone()
    x[(-1,) * x.ndim] = bad
    if door.finite == "sentence":
        with pytest.raises(
            ValueError, match=rf"\b{door.argument} holds values that are not finite"
        ):
            door.call(x)
        return
    for found, expected in zip(values(door.call(x)), values(door.call(door.good)), strict=True):
        torch.testing.assert_close(found[:-1], expected[:-1])
        if door.name != "wrap x":
            assert not found[-1].isfinite().all()


@CASES
def test_integers_are_converted(door: Door):
    found, expected = door.call(door.good.long()), door.call(door.good.float())
    for value, other in zip(values(found), values(expected), strict=True):
        torch.testing.assert_close(value, other, rtol=door.rtol, atol=door.rtol)


@CASES
def test_complex_numbers_are_refused(door: Door):
    with pytest.raises(TypeError, match="complex"):
        door.call(door.good.to(torch.complex128))


@CASES
def test_another_dimension_is_refused(door: Door):
    if door.name == "wrap x":  # takes what broadcasts
        return
    # a metric passes its points on to the denoiser, which calls them z
    name = r"\w+" if door.finite == "row" else door.argument
    with pytest.raises(ValueError, match=rf"\b{name} has shape .* last axis must be"):
        door.call(door.good[..., :-1])


@CASES
def test_no_points(door: Door):
    empty = door.good[:0] if door.good.ndim > 1 else door.good.expand(0, -1)
    if door.empty == "sentence":
        with pytest.raises(ValueError, match=rf"\b{door.argument} holds no points"):
            door.call(empty)
    elif "like" not in door.call.__code__.co_names:  # a second argument of three points
        assert all(value.numel() == 0 for value in values(door.call(empty)))


@CASES
def test_single_precision(door: Door):
    found, expected = door.call(door.good.float()), door.call(door.good)
    for value, other in zip(values(found), values(expected), strict=True):
        assert value.isfinite().all()
        if door.kind == "own":
            assert value.dtype == torch.float32 or not value.is_floating_point()
            torch.testing.assert_close(value, other.to(value), rtol=door.rtol, atol=door.rtol)


@CASES
def test_points_that_require_gradients(door: Door):
    leaf = door.good.clone().requires_grad_()
    found = values(door.call(leaf))
    for value, other in zip(found, values(door.call(door.good)), strict=True):
        torch.testing.assert_close(value.detach(), other, rtol=1e-6, atol=1e-6)
    if not door.graph:
        return
    direction = torch.linspace(-1, 1, leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape)
    (slope,) = torch.autograd.grad(total(found), leaf)
    ahead, behind = (
        total(values(door.call(door.good + sign * 1e-5 * direction))) for sign in (1, -1)
    )
    expected = (ahead - behind) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-4, atol=1e-4)


VERBS_WITHOUT_A_GRAPH = [
    "relax x",
    "relax_to_saddle x",
    "string start",
    "lowest_pass a",
    "graph_path data",
    "m_geodesic a",
    "normal_bundle x",
    "path_diagnostics nodes",
    "distance a",
    "mean points",
    "gradient x",
]


@pytest.mark.parametrize("name", VERBS_WITHOUT_A_GRAPH)
def test_what_does_not_differentiate_carries_no_graph(name: str):
    door = next(door for door in DOORS if door.name == name)
    assert not any(value.requires_grad for value in values(door.call(door.good.requires_grad_())))
    door.good.requires_grad_(False)


def test_a_level_is_not_truncated_by_integers():
    assert SPACE.point(torch.tensor([1, 2]), 0.7)[-1] == torch.tensor(0.7)


def test_levels_that_do_not_fit_the_points():
    with pytest.raises(ValueError, match="one number per point"):
        SPACE.point(Z, torch.zeros(2))
    with pytest.raises(ValueError, match="one number per point"):
        lift(MIXTURE, Z, torch.zeros(2))
    with pytest.raises(TypeError, match="log_snr is complex"):
        SPACE.point(Z, torch.zeros((), dtype=torch.complex64))


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"a and b have shapes \(2, 3\) and \(3, 3\)"):
        jeffreys(SPACE, X[:2], X)


def test_a_mixture_in_single_precision_serves_points_in_double():
    single = GaussianMixture(MIXTURE.means.float(), std=0.5)
    double = GaussianMixture(MIXTURE.means, std=0.5)
    torch.testing.assert_close(single(Z, SIGMA), double(Z, SIGMA))
