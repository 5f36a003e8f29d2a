"""Numbers, paths and kinds that a function cannot use: one typed sentence that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import diffodesic as dd
from diffodesic.denoisers.noise_level import choose_noise_level
from diffodesic.images.editing import edit_distance
from diffodesic.metrics import DensityMetric, InverseDensity, ScoreSize
from diffodesic.metrics.spacetime.gaussian import Hyperbolic

MIXTURE = dd.GaussianMixture(
    torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]], dtype=torch.float64), std=0.7
)
FLAT = dd.Euclidean(2)
Z = torch.tensor([[1.0, 2.0], [0.0, -1.0], [2.0, 1.0]], dtype=torch.float64)
A, B = Z[0], Z[2]
PATH = torch.lerp(A, B, torch.linspace(0, 1, 5, dtype=A.dtype)[:, None])
WORDS = ("a word", None, [1.0, [2.0]], 1j, torch.zeros(2))

Call = Callable[[Any], object]

WHOLE: dict[str, Call] = {
    "nodes": lambda n: dd.geodesic(FLAT, A, B, nodes=n),
    "refine": lambda n: dd.geodesic(FLAT, A, B, nodes=4, refine=n),
    "points": lambda n: choose_noise_level(MIXTURE, Z, points=n),
    "probes": lambda n: choose_noise_level(MIXTURE, Z, probes=n),
    "rank": lambda n: dd.ScoreMetric(MIXTURE, log_snr=0.0, rank=n),
    "iterations of mean": lambda n: dd.mean(FLAT, Z, nodes=4, iterations=n),
    "iterations of log": lambda n: dd.log(FLAT, A, B, nodes=4, iterations=n),
    "dim of Hyperbolic": lambda n: Hyperbolic(n),
    "dim of Euclidean": lambda n: dd.Euclidean(n),
    "dim of Conformal": lambda n: dd.Conformal(lambda x: x[..., 0], n),
    "dim of Pullback": lambda n: dd.Pullback(lambda x: x, n),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("bad", [0, -3, 2.5, float("nan"), "4", [2]])
def test_whole_numbers(name: str, bad: object):
    with pytest.raises(ValueError, match=rf"{name.split()[0]} must be at least \d, got .*whole"):
        WHOLE[name](bad)


# with the numbers that are none of theirs
REAL: dict[str, tuple[Call, tuple[float, ...]]] = {
    "log_snr": (lambda t: dd.ScoreMetric(MIXTURE, log_snr=t), (float("nan"), 1e9)),
    "weight": (lambda t: dd.ScoreMetric(MIXTURE, log_snr=0.0, weight=t), (float("nan"), -1.0)),
    "eps": (lambda t: dd.ScoreJacobian(MIXTURE, log_snr=0.0, eps=t), (float("inf"), -1.0, 0.0)),
    "weight of ScoreSize": (lambda t: ScoreSize(MIXTURE, log_snr=0.0, weight=t), (-1.0,)),
    "scale": (lambda t: InverseDensity(MIXTURE, log_snr=0.0, scale=t), (float("nan"), -1.0)),
    "variance": (lambda t: Hyperbolic(2, variance=t), (float("nan"), 0.0)),
    "power": (lambda t: DensityMetric(MIXTURE, log_snr=0.0, power=t), (float("nan"), -1.0)),
    "rtol": (lambda t: dd.exp(FLAT, A, B, rtol=t), (float("nan"), 0.0, -1.0, 1e-17)),
    "tol of log": (lambda t: dd.log(FLAT, A, B, nodes=4, tol=t), (float("nan"), 0.0, -1.0, 1e-17)),
    "tol of mean": (lambda t: dd.mean(FLAT, Z, nodes=4, tol=t), (float("nan"), 0.0, -1.0)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_numbers(name: str):
    call, others = REAL[name]
    for bad in WORDS:
        if bad is None and name in ("power", "rtol", "tol of log"):  # their default
            continue
        with pytest.raises(TypeError, match=rf"{name.split()[0]} must be a real number, got "):
            call(bad)
    for value in others:
        with pytest.raises(ValueError, match=rf"^{name.split()[0]} "):
            call(value)


POINTS: dict[str, Call] = {
    "a": lambda x: dd.geodesic(FLAT, x, B, nodes=4),
    "init": lambda x: dd.geodesic(FLAT, A, B, nodes=4, init=x),
    "points": lambda x: dd.mean(FLAT, x, nodes=4),
    "levels": lambda x: choose_noise_level(MIXTURE, Z, levels=x),
    "u": lambda x: FLAT.inner(A, x, B),
    "x": lambda x: dd.exp(FLAT, x, B),
}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("bad", ["a word", [[1.0], [1.0, 2.0]], object(), torch.ones(2) * 1j])
def test_what_is_no_tensor_of_real_numbers(name: str, bad: object):
    with pytest.raises(TypeError, match=rf"^{name} is (no tensor of numbers|complex)") as found:
        POINTS[name](bad)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (A, r"init has shape \(2,\); it must be \(\.\.\., k\+1, 2\)"),
        (PATH[:1], r"init has shape \(1, 2\); it must be"),
        (PATH[:0], "init holds no points"),
        (PATH[:, :1], r"init has shape \(5, 1\); its last axis must be 2"),
        (PATH.expand(3, -1, -1), r"init has shape \(3, 5, 2\); it must be one path"),
        (PATH * torch.nan, "init holds values that are not finite"),
        (PATH.flip(0), "init does not join the ends"),
        (PATH + 1, "init does not join the ends"),
    ],
)
def test_first_paths(init: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        dd.geodesic(FLAT, A, B, nodes=4, init=init)


def test_a_first_path_may_miss_its_ends_by_little():
    near = PATH.clone()
    near[0] += 0.01
    assert torch.equal(dd.geodesic(FLAT, A, B, nodes=4, init=near).nodes[0], A)


@pytest.mark.parametrize("levels", [[], [0.0, float("nan")], [0.0, 400.0]])
def test_levels_outside(levels: list[float]):
    law = dd.Denoiser.from_callable(
        MIXTURE.posterior_mean, dim=2, variance=1.0, log_snr_range=(-9.0, 9.0)
    )
    with pytest.raises(ValueError, match="levels must be finite log SNR between -9 and 9"):
        choose_noise_level(law, Z, levels=torch.tensor(levels))


@pytest.mark.parametrize("metric", [MIXTURE, "flat", None, dd.Euclidean])
def test_what_is_no_metric(metric: Any):
    for verb in (dd.geodesic, dd.distance, dd.exp, dd.log):
        with pytest.raises(TypeError, match="metric must be a Metric, got"):
            verb(metric, A, B)
    with pytest.raises(TypeError, match="metric must be a Metric, got"):
        dd.mean(metric, Z)


def test_what_is_no_solver():
    relaxed: Any = "relax"
    with pytest.raises(TypeError, match="solver must have a method solve"):
        dd.geodesic(FLAT, A, B, nodes=4, solver=relaxed)


def test_points_of_edits_that_are_no_pairs():
    with pytest.raises(ValueError, match=r"x and y have shapes \(3, 2\) and \(2, 2\)"):
        edit_distance(MIXTURE, Z, Z[:2])
    for empty in (Z[:0], Z[:0, None]):
        with pytest.raises(ValueError, match="an edit takes one image"):
            dd.edit(MIXTURE, empty, empty)
    with pytest.raises(ValueError, match="holds no points"):
        edit_distance(MIXTURE, Z[:0], Z[:0])


def test_integers_do_not_round_what_a_metric_adds_to_them():
    """The displacements of a score metric of rank 2 were cut to whole numbers."""
    metric = dd.ScoreMetric(MIXTURE, log_snr=0.7, rank=2)
    for found, expected in (
        (metric.scores(Z.long()), metric.scores(Z)),
        (metric.inner(Z.long(), Z.long(), Z), metric.inner(Z, Z, Z)),
        (metric.norm(Z.long(), Z), metric.norm(Z, Z)),
    ):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_entrances_keep_their_names_and_identity():
    """A metric tells <u, u> from <u, v> by identity, and takes half the derivatives."""
    with dd.counting() as one:
        metric = dd.ScoreJacobian(MIXTURE, log_snr=0.0)
        metric.inner(Z, Z, Z)
    assert one.derivatives == len(Z)
    assert dd.Spacetime.inner.__name__ == "inner"
    assert metric.inner(x=Z, u=Z, v=Z).shape == (3,)
