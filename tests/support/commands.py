"""Words of the command line that several tests share."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FAST", "OUTPUTS", "TIMED", "TINY", "Run"]

Run = Callable[..., tuple[int, str, str]]
FAST = ("--frames", "3", "--nodes", "4", "--flow-steps", "4")
OUTPUTS = {
    "filmstrip.png",
    "path.gif",
    "path.safetensors",
    "report.html",
    "result.json",
    "run.json",
}
TIMED = {"report.html", "result.json", "run.json"}  # these tell the time that it took
TINY = ("interpolate", "a.png", "b.png", "--model", "tiny", *FAST)
