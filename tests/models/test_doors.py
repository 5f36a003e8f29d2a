"""The other doors: real autoencoder weights, a function of one's own, EDM pickles, the command."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diffodesic.cli.main import main
from diffodesic.images.spaces import MetricName
from diffodesic.models.datasets import shipped_digits
from diffodesic.models.loading import load
from diffodesic.models.model import ModelError
from diffodesic.output.images import read_image, to_uint8
from support.tiny import pictures

# --- a real autoencoder ---------------------------------------------------------------------------


def tiny_autoencoder(folder: Path) -> Any:
    """The real weights of TAESD, named as diffusers names them."""
    diffusers = pytest.importorskip("diffusers")
    from safetensors.torch import load_file

    vae = diffusers.AutoencoderTiny()
    encoder = load_file(folder / "taesd_encoder.safetensors")
    decoder = load_file(folder / "taesd_decoder.safetensors")
    weights = {f"encoder.layers.{name}": w.float() for name, w in encoder.items()}
    for name, w in decoder.items():  # its first layer, without weights, is no layer there
        index, _, rest = name.partition(".")
        weights[f"decoder.layers.{int(index) - 1}.{rest}"] = w.float()
    vae.load_state_dict(weights)
    return vae.eval()


@pytest.mark.slow
def test_photographs_go_through_the_real_autoencoder_and_back(data_folder, capsys):
    from diffodesic.models.adapters.latents import latent_codec

    codec = latent_codec(tiny_autoencoder(data_folder / "taesd"), (4, 32, 32))
    assert codec.shape == (3, 256, 256)
    found = {}
    for path in sorted((data_folder / "natural_images").glob("*.[pj][np]g")):
        image = read_image(path, codec.shape)[0].double()
        z = codec.encode(image)
        assert z.shape == (4 * 32 * 32,)
        error = float((codec.decode(z) - image).square().mean())
        found[path.name] = -10 * math.log10(error)
    with capsys.disabled():
        print("\nPSNR in dB:", ", ".join(f"{name} {psnr:.1f}" for name, psnr in found.items()))
    assert len(found) == 5
    # 20 to 27 dB is what this autoencoder is known for; the rocket is mostly sky and has 27.1
    assert all(20 <= psnr < 27.5 for psnr in found.values())


# --- a function of one's own ----------------------------------------------------------------------

MINE = """
import torch
import diffodesic as dd

def net(x, t):
    return 0.3 * x

def model():
    schedule = dd.schedules.EDM(0.01, 50.0)
    return dd.from_network(
        net, shape=(1, 8, 8), schedule=schedule, prediction="x0", variance=0.25
    )

def flat():
    return dd.from_network(net, shape=(64,), schedule=dd.schedules.EDM(), prediction="x0")

def nothing():
    return None

def placed(device):
    return dd.Model(model(), dd.load("mnist").codec, f"on {device}")

number = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and a module."""
    for name, image in zip("ab", to_uint8(pictures(2)), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "torn.py").write_text("def model(:")
    (tmp_path / "late.py").write_text("def model():\n    import mine\n    return mine.model()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_a_function_gives_a_model(place):
    before = list(sys.path)
    model = load("python:mine:model")
    assert (model.name, model.codec.shape, model.denoiser.dim) == ("model", (1, 8, 8), 64)
    assert load("python:mine:placed", device="cuda:7").name == "on cuda:7"
    sys.modules.pop("mine")
    assert load("python:late:model").name == "model"  # which imports its neighbour when called
    assert sys.path == before


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mine", "write python:package.module:function"),
        ("absent:model", "module 'absent' cannot be imported"),
        ("torn:model", "module 'torn' cannot be imported"),
        ("mine:absent", "there is no function 'absent' in module 'mine'"),
        ("mine:number", "there is no function 'number' in module 'mine'"),
        ("mine:nothing", "returned a NoneType; it must return a Model"),
        ("mine:flat", "shape=\\(C, H, W\\)"),
    ],
)
def test_what_is_no_model_is_refused(place, address, words):
    with pytest.raises(ModelError, match=words):
        load(f"python:{address}")


FAST = ("--frames", "3", "--nodes", "3", "--flow-steps", "3", "--model", "python:mine:model")


@pytest.mark.parametrize("metric", get_args(MetricName))
def test_the_command_line_takes_a_function(place, capsys, metric):
    assert main(["interpolate", "a.png", "b.png", *FAST, "--metric", metric]) == 0
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["settings"]["model"] == "model"


def test_distance_takes_a_function(place, capsys):
    words = ["--model", "python:mine:model", "--nodes", "4", "--flow-steps", "3"]
    assert main(["distance", "a.png", "b.png", *words, "--iterations", "2"]) == 0
    assert "DiffED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "mnist", "--prompt", "a cat"), "model 'mnist' takes no prompt"),
        (("--model", "edm:a.pkl"), "give allow_pickle=True (--allow-pickle)"),
        (("--model", "diffusers:nowhere/here"), "--allow-download"),
        (("--model", "python:absent:model"), "module 'absent' cannot be imported"),
    ],
)
def test_bad_models_are_one_line_on_the_command_line(place, capsys, words, told):
    if "diffusers" in words[1]:
        pytest.importorskip("diffusers")
    assert main(["interpolate", "a.png", "b.png", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (place / "out").exists()


# --- the page "bring your own model" --------------------------------------------------------------


def blocks(language: str) -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "bring-your-own-model.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


@pytest.fixture
def mynet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's network as a module of the working folder."""
    source = blocks("python")[0]
    assert len([line for line in source.splitlines() if line]) <= 30
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return source


