"""Commands that take pictures and print numbers: how they begin, and how they end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from diffodesic.cli.model_options import ModelOptions, open_model
from diffodesic.cli.options import add_flags, chosen, command, in_flags
from diffodesic.cli.pictures import pictures_read, read_pictures
from diffodesic.cli.progress import Progress, in_words, progress
from diffodesic.images.measured import Measured
from diffodesic.output.folder import own_outdir
from diffodesic.output.manifest import hashed

if TYPE_CHECKING:
    from torch import Tensor

    from diffodesic.models.model import Model

__all__ = ["add_measure", "measure"]

M = TypeVar("M", bound=Measured)


class _Where(Protocol):
    @property
    def resize(self) -> bool: ...

    @property
    def outdir(self) -> str | None: ...


def add_measure(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    text: str,
    examples: str,
    *owners: type,
) -> None:
    """Add a command on any number of pictures; arguments as for ``command`` and ``add_flags``."""
    parser = command(commands, name, run, text, examples)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="pictures; none: some of the package"
    )
    add_flags(parser, *owners, ModelOptions)


def measure(
    given: argparse.Namespace,
    kind: type[M],
    where: _Where,
    default: Sequence[int],
    run: Callable[[Model, Tensor, Progress], M],
    lines: Callable[[M], Iterable[str]],
) -> None:
    """Measure pictures, print what was found, and write it if a folder is given.

    Args:
        given: the namespace.
        kind: of the result.
        where: how pictures are read, and the folder of the result.
        default: numbers of digits of the package; see ``read_pictures``.
        run: measures pictures (N, C, H, W).
        lines: what is printed of the result.
    """
    import torch

    model = open_model(chosen(ModelOptions, given))
    images = read_pictures(model, given.images, default=default, resize=where.resize)
    files = hashed(given.images)
    place = (
        nullcontext()
        if where.outdir is None
        else own_outdir(where.outdir, kind.command, pictures_read(given))
    )
    with place as folder, progress(model.denoiser) as say:
        found = run(model, torch.stack(images), say)
        if folder is not None:
            say("writing")
            found.save(folder, inputs=files)
    for line in lines(found):
        print(line)
    print(in_words(say.cost.stages))
    for notice in found.notices:
        print(f"note: {in_flags(notice, given.parser)}")
    if folder is not None:
        print(f"wrote {folder}/{found.file}")
