"""The tables of docs/pretrained-models.md: every scheduler and pipeline of diffusers, by name.

    python -m tools.pipeline_table     writes them again, between the marks in the page

They say what the adapter says; the tests hold that it agrees with what is called supported
(``tests/models/adapters/test_diffusers_schedulers.py`` and ``test_diffusers_pipelines.py``).
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from pathlib import Path

import diffusers
from diffusers import schedulers

from diffodesic.models.adapters.diffusers_pipelines import SUPPORTED, refused_pipeline
from diffodesic.models.adapters.diffusers_scheduler import refused_scheduler

PAGE = Path(__file__).parents[1] / "docs" / "pretrained-models.md"
BEGIN, END = "<!-- written by tools/pipeline_table.py -->\n", "<!-- end -->\n"


def scheduler_names() -> list[str]:
    """Names of the schedulers that diffusers exports."""
    return [
        name
        for name in sorted(dir(schedulers))
        if name.endswith("Scheduler") and inspect.isclass(getattr(schedulers, name))
    ]


def pipeline_names() -> list[str]:
    """Names of the pipelines that diffusers exports."""
    return sorted(name for name in dir(diffusers) if name.endswith("Pipeline"))


def tables() -> str:
    """Both tables, in Markdown."""
    lines = [
        f"Of diffusers {diffusers.__version__}:",
        "",
        "| scheduler | |",
        "|---|---|",
    ]
    answers = {name: refused_scheduler(name) for name in scheduler_names()}
    lines += [
        f"| `{name}` | {'supported' if why is None else f'refused: {why}'} |"
        for name, why in answers.items()
    ]
    lines += ["", "| pipeline | network | condition | decoding reads |", "|---|---|---|---|"]
    for name, kind in SUPPORTED.items():
        read = ", ".join(f"`{field}`" for field in sorted({"scaling_factor"} | kind.shifts))
        space = read if kind.latent else f"pixels in [{kind.low:g}, 1]"
        network = ", ".join(f"`{network}`" for network in kind.networks)
        word = "`label`" if "label" in kind.words else "`prompt`"
        lines.append(f"| `{name}` | {network} | {word} | {space} |")
    causes = defaultdict(list)
    for name in pipeline_names():
        if (why := refused_pipeline(name)) is not None:
            causes[why].append(name)
    lines += ["", "| refused because | pipelines |", "|---|---|"]
    for why, names in sorted(causes.items(), key=lambda item: len(item[1])):
        lines.append(f"| {why} | {', '.join(n.removesuffix('Pipeline') for n in names)} |")
    refused = [sum(why is not None for why in answers.values()), sum(map(len, causes.values()))]
    return "\n".join(
        [
            *lines,
            "",
            f"Schedulers: {len(answers) - refused[0]} supported, {refused[0]} refused. Pipelines: "
            f"{len(SUPPORTED)} supported, {refused[1]} refused.",
            "",
        ]
    )


def with_tables(page: str) -> str:
    """The page with its tables written again."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    return re.sub(pattern, lambda _: BEGIN + "\n" + tables() + "\n" + END, page, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