@pytest.mark.slow
def test_the_page_runs_with_every_metric(mynet, capsys):
    scope: dict[str, Any] = {}
    exec(blocks("python")[1], scope)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(scope["spaces"]) == 6
    assert all(float(line[15:].split()[0]) > 0 for line in lines)
    assert scope["net"].auto_mode == ["forward"]


def test_the_page_runs_on_the_command_line(mynet, capsys):
    (digits, _), (first, _) = shipped_digits(), blocks("sh")[0].splitlines()
    for name, index in (("A", 33), ("B", 83)):
        Image.fromarray(to_uint8(digits[index : index + 1])[0]).save(f"{name}.png")
    program, *words = first.split()
    assert program == "diffodesic"
    assert main([*words, "--frames", "3", "--nodes", "4", "--flow-steps", "4"]) == 0
    assert "wrote out/report.html" in capsys.readouterr().out


# --- pickles of EDM -------------------------------------------------------------------------------


class Denoising(nn.Module):
    """What a pickle of EDM holds: preconditioned, with its range on it."""

    img_resolution, img_channels, label_dim = 4, 3, 0
    sigma_min, sigma_max, sigma_data = 0, math.inf, 0.5

    def __init__(self, label_dim: int = 0) -> None:
        super().__init__()
        self.label_dim = label_dim
        self.bias = nn.Parameter(torch.tensor(0.1, dtype=torch.float16))

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, force_fp32: bool = False
    ) -> Tensor:
        assert force_fp32
        share = 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2)
        shift = 0 if labels is None else labels.argmax(-1).reshape(-1, 1, 1, 1)
        return share * x + (1 - share) * (self.bias + shift)


def pickled(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


def test_edm_networks_are_denoisers_already(tmp_path, draw):
    path = pickled(tmp_path / "small.pkl", {"ema": Denoising()})
    model = load(f"edm:{path}", allow_pickle=True)
    assert (model.name, model.codec.shape) == ("small", (3, 4, 4))
    assert model.denoiser.schedule.time_range == (0.002, 80.0)
    z, sigma = draw(2, 48), torch.tensor([0.1, 3.0], dtype=torch.float64)
    share = (0.25 / (0.25 + sigma**2)).unsqueeze(-1)
    expected = share * z + (1 - share) * 0.1
    # the weight went through float16
    torch.testing.assert_close(model.denoiser(z, sigma), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="takes no label"):
        model.given({"label": 1})


def test_edm_classes(tmp_path):
    path = pickled(tmp_path / "classes.pkl", {"ema": Denoising(label_dim=5)})
    model = load(f"edm:{path}", allow_pickle=True)
    z, sigma = torch.zeros(1, 48, dtype=torch.float64), torch.tensor(1e3**0.5)
    with pytest.raises(ModelError, match="bind one by given"):
        model.denoiser(z, sigma)
    with pytest.raises(ModelError, match="classes 0 to 4"):
        model.given({"label": 5})
    found = model.given({"label": 3}).denoiser(z, sigma)
    torch.testing.assert_close(found, torch.full_like(z, 3.1), rtol=1e-3, atol=1e-3)


class Trap:
    """Something whose pickle runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("sprung"), "!"))


def test_no_pickle_is_read_without_leave(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pickled(tmp_path / "trap.pkl", Trap())
    with pytest.raises(ModelError, match="runs code of its author"):
        load(f"edm:{path}")
    assert not Path("sprung").exists()


class StabilityVAEEncoder:
    """Stands for the latent encoder of EDM2."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"ema": Denoising(), "encoder": StabilityVAEEncoder()}, "on the latents of a Stability"),
        ({"net": Denoising()}, "holds no network of the EDM project"),
        ([1], "holds no network of the EDM project"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, words):
    path = pickled(tmp_path / "other.pkl", content)
    with pytest.raises(ModelError, match=words):
        load(f"edm:{path}", allow_pickle=True)


def test_files_that_are_no_pickles_are_refused(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        load(f"edm:{tmp_path / 'absent.pkl'}", allow_pickle=True)
    (tmp_path / "text.pkl").write_text("hello")
    with pytest.raises(ModelError, match="cannot be read as a pickle"):
        load(f"edm:{tmp_path / 'text.pkl'}", allow_pickle=True)
    needs = b"cabsent_module\nThing\n."
    (tmp_path / "needs.pkl").write_bytes(needs)
    with pytest.raises(ModelError, match="needs code of its project"):
        load(f"edm:{tmp_path / 'needs.pkl'}", allow_pickle=True)
