"""What is trained on: sizes, latents made once, labels, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffodesic.models import training_data
from diffodesic.models.datasets import load_images
from diffodesic.models.labels import load_labels
from diffodesic.models.taesd import SPREAD, TaesdCodec
from diffodesic.models.training_data import Examples, as_latents, check_images, resized

CPU = torch.device("cpu")


@pytest.fixture
def pictures() -> Tensor:
    """Noise in colour, shape (60, 3, 8, 8) in [-1, 1]."""
    return 2 * torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(3)) - 1


def test_latents_are_made_once(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(training_data, "_CHUNK", 20)
    said: list[str] = []
    whole = as_latents(pictures, 16, tmp_path / "whole", device=CPU, say=said.append)
    assert said == [f"{n} of 60 pictures encoded" for n in (20, 40, 60)]
    assert whole.points.shape == (60, 4, 2, 2)
    torch.testing.assert_close(whole.points.std((0, 2, 3)), torch.full((4,), SPREAD))
    assert whole.codec is not None
    expected = whole.codec.encode((resized(pictures, 16) + 1) / 2).unflatten(-1, (4, 2, 2))
    torch.testing.assert_close(whole.points, expected, rtol=1e-4, atol=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(TaesdCodec, "encode", None)  # not called again
        again = as_latents(pictures, 16, tmp_path / "whole", device=CPU)
    assert torch.equal(again.points, whole.points)
    with pytest.raises(ValueError, match=r"other settings \(latents was .* give another outdir"):
        as_latents(pictures.flip(0), 16, tmp_path / "whole", device=CPU)


def test_latents_take_the_normalisation_of_a_teacher(pictures, tmp_path):
    own = as_latents(pictures, 16, tmp_path, device=CPU)
    assert own.codec is not None
    teacher = replace(own.codec, mean=(0.5,) * 4, scale=(2.0,) * 4)
    like = as_latents(pictures, 16, tmp_path, device=CPU, like=teacher)
    assert like.codec is not None
    assert (like.codec.mean, like.codec.scale) == (teacher.mean, teacher.scale)
    shift, scale = (torch.tensor(t)[:, None, None] for t in (own.codec.mean, own.codec.scale))
    torch.testing.assert_close((own.points / scale + shift - 0.5) * 2, like.points)


def test_encoding_that_was_interrupted_goes_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(training_data, "_CHUNK", 20)
    whole = as_latents(pictures, 16, tmp_path / "whole", device=CPU)

    def stop(text: str) -> None:
        if text.startswith("40"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        as_latents(pictures, 16, tmp_path / "part", device=CPU, say=stop)
    assert len(list((tmp_path / "part").glob("*.safetensors"))) == 2
    assert torch.equal(as_latents(pictures, 16, tmp_path / "part", device=CPU).points, whole.points)


def test_sizes_are_cropped_and_resampled():
    ramp = torch.linspace(-1, 1, 12).expand(1, 1, 8, 12)
    assert resized(ramp, None) is ramp
    square = resized(ramp, 4)
    assert square.shape == (1, 1, 4, 4)
    # the middle 8 of 12 columns, two to each; the filter is cut at the borders
    expected = ramp[0, 0, 0, 2:10].unflatten(0, (4, 2)).mean(1)
    torch.testing.assert_close(square[0, 0, 0], expected, rtol=0, atol=0.05)


def test_labels_of_folders_and_arrays(tmp_path):
    for kind, grey in (("pear", 10), ("apple/red", 90), ("apple/green", 170)):
        (tmp_path / "tree" / kind).mkdir(parents=True)
        for n in range(2):
            Image.new("L", (4, 4), grey + n).save(tmp_path / "tree" / kind / f"{n}.png")
    labels = load_labels(tmp_path / "tree")
    greys = ((load_images(tmp_path / "tree")[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert sorted(zip(labels, greys, strict=True)) == [
        ("apple/green", 170), ("apple/green", 171), ("apple/red", 90), ("apple/red", 91),
        ("pear", 10), ("pear", 11),
    ]  # fmt: skip
    Image.new("L", (4, 4)).save(tmp_path / "tree" / "stray.png")
    with pytest.raises(ValueError, match="holds images without a label"):
        load_labels(tmp_path / "tree")
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([4, 2, 4]))
    assert load_labels(tmp_path / "a.npz") == [4, 2, 4]
    np.savez(tmp_path / "b.npz", images=images)
    for name in ("b.npz", "c.npy"):
        (tmp_path / "c.npy").touch()
        with pytest.raises(ValueError, match=r"no array 'labels'|holds no labels"):
            load_labels(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no data"):
        load_labels(tmp_path / "missing")


def test_labels_are_numbered_in_order(pictures):
    few = Examples(pictures[:4])
    assert few.labelled(None) is few
    found = few.labelled(["pear", "apple", "pear", "fig"])
    assert found.names == ("apple", "fig", "pear")
    assert found.labels is not None
    assert found.labels.tolist() == [2, 0, 2, 1]
    assert few.labelled([10, 9, 10, 2]).names == ("2", "9", "10")
    for labels in (["pear"] * 4, ["pear", "apple"]):
        with pytest.raises(ValueError, match="give one for each, and at least two kinds"):
            few.labelled(labels)


def test_few_pictures_are_refused(pictures):
    check_images(pictures[:50])
    with pytest.raises(ValueError, match="there are 49 pictures: give at least 50"):
        check_images(pictures[:49])
