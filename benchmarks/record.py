"""Results on disk: one JSON file per problem and solver, one of best known lengths; as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffodesic.output.records import write_json
from diffodesic.output.tables import markdown

__all__ = ["RESULTS", "Record", "failure", "path_of", "read", "read_runs", "table_of", "write"]

RESULTS = Path(__file__).parent / "results"
Record = dict[str, Any]


def path_of(folder: Path, problem: str, solver: str) -> Path:
    """Where the result of a run lies."""
    return folder / "runs" / f"{problem}.{solver}.json"


def write(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON, whole or not at all; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content, indent=indent)


def read(path: Path) -> Any:
    """Read JSON; nothing, {}, where there is no file yet."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def read_runs(folder: Path) -> list[Record]:
    """All results in a folder, in the order of their names."""
    return [read(path) for path in sorted((folder / "runs").glob("*.json"))]


def failure(problem: str, solver: str, message: str) -> Record:
    """The result of a run that did not end by itself."""
    return {"problem": problem, "solver": solver, "status": ["ERROR"], "message": message}


def table_of(records: list[Record], form: str = "") -> str:
    """Records in Markdown, floats in a form such as ``.4g``; what a record lacks stays empty."""
    if not records:
        return "Nothing has been run yet."
    columns = list(dict.fromkeys(key for record in records for key in record))
    lines = ([_cell(record.get(column, ""), form) for column in columns] for record in records)
    return markdown(columns, lines)


def _cell(value: Any, form: str) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(item, form) for item in value)
    return format(value, form) if isinstance(value, float) else str(value)
