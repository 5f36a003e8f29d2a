"""The options that say which model a verb works with, and under which condition."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffodesic.models.model import Model

__all__ = ["add_model_options", "open_model"]

WORDS = ("prompt", "prompt_b", "blend", "negative_prompt", "guidance", "label")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, how it runs, its condition and the two permissions."""
    parser.add_argument(
        "--model",
        default="mnist",
        help="a name (see `models`), a folder, diffusers:DIR, edm:FILE or "
        "python:package.module:function, whose code is run",
    )
    parser.add_argument("--device", default="cpu", help="where the network runs")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of evaluations; exact derivatives and the geometry keep theirs (default float32)",
    )
    parser.add_argument("--chunk", type=int, help="inputs per call of the network")
    parser.add_argument(
        "--compile", action="store_true", help="pass the network through torch.compile first"
    )
    parser.add_argument("--prompt", help="for models with a text encoder; default the empty one")
    parser.add_argument("--prompt-b", help="another prompt: the condition lies between the two")
    parser.add_argument("--blend", type=float, help="where: 0 is the first prompt, 1 the other")
    parser.add_argument("--negative-prompt", help="what --guidance leads away from")
    parser.add_argument(
        "--guidance",
        type=float,
        help="weight of the prompt; default 1, the model itself: another is no posterior mean",
    )
    parser.add_argument("--label", type=int, help="for models with classes")
    parser.add_argument(
        "--allow-download", action="store_true", help="let diffusers fetch what is not here"
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read edm:FILE, which runs code of its author"
    )


def open_model(options: argparse.Namespace) -> Model:
    """Load the model that the options name, under the condition that they give."""
    from diffodesic.models.loading import load

    model = load(
        options.model,
        device=options.device,
        allow_download=options.allow_download,
        allow_pickle=options.allow_pickle,
    )
    given = {name: getattr(options, name) for name in WORDS}
    words = {name: word for name, word in given.items() if word is not None}
    model = model.given(words) if words else model
    model = model.running(chunk=options.chunk, precision=options.precision, compile=options.compile)
    for caveat in model.caveats():
        print(f"note: {caveat}", file=sys.stderr)
    return model
