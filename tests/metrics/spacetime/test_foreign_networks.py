"""Networks of other people's conventions find short paths, not the straight line, or say so.

Every network is made of one exact law, a mixture around 100 digits of 14 x 14 pixels, so that the
true length of what is found is known: the straight line between two noisy digits is 1.7 times as
long as the geodesic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import diffodesic as dd
from diffodesic import Denoiser, GaussianMixture, Spacetime
from diffodesic.denoisers import NetworkOptions
from diffodesic.denoisers.schedules import EDM, FlowMatching, Tabulated
from diffodesic.geometry.boundary_value import search
from diffodesic.geometry.energy import chord

pytestmark = pytest.mark.slow

SHAPE, STD = (1, 14, 14), 0.2
TABLE = Tabulated.ddpm_linear()


def law(low: float = -1.0) -> GaussianMixture:
    """The mixture, of pixels from ``low`` to 1."""
    digits = torch.nn.functional.avg_pool2d(dd.shipped_digits()[0].double(), 2).flatten(1)
    return GaussianMixture(low + (1 - low) * digits, std=STD * (1 - low) / 2)


def two_classes() -> GaussianMixture:
    labels = dd.shipped_digits()[1]
    return GaussianMixture(law().means[(labels == 3) | (labels == 8)], std=STD)


def eps_of_integer_times(data: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    """A DDPM: noise is predicted, and times are rounded to the table."""
    alpha, sigma = (c.to(x)[:, None] for c in TABLE.alpha_sigma(t.round().clamp(0, 999)))
    flat = x.flatten(1)
    return ((flat - alpha * data(flat / alpha, (sigma / alpha)[:, 0])) / sigma).reshape(x.shape)


def velocity(data: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    """A rectified flow of pixels in [0, 1]."""
    z, sigma = x.flatten(1) / (1 - t[:, None]), t / (1 - t)
    mean = data(z, sigma)
    return ((z - mean) / sigma[:, None] - mean).reshape(x.shape)


def skewed(data: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    """A Jacobian that is a fifth asymmetric."""
    mean = data(x.flatten(1), t)
    return (mean + 0.1 * (mean.roll(1, -1) - mean.roll(-1, -1))).reshape(x.shape)


def undertrained(data: GaussianMixture, x: Tensor, t: Tensor) -> Tensor:
    """Half of the way from the best linear denoiser to the right one."""
    z, centre = x.flatten(1), torch.as_tensor(data.mean).to(x)
    linear = centre + data.variance / (data.variance + t[:, None] ** 2) * (z - centre)
    return ((data(z, t) + linear) / 2).reshape(x.shape)


def plain(data: GaussianMixture, x: Tensor, t: Tensor, *, labels: int) -> Tensor:
    """A conditional network, bound to its label."""
    assert labels == 3
    return data(x.flatten(1), t).reshape(x.shape)


Kind = tuple[Callable[[], GaussianMixture], Callable[[GaussianMixture], Denoiser]]
WRAP = partial(dd.from_network, shape=SHAPE, options=NetworkOptions(trial=False))
LEVELS = EDM(0.002, 80.0)
KINDS: dict[str, Kind] = {
    "eps at integer times": (
        law,
        lambda data: WRAP(partial(eps_of_integer_times, data), schedule=TABLE, prediction="eps"),
    ),
    "flow of data in [0, 1]": (
        lambda: law(0.0),
        lambda data: WRAP(partial(velocity, data), schedule=FlowMatching(), prediction="flow"),
    ),
    "asymmetric": (
        law,
        lambda data: WRAP(
            partial(skewed, data), schedule=LEVELS, prediction="x0", variance=data.variance
        ),
    ),
    "undertrained": (
        law,
        lambda data: WRAP(
            partial(undertrained, data), schedule=LEVELS, prediction="x0", variance=data.variance
        ),
    ),
    "conditional": (
        two_classes,
        lambda data: WRAP(
            partial(plain, data, labels=3),
            schedule=LEVELS,
            prediction="x0",
            variance=data.variance,
        ),
    ),
}


@pytest.mark.filterwarnings("ignore:the network does not change smoothly:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:the network's Jacobian:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_a_tenth_shorter_than_the_line_is_found(kind: str, rng: torch.Generator):
    make, wrap = KINDS[kind]
    data = make()
    exact, network = Spacetime(data), Spacetime(wrap(data))
    # the two digits lie 33rd and 83rd in the whole law, in its own units of pixels
    low = float(data.means.min().round())
    digits = law(low).means[[33, 83]]
    level = 2.0 - 2 * math.log((1 - low) / 2)
    noise = torch.randn(2, data.dim, generator=rng, dtype=torch.float64)
    a, b = exact.point(digits + math.exp(-level / 2) * noise, log_snr=level)
    path = search(network, a, b, nodes=32)
    length, line = (
        float(exact.squared_steps(x).sqrt().sum()) for x in (path.nodes, chord(a, b, 32))
    )
    assert float(dd.geodesic(exact, a, b, nodes=16).length) < 0.65 * line
    assert length < 0.8 * line
