"""Images from disk: every kind of source gives the same tensor; rotations; what is refused."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from diffodesic.models.datasets import load_images, load_mnist, rotate, unit


def test_sources_agree(tmp_path):
    g = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (5, 8, 8), generator=g, dtype=torch.uint8)
    (tmp_path / "idx").mkdir()
    head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in pixels.shape)
    idx = tmp_path / "idx" / "train-images-idx3-ubyte.gz"
    idx.write_bytes(gzip.compress(head + pixels.numpy().tobytes()))
    (tmp_path / "png" / "sub").mkdir(parents=True)
    for i, picture in enumerate(pixels.numpy()):
        Image.fromarray(picture).save(tmp_path / "png" / "sub" / f"{i}.png")
    np.save(tmp_path / "a.npy", pixels.numpy())
    np.savez(tmp_path / "a.npz", pixels.numpy()[..., None])
    np.save(tmp_path / "float.npy", unit(pixels).numpy())
    for source in ("idx", "png", "a.npy", "a.npz", "float.npy"):
        torch.testing.assert_close(load_images(tmp_path / source), unit(pixels)[:, None])


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a folder"):
        load_images(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="no image"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="MNIST"):
        load_mnist(tmp_path)
    files = {"a.txt": b"x", "a.npy": b"x", "train-images-idx3-ubyte.gz": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("a.txt", "a.npy", "."):
        with pytest.raises(ValueError, match=r"a\.txt|a\.npy|idx3"):
            load_images(tmp_path / name)
    np.save(tmp_path / "b.npy", np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\(4, 4"):
        load_images(tmp_path / "b.npy")


def test_rotation():
    g = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(2, 1, 6, 6, generator=g) - 1
    for degrees, turns in ((0.0, 0), (90.0, 1), (-90.0, -1)):
        turned = rotate(x, torch.full((2,), degrees))
        torch.testing.assert_close(turned, torch.rot90(x, turns, (2, 3)), atol=1e-5, rtol=0)
    wide = x[:, :, :4]
    turned = rotate(wide, torch.full((2,), 180.0))
    torch.testing.assert_close(turned, wide.flip(2, 3), atol=1e-5, rtol=0)
