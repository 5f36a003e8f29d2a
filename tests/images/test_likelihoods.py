"""Likelihood of pictures: bits of exact laws, ranks, latents, files and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic import GaussianMixture, likelihood
from diffodesic.cli.main import main
from diffodesic.images.likelihoods import LikelihoodOptions
from diffodesic.numerics.cost import counting
from support.tiny import SIDE, exact_model, pictures, tiny_model

FAST = LikelihoodOptions(levels=16, draws=4)


def _law() -> GaussianMixture:
    """One Gaussian about grey, its deviation a fifth of the way to white."""
    return GaussianMixture(torch.zeros(1, SIDE**2, dtype=torch.float64), std=0.2)


def _drawn(count: int, spread: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    x = spread * torch.randn(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return ((x + 1) / 2).clamp(0, 1)


def test_bits_are_those_of_the_quantised_gaussian():
    model, images = exact_model(_law(), (1, SIDE, SIDE)), _drawn(4)
    options = LikelihoodOptions(levels=64, draws=32)
    found = likelihood(model, images, options=options)
    # P of a level is its share of the Gaussian: the density times the width, for levels this fine
    level = (images * 255).round() / 255
    x = model.codec.encode(level)
    delta = 2 / 255
    nats = -(x**2 / 0.04 + math.log(2 * math.pi * 0.04)).sum(-1) / 2
    bits = -(nats / SIDE**2 + math.log(delta)) / math.log(2)
    assert found.bits is not None
    assert found.bits_error is not None
    # a bound: which of 11 widths is .05, and the nearest logistic law to a Gaussian .1 to .15 above
    above = found.bits - bits
    assert bool((above > -4 * found.bits_error).all())
    assert bool((above < 4 * found.bits_error + 0.2).all())
    assert bool((found.bits_error < 0.05).all())


def test_levels_that_the_model_knows_take_next_to_nothing():
    # data that are black or white throughout: what is sent is one bit, and no level is in doubt
    ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(2, SIDE**2)
    model = exact_model(GaussianMixture(ends, std=0.0), (1, SIDE, SIDE))
    images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, SIDE, SIDE)
    found = likelihood(model, images, options=LikelihoodOptions(levels=64, draws=32))
    assert found.bits is not None
    assert found.bits_error is not None
    known = (1 + math.log2(11)) / SIDE**2  # and which of 11 widths
    assert bool(((found.bits - known).abs() < 4 * found.bits_error + 1e-3).all())


def test_the_two_estimates_agree_on_an_exact_law():
    model = exact_model(_law(), (1, SIDE, SIDE))
    options = LikelihoodOptions(levels=64, draws=16, flow=True)
    found = likelihood(model, _drawn(2), options=options)
    assert found.flow_nats is not None
    assert found.flow_error is not None
    error = (found.error**2 + found.flow_error**2).sqrt()
    assert bool(((found.nats - found.flow_nats).abs() < 4 * error).all())
    assert "by the flow" in found.lines()[0]


def test_ranks_are_those_of_the_density():
    model = exact_model(_law(), (1, SIDE, SIDE))
    mild, wild = _drawn(1, 0.05), _drawn(1, 0.4)
    found = likelihood(model, torch.cat([mild, wild]), among=_drawn(9), options=FAST)
    assert found.share is not None
    assert found.share.tolist() == [1.0, 0.0]
    assert found.others == 9
    assert "likelier than 100% of 9 others" in found.lines()[0]


def test_latents_have_no_bits_and_say_what_their_density_is_of():
    class Halved:
        """A codec that keeps every second pixel."""

        shape, lossless = (1, SIDE, 2 * SIDE), False

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * images[..., ::2].flatten(-3) - 1

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return ((z + 1) / 2).unflatten(-1, (1, SIDE, SIDE)).repeat_interleave(2, -1)

    model = replace(exact_model(_law(), (1, SIDE, SIDE)), codec=Halved())
    found = likelihood(model, torch.full((1, 1, SIDE, 2 * SIDE), 0.5), options=FAST)
    assert found.bits is None
    assert found.bits_error is None
    assert "latents" in found.about
    assert "not of the picture" in found.about
    assert "bits" not in found.lines()[0]


@pytest.mark.parametrize("flow", [False, True])
def test_the_work_is_that_expected(flow: bool):
    with counting() as cost:
        options = LikelihoodOptions(levels=3, draws=2, flow=flow, steps=2, probes=1)
        likelihood(tiny_model(), pictures(2), among=pictures(3), options=options)
    assert cost.expected["denoising"] == 3 * 2 * 5
    assert cost.stages["denoising"] == 3 * 2 * 5 + 4 * 2  # levels are read off four more
    assert cost.expected.get("flow") == cost.stages.get("flow")


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        likelihood(tiny_model(), pictures(1)[:0])


def _saved(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    names = [str(folder / f"{i}.png") for i in range(count)]
    generator = torch.Generator().manual_seed(count)
    for name in names:
        values = torch.randint(256, (28, 28), generator=generator, dtype=torch.uint8)
        Image.fromarray(np.asarray(values)).save(name)
    return names


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    others = tmp_path / "others"
    _saved(others, 2)
    words = ["--model", "mnist", "--levels", "2", "--draws", "2", "--among", str(others)]
    assert main(["likelihood", *words, "--outdir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "levels of 8 bits" in said
    assert "likelier than 100% of 2 others" in said
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(content["nats"]) == len(content["bits"]) == 2
    assert content["share"] == [1.0, 1.0]
    assert content["flow_nats"] is None
    assert content["settings"]["levels"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--among", "missing"], "missing is no folder"),
        (["--draws", "1"], "draws must be at least 2"),
        (["missing.png"], "no picture at missing.png"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["likelihood", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_broken_pictures_of_a_folder_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["likelihood", "--levels", "2", "--draws", "2", "--among", str(tmp_path / "set")]
    names = _saved(tmp_path / "set", 3)
    Path(names[0]).write_bytes(b"no picture")
    assert main(words) == 0
    said = capsys.readouterr()
    assert f"left out: {names[0]}" in said.err
    assert "of 2 others" in said.out
