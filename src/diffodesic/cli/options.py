"""The verbs of the command line, one file each: ``add`` makes the parser, ``run`` the call.

Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["command", "progress", "seed"]


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    examples: str = "",
) -> argparse.ArgumentParser:
    """Add a verb.

    Args:
        commands: what ``add_subparsers`` returned.
        name: the verb.
        run: called with the parsed options.
        text: one line of help.
        examples: lines below the options of its help.

    Returns:
        its parser, for the arguments.
    """
    parser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def seed(text: str) -> int:
    """Parse a seed that torch's generators take."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """One line that is rewritten on a terminal, and nothing elsewhere."""
    from tqdm.auto import tqdm

    with tqdm(bar_format="{desc} [{elapsed}]", disable=None, leave=False) as bar:
        yield lambda text: bar.set_description_str(text)
