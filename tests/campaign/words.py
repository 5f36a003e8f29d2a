"""Words of the command line: odd values of every option of every command."""

from __future__ import annotations

import argparse
import json
import math
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

from campaign.oracle import judge_command
from diffodesic.cli.main import _parser
from diffodesic.output.images import to_uint8
from support.tiny import pictures, tiny_model

VALUES = (
    "", "x", "nan", "inf", "-inf", "-1", "0", "1", "1e999", "1e-999", "1.5", "99999999999999999999",
    "1,2", ",", "None", "é", "\udcff", "-", "/", "/dev/null", ".", "a.png", "a" * 300, "1e3",
    "0x10", "true", "٣", "a\nb", "{}", "$(touch sung)", "--",
)  # fmt: skip
SMALL = {
    "interpolate": ("a.png", "b.png", "--model=tiny", "--frames=3", "--nodes=4", "--flow-steps=2",
                    "--metric=euclidean"),
    "extrapolate": ("a.png", "b.png", "--model=tiny", "--flow-steps=2"),
    "distance": ("a.png", "b.png", "--model=tiny", "--nodes=4", "--flow-steps=2"),
    "diagnose": ("a.png", "--model=tiny", "--log-snr=2"),
    "paths": ("--potential=double-well", "--from=-1,0", "--to=1,0", "--paths=30", "--nodes=4",
              "--langevin-steps=2"),
    "train": ("pictures", "--outdir=trained", "--steps=2", "--batch=2", "--channels=4,8",
              "--blocks=1,1", "--heads=1"),
    "models": (),
}  # fmt: skip
SLOW = ("reproduce", "distances")  # hours by their nature
FREE = {"--device", "--compile", "--help", "--version", "--allow-pickle", "--allow-download"}


@cache
def _options() -> tuple[tuple[str, argparse.Action], ...]:
    """Every option of every command."""
    (commands,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return tuple(
        (command, action)
        for command, parser in sorted(commands.choices.items())
        if command in SMALL
        for action in parser._actions
        if not FREE & set(action.option_strings)
    )


def case(index: int, rng: Random, folder: Path) -> str:
    """One option, or one word, with a value that it was not made for."""
    _place(folder)
    options = _options()
    command, action = options[(index * 7 + index // len(options)) % len(options)]
    value = rng.choice(VALUES)
    words = [command, *SMALL[command]]
    if not action.option_strings:
        words.insert(1 + rng.randrange(2), value)
    elif action.nargs == 0:
        words += [action.option_strings[-1], value]
    else:
        words = [word for word in words if not word.startswith(f"{action.option_strings[-1]}=")]
        words.append(f"{action.option_strings[-1]}={value}")
    before = {file.name for file in folder.iterdir()}

    def right() -> bool:
        """No number of the result is missing, and no file is half written."""
        results = [*folder.rglob("result.json"), *folder.rglob("edit.json")]
        for file in results:
            found = json.loads(file.read_text(encoding="utf-8"))
            length = found.get("length", 0.0)
            if not (isinstance(length, (int, float)) and math.isfinite(length)):
                return False
        left = {file.name for file in folder.iterdir()} - before
        return "sung" not in left and not [name for name in left if ".partial" in name]

    return judge_command(" ".join(map(repr, words)), *words, right=right)


def _place(folder: Path) -> None:
    """Two pictures, a model, and a folder of pictures."""
    (folder / "pictures").mkdir()
    for name, image in zip(
        ("a", "b", "pictures/c", "pictures/d"), to_uint8(pictures(4)), strict=True
    ):
        Image.fromarray(image).save(folder / f"{name}.png")
    tiny_model().save(folder / "tiny")
