"""The options that say which model a command works with, and under which condition."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffodesic.output.options import Options

if TYPE_CHECKING:
    from diffodesic.models.model import Model

__all__ = ["ModelOptions", "open_model"]

WORDS = ("prompt", "prompt_b", "blend", "negative_prompt", "guidance", "label")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Which model, how it runs, its condition, and the two permissions.

    Args:
        model: a name (see `models`), a folder, diffusers:DIR, hf:OWNER/NAME@REVISION, edm:FILE or
            python:package.module:function, whose code is run.
        device: where the network runs: cpu, cuda, cuda:1 or auto, a GPU where there is one.
        size: W,H of the pictures in pixels, of a pipeline that works at any; default that of its
            training.
        precision: of evaluations; exact derivatives and the geometry keep theirs (default:
            float32).
        chunk: inputs per call of the network.
        compile: pass the network through torch.compile first.
        prompt: for models with a text encoder; default the empty one.
        prompt_b: another prompt: the condition lies between the two.
        blend: where: 0 is the first prompt, 1 the other.
        negative_prompt: what --guidance leads away from.
        guidance: weight of the prompt; default 1, the model itself: another is no posterior mean.
        label: for models with classes.
        allow_download: let hf: and diffusers: fetch what is not here.
        allow_pickle: read edm:FILE, which runs code of its author.
    """

    model: str = "fruits"
    device: str = "cpu"
    size: tuple[int, ...] = ()
    precision: Literal["float32", "bfloat16"] | None = None
    chunk: int | None = None
    compile: bool = False
    prompt: str | None = None
    prompt_b: str | None = None
    blend: float | None = None
    negative_prompt: str | None = None
    guidance: float | None = None
    label: int | None = None
    allow_download: bool = False
    allow_pickle: bool = False


def open_model(options: ModelOptions) -> Model:
    """Load the model that the options name, under the condition that they give."""
    from diffodesic.models.loading import load

    if options.size and (len(options.size) != 2 or min(options.size) < 1):
        wrong = ",".join(map(str, options.size))
        raise ValueError(f"--size takes two numbers, W,H in pixels, not {wrong}")
    model = load(
        options.model,
        device=options.device,
        allow_download=options.allow_download,
        allow_pickle=options.allow_pickle,
        size=(options.size[1], options.size[0]) if options.size else None,
    )
    given = {name: getattr(options, name) for name in WORDS}
    words = {name: word for name, word in given.items() if word is not None}
    model = model.given(words) if words else model
    model = model.running(chunk=options.chunk, precision=options.precision, compile=options.compile)
    for caveat in model.caveats():
        print(f"note: {caveat}", file=sys.stderr)
    return model
