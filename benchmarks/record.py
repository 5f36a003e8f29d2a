"""Results on disk: one JSON file per problem and solver, one of best known lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffodesic.output.records import write_json

__all__ = ["failure", "path_of", "read", "read_runs", "write"]


def path_of(folder: Path, problem: str, solver: str) -> Path:
    """Where the result of a run lies."""
    return folder / "runs" / f"{problem}.{solver}.json"


def write(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content, indent=None)


def read(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text("utf-8"))


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order of their names."""
    return [read(path) for path in sorted((folder / "runs").glob("*.json"))]


def failure(problem: str, solver: str, message: str) -> dict[str, Any]:
    """The result of a run that did not end by itself."""
    return {"problem": problem, "solver": solver, "status": ["ERROR"], "message": message}
