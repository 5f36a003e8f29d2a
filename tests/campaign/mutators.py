"""Small changes of files: each takes a random generator and what is to be spoilt."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from campaign.oracle import trap

__all__ = ["ODD_VALUES", "spoil_bytes", "spoil_file", "spoil_json", "spoil_lines"]

ODD_VALUES: tuple[Any, ...] = (
    None, True, "", "x", "1", -1, 0, 1e308, -1e308, float("nan"), float("inf"), [], {}, [1, 1e9],
    10**30, [[]], "\0", -1e-320, {"a": 1}, "é" * 50,
)  # fmt: skip
WORDS = ("nan", "inf", "-inf", "1e999", "x", "1,5", "--", "0x10", "1_0", "é", "#", "\0", "")


def spoil_bytes(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Bytes of a file changed in one place; what was done, and the bytes."""
    at = rng.randrange(max(1, len(content)))
    span = 1 + rng.randrange(max(1, min(64, len(content))))
    rest, noise = content[at + span :], rng.randbytes(span)
    bit = bytes([content[at] ^ 1 << rng.randrange(8)]) if content else b"\0"
    changes: dict[str, bytes] = {
        f"bit of byte {at} flipped": content[:at] + bit + content[at + 1 :],
        f"bytes {at} to {at + span} zeroed": content[:at]
        + bytes(len(content[at : at + span]))
        + rest,
        f"bytes {at} to {at + span} drawn": content[:at] + noise[: len(content) - at] + rest,
        f"cut at byte {at}": content[:at],
        f"{span} bytes put in at {at}": content[:at] + noise + content[at:],
        f"{span} bytes taken out at {at}": content[:at] + rest,
        f"{span} bytes appended": content + noise,
        "halves exchanged": content[len(content) // 2 :] + content[: len(content) // 2],
        "empty": b"",
        "all zero": bytes(len(content)),
        "a pickle": trap(),
    }
    what = rng.choice(list(changes))
    return what, changes[what]


def spoil_lines(rng: Random, text: str) -> tuple[str, str]:
    """Lines of a text changed; what was done, and the text."""
    lines = text.split("\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    words = lines[i].split(" ")
    k, word = rng.randrange(len(words)), rng.choice(WORDS)
    column = rng.randrange(len(lines[i]) + 1)
    odd = rng.choice("x-+.eé\0\t9")
    changes: dict[str, list[str]] = {
        f"line {i + 1} left out": lines[:i] + lines[i + 1 :],
        f"line {i + 1} twice": lines[:i] + lines[i : i + 1] + lines[i:],
        f"lines {i + 1} and {j + 1} exchanged": [
            lines[{i: j, j: i}.get(n, n)] for n in range(len(lines))
        ],
        f"line {i + 1}, word {k} is {word!r}": [
            *lines[:i], " ".join([*words[:k], word, *words[k + 1 :]]), *lines[i + 1 :]
        ],
        f"line {i + 1}, column {column} is {odd!r}": [
            *lines[:i], lines[i][:column] + odd + lines[i][column + 1 :], *lines[i + 1 :]
        ],
        f"line {i + 1}, {odd!r} put in at column {column}": [
            *lines[:i], lines[i][:column] + odd + lines[i][column:], *lines[i + 1 :]
        ],
        f"line {i + 1} cut at column {column}": [*lines[:i], lines[i][:column], *lines[i + 1 :]],
        f"cut in line {i + 1}": [*lines[:i], lines[i][:column]],
        "lines in reverse": lines[::-1],
        "tabs for blanks": [line.replace(" ", "\t") for line in lines],
    }  # fmt: skip
    what = rng.choice(list(changes))
    return what, "\n".join(changes[what])


def spoil_json(rng: Random, text: str) -> tuple[str, str]:
    """A JSON document with one value changed, or its text spoilt."""
    document = json.loads(text)
    if rng.random() < 0.15:
        return rng.choice(
            [
                ("nested a thousand deep", "[" * 100_000),
                ("a list", "[1, 2]"),
                ("null", "null"),
                ("no text", "\0" + text),
                ("in UTF-16", text.encode("utf-16").decode("latin-1")),
                ("cut", text[: rng.randrange(len(text))]),
                ("a key that nobody knows", json.dumps({**document, "colour": "blue"})),
            ]
        )
    places = list(_places(document, ()))
    path = rng.choice(places)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    where = "/".join(map(str, path))
    if rng.random() < 0.25:
        del holder[path[-1]]
        return f"{where} left out", json.dumps(document)
    before, holder[path[-1]] = holder[path[-1]], rng.choice(ODD_VALUES)
    return f"{where} is {holder[path[-1]]!r}, was {before!r}", json.dumps(document)


def _places(value: Any, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in items:
        found.append((*path, key))
        if isinstance(inner, dict) or (isinstance(inner, list) and len(inner) < 20):
            found += _places(inner, (*path, key))
    return found


def spoil_file(rng: Random, path: Path) -> str:
    """A file gone, replaced by something else, or with changed bytes; what was done."""
    replaced: dict[str, Callable[[], object]] = {
        "gone": lambda: None,
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a link to itself": lambda: path.symlink_to(path),
        "a link to nothing": lambda: path.symlink_to(path.with_name("nothing")),
        "a device": lambda: path.symlink_to("/dev/zero"),
    }
    if rng.random() < 0.15:
        what = rng.choice(list(replaced))
        path.unlink()
        replaced[what]()
        return f"{path.name} is {what}"
    what, content = spoil_bytes(rng, path.read_bytes())
    path.write_bytes(content)
    return f"{path.name}: {what}"


def copied(source: Path, folder: Path) -> Path:
    """A copy of a folder."""
    return Path(shutil.copytree(source, folder, symlinks=True))
