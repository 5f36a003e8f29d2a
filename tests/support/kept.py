"""Outcomes of long tests, kept as JSON: one line per part, so that parts can be run one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["put_in"]


def put_in(file: Path, parts: Mapping[str, Mapping[str, int]]) -> None:
    """Put counts of the parts that ran into a file; those of other parts stay."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known.update(parts)
    lines = [f"  {json.dumps(part)}: {json.dumps(known[part])}" for part in sorted(known)]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
