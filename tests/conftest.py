"""Fixtures of every test: a seed of its own, random numbers in float64, the folder of real data."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from support.checks import Draw

# Examples are the same in every run: a failure is a change of the code, never of the draw.
settings.register_profile("held", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("held")

# The problems are small and the cores are shared: more threads only wait for each other.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign", choices=("quick", "full"), default="quick", help="how many cases are tried"
    )
    parser.addoption(
        "--outcomes", type=Path, help="JSON of outcomes, by long test; those that ran are put in"
    )


def pytest_configure(config: pytest.Config) -> None:
    # forward mode compiles some of torch's own formulas when it is first used
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script`:DeprecationWarning")


@pytest.fixture(autouse=True)
def rng(request: pytest.FixtureRequest) -> Iterator[torch.Generator]:
    """A generator seeded by the test's own name, and torch's global one forked the same way."""
    seed = zlib.crc32(request.node.name.encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@pytest.fixture
def draw(rng: torch.Generator) -> Draw:
    """Standard normal float64 tensors: ``draw(3, 4)``."""
    return lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.fixture
def uniform(rng: torch.Generator) -> Draw:
    """Uniform float64 tensors: ``uniform(low, high, 3, 4)``."""

    def sample(low: float, high: float, *shape: int) -> Tensor:
        part = torch.rand(*shape, generator=rng, dtype=torch.float64)
        return low + (high - low) * part

    return sample


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; tests that need it are skipped where there is none."""
    path = os.environ.get("DIFFODESIC_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("DIFFODESIC_DATA does not name the folder of real data")
    return Path(path)
