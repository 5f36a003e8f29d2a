"""Potentials: tables with changed lines, functions of one's own that fail, states that are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from campaign.mutators import ODD_VALUES, spoil_bytes, spoil_lines
from campaign.oracle import judge, judge_command
from diffodesic.transitions.own_potentials import from_callable
from diffodesic.transitions.states import checked_states
from diffodesic.transitions.surfaces import PeriodicSurface, read_grid

TURN = 2 * math.pi
HEADS = (
    "",
    "# phi psi energy\n",
    "#! FIELDS phi psi ff der_phi der_psi\n#! SET periodic_phi true\n#! SET periodic_psi true\n",
)


def case(index: int, rng: Random, folder: Path) -> str:
    """A table in three of four cases, else a function or states."""
    return (_table, _table, _function, _table, _states)[index % 5](rng, folder)


def _surface(x: np.ndarray) -> np.ndarray:
    return np.sin(x[:, 0]) + 2 * np.cos(x[:, 1] - x[:, 0])


def _table(rng: Random, folder: Path) -> str:
    """Energies on a grid; a table that numpy reads otherwise than we do is a wrong result."""
    n, head = rng.choice((6, 9)), rng.choice(HEADS)
    axis, degrees = np.arange(n) * TURN / n - math.pi, rng.random() < 0.3
    phi, psi = np.meshgrid(axis, axis)
    points = np.stack([phi.ravel(), psi.ravel()], -1)
    columns = [np.degrees(points) if degrees else points, _surface(points)[:, None]]
    if "der" in head:
        columns.append(np.zeros((n * n, 2)))
    rows = np.concatenate(columns, 1)
    text = head + "\n".join(" ".join(f"{v:.6f}" for v in row) for row in rows) + "\n"
    file = folder / "table.dat"
    if rng.random() < 0.25:
        what, content = spoil_bytes(rng, text.encode())
    else:
        what, changed = spoil_lines(rng, text)
        content = changed.encode("utf-8")
    file.write_bytes(content)

    def right(found: PeriodicSurface) -> bool:
        plain = [line.split("#")[0].split() for line in content.decode("latin-1").split("\n")]
        kept = np.array([[float(word) for word in words] for words in plain if words])
        x = torch.from_numpy(np.radians(kept[:, :2]) if degrees else kept[:, :2].copy())
        energies = kept[:, 2]
        count = found.values.numel()
        places = np.round((x.numpy() + math.pi) / (TURN / n)).astype(int) % n
        distinct = len({tuple(place) for place in places.tolist()})
        # the surface goes through every number of the file, and the file has one for each node
        within = 0.05 + 1e-5 * np.abs(energies).max()  # angles have six decimals
        return count == distinct and np.allclose(found(x).numpy(), energies, atol=within)

    return judge(f"a table, {what}", lambda: read_grid(file, kT=1.0), right, names=file.name)


def _raises(x: Tensor) -> Tensor:
    raise ZeroDivisionError("a fault in the\nfunction of a user")


def _leaves(x: Tensor) -> Tensor:
    raise SystemExit(0)


def _fails_late(x: Tensor) -> Tensor:
    return torch.where(x[..., 0] > 1.9, torch.nan, x.square().sum(-1))


FUNCTIONS: dict[str, Callable[[Tensor], object]] = {
    "a bowl": lambda x: x.square().sum(-1),
    "NaN": lambda x: 0 * x[..., 0] / 0,
    "NaN in a corner": _fails_late,
    "per coordinate": lambda x: x,
    "a number": lambda x: 1.0,
    "None": lambda x: None,
    "numpy": lambda x: x.detach().numpy().sum(-1),
    "integers": lambda x: x.square().sum(-1).long(),
    "complex": lambda x: torch.complex(x[..., 0], x[..., 1]),
    "single precision": lambda x: x.float().square().sum(-1),
    "of the first point": lambda x: x.reshape(-1, 2)[0].square().sum(),
    "without a graph": lambda x: x.detach().square().sum(-1),
    "infinite everywhere": lambda x: torch.full_like(x[..., 0], torch.inf),
    "raising": _raises,
    "leaving": _leaves,
    "of other points": lambda x: x.square().sum(-1) - x.square().mean(),
    "of the second axis": lambda x: x[:, 0].square() + x[:, 1].square(),
    "drawn": lambda x: x.square().sum(-1) + torch.rand_like(x[..., 0]),
    "moving its points": lambda x: x.mul_(1.0).add_(0.1).square().sum(-1),
    "minus infinity": lambda x: torch.full_like(x[..., 0], -torch.inf),
}


def _function(rng: Random, folder: Path) -> str:
    """A function as a potential, with odd numbers beside it."""
    name = rng.choice(list(FUNCTIONS))
    words: dict[str, object] = {"dim": 2, "kT": 1.0, "box": ((-2.0, 2.0),) * 2, "unit": "kT"}
    if rng.random() < 0.6:
        odd = rng.choice(
            [("kT", rng.choice(ODD_VALUES)), ("box", ((0.0, 0.0),) * 2),
             ("box", ((0.0, math.inf),) * 2), ("box", ((-2.0, 2.0),)), ("period", (4.0, None)),
             ("period", (3.0, None)), ("period", (math.nan, None)), ("period", (0.0, 0.0)),
             ("dim", 0), ("dim", -1), ("dim", 3)]
        )  # fmt: skip
        words |= dict([odd])
    x = torch.tensor([[0.5, -0.5], [1.0, 0.25]], dtype=torch.float64)

    def use() -> Tensor:
        potential = from_callable(FUNCTIONS[name], **words)  # type: ignore[arg-type]
        return torch.cat([potential(x), potential.gradient(x)[1].flatten()])

    def right(found: Tensor) -> bool:
        truth = torch.cat([x.square().sum(-1), 2 * x.flatten()])
        return torch.allclose(found, truth, atol=1e-6)

    kept = {key: value for key, value in words.items() if key != "unit"}
    return judge(f"the function {name!r} with {kept}", use, right, family=(ValueError, TypeError))


def _states(rng: Random, folder: Path) -> str:
    """Two states of a ring of wells, anywhere."""
    odd = (0.0, 2.1, -2.1, 0.3, 40.0, -170.0, 1e300, math.nan, math.inf, 6.3)
    given = [[rng.choice(odd), rng.choice(odd[:4])] for _ in range(2)]
    descend = bool(rng.randrange(2))
    if rng.randrange(8) == 0:
        words = (",".join(map(str, state)) for state in given)
        ends = [f"--{key}={word}" for key, word in zip(("from", "to"), words, strict=True)]
        small = ("--paths", 30, "--nodes", 4, "--langevin-steps", 2)
        run = ("paths", "--potential", "alanine", *ends, *small)
        done = Path("out/report.html")
        return judge_command(f"states {given}", *run, right=done.is_file, names="state")
    side = (-math.pi, math.pi)
    wells = from_callable(
        lambda x: (1 - torch.cos(3 * x)).sum(-1), dim=2, kT=1.0, box=(side, side), unit="kT",
        period=(TURN, TURN),
    )  # fmt: skip
    states = torch.tensor(given, dtype=torch.float64)

    def right(found: tuple[Tensor, tuple[str, ...]]) -> bool:
        near = wells.difference(found[0], states).norm(dim=-1)
        low = float(wells(found[0]).max()) < (1e-3 if descend else 1.0)
        return low and float(near.max()) < math.radians(30.0) and float(states.abs().max()) < 13

    return judge(
        f"states {given}, relaxed: {descend}",
        lambda: checked_states(wells, states, descend=descend),
        right,
        names="state",
    )
