"""Data sets of images and trajectories: arrays, folders and MNIST's files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from campaign.mutators import spoil_bytes, spoil_file
from campaign.oracle import judge
from diffodesic.models.datasets import load_images
from diffodesic.transitions.sampling import check_samples, load_trajectory


def case(index: int, rng: Random, folder: Path) -> str:
    """A data set, whole or spoilt."""
    return (_array, _folder, _idx, _trajectory)[index % 4](index // 4, rng, folder)


def _bytes(rng: Random, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(rng.randrange(2**32)).integers(0, 256, shape, dtype=np.uint8)


def _arrays(rng: Random) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Arrays, and what they are between -1 and 1; None is no set of images."""
    grey, colour = _bytes(rng, (6, 8, 8)), _bytes(rng, (6, 8, 8, 3))
    grey[0, 0], colour[0, 0, 0] = 0, 255  # so that the range is seen
    grey[0, 1] = 255
    unit = grey / 127.5 - 1
    return {
        "bytes": (grey, unit),
        "bytes with a channel": (grey[..., None], unit),
        "colours": (colour, colour / 127.5 - 1),
        "floats to 1": (grey / 255, unit),
        "half precision": ((grey / 255).astype(np.float16), unit),
        "floats from -1": (unit, unit),
        "big-endian": ((grey / 255).astype(">f4"), unit),
        "Fortran order": (np.asfortranarray(grey), unit),
        "integers": (grey.astype(np.int64), unit),
        "16 bits": (grey.astype(np.uint16) * 257, unit),
        "floats to 255": (grey.astype(np.float32), None),
        "NaN": (np.where(grey > 200, np.nan, grey / 255), None),
        "infinity": (np.where(grey > 200, np.inf, grey / 255), None),
        "1e30": (grey * 1e30, None),
        "complex": (grey.astype(np.complex64), None),
        "text": (grey.astype(str), None),
        "objects": (np.array([{}, 1], dtype=object), None),
        "channels first": (np.moveaxis(colour, -1, 1), None),
        "four channels": (_bytes(rng, (6, 8, 8, 4)), None),
        "one image": (grey[0], None),
        "five axes": (grey[None, ..., None], None),
        "no image": (grey[:0], None),
        "no pixel": (grey[:, :0], None),
        "dates": (np.zeros((6, 8, 8), "datetime64[s]"), None),
        "a record": (np.zeros((6, 8, 8), [("a", "u1")]), None),
    }


def _array(index: int, rng: Random, folder: Path) -> str:
    arrays = _arrays(rng)
    name = sorted(arrays)[index % len(arrays)]
    values, truth = arrays[name]
    zipped = bool(rng.randrange(2))
    file = folder / f"data.np{'z' if zipped else 'y'}"
    (np.savez if zipped else np.save)(file, values)
    what = f"{name} in {file.suffix}"
    spoilt = index >= len(arrays)
    if spoilt and (zipped or rng.randrange(2)):  # zip has checksums, a bare array's head is checked
        what += f", {spoil_file(rng, file)}"
    elif spoilt:
        content = file.read_bytes()
        change, head = spoil_bytes(rng, content[:128])
        file.write_bytes(head + content[128:])
        what += f", head: {change}"

    def right(found: torch.Tensor) -> bool:
        if spoilt and not zipped:
            return _same(found, _unit(np.load(file)))
        return truth is not None and _same(found, truth)

    return judge(what, lambda: load_images(file, say=lambda _: None), right, names=file.name)


def _unit(values: np.ndarray) -> np.ndarray:
    """What numpy reads, between -1 and 1."""
    if values.dtype.kind in "ui":
        return values / (127.5 if values.max() <= 255 else 32767.5) - 1.0
    return values if values.min() < 0 else values * 2.0 - 1


def _same(found: torch.Tensor, truth: np.ndarray) -> bool:
    truth = truth[..., None] if truth.ndim == 3 else truth
    return np.allclose(found.movedim(1, -1).double().numpy(), truth, atol=2e-3)


def _folder(index: int, rng: Random, folder: Path) -> str:
    """A folder of pictures, one of which is another thing."""
    place, images = folder / "images", _bytes(rng, (4, 8, 8, 3))
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(place / f"{i}.png")
    one = place / f"{rng.randrange(4)}.png"
    at = int(one.stem)
    expected: list[np.ndarray] = list(images)
    kind = index % 8
    if kind == 0:
        what = "whole"
    elif kind == 1:
        what, expected = "of two sizes", []
        Image.fromarray(images[0][:4]).save(one)
    elif kind == 2:
        what = "one of them grey"
        expected[at] = np.repeat(images[at][..., :1], 3, -1)
        Image.fromarray(images[at][..., 0].copy()).save(one)
    elif kind == 3:
        what = "with a text among them"
        (place / "notes.txt").write_text("four pictures")
    elif kind == 4:
        what, expected = "empty", []
        for file in place.iterdir():
            file.unlink()
    elif kind == 5:
        what = "in folders below"
        (place / "below").mkdir()
        one.rename(place / "below" / one.name)
        expected.append(expected.pop(at))
        order = sorted(place.rglob("*.png"))
        expected = [images[int(file.stem)] for file in order]
    else:
        what = spoil_file(rng, one)
        if one.is_file() and not one.is_symlink():
            pass
        elif not one.exists() and not one.is_symlink():
            expected.pop(at)
    return judge(
        f"a folder {what}",
        lambda: load_images(place, say=lambda _: None),
        lambda found: bool(expected) and _same(found, np.stack(expected) / 127.5 - 1),
        names=place.name,
    )


def _idx(index: int, rng: Random, folder: Path) -> str:
    """MNIST's file of images."""
    images = _bytes(rng, (5, 8, 8))
    raw = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape) + images.tobytes()
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(raw))
    what = "whole"
    if index % 8 == 1:
        what = "that promises 2^32 images"
        file.write_bytes(gzip.compress(raw[:4] + b"\xff" * 4 + raw[8:]))
    elif index % 8 == 2:
        what = "without images"
        file.write_bytes(gzip.compress(raw[:4] + bytes(4) + raw[8:16]))
    elif index % 8:
        what = spoil_file(rng, file)
    return judge(
        f"an IDX file {what}",
        lambda: load_images(folder, say=lambda _: None),
        lambda found: _same(found, images / 127.5 - 1),
        names=folder.name,
    )


def _trajectory(index: int, rng: Random, folder: Path) -> str:
    """Points over two angles."""
    x = np.random.default_rng(rng.randrange(2**32)).uniform(-3, 3, (200, 2))
    period = (2 * np.pi, None)
    faults: dict[str, Callable[[], np.ndarray | None]] = {
        "whole": lambda: x,
        "in single precision": lambda: x.astype(np.float32),
        "of two chains": lambda: x.reshape(2, 100, 2),
        "of integers": lambda: np.rint(10 * x).astype(int) % 4,
        "with NaN": lambda: np.where(x > 2.9, np.nan, x),
        "in degrees": lambda: np.degrees(x),
        "too short": lambda: x[:50],
        "of one coordinate": lambda: x[:, 0],
        "of three": lambda: np.repeat(x, 2, 1)[:, :3],
        "that stands still": lambda: np.ones_like(x),
        "of objects": lambda: np.array([{}, 1], dtype=object),
        "of text": lambda: x.astype(str),
        "complex": lambda: x.astype(complex),
    }
    name = sorted(faults)[index % len(faults)]
    values = faults[name]()
    assert values is not None
    file = folder / "angles.npy"
    np.save(file, values)
    if index >= len(faults):
        name += f", {spoil_file(rng, file)}"

    def read() -> torch.Tensor:
        found = load_trajectory(file)
        check_samples(found, period)
        return found

    def right(found: torch.Tensor) -> bool:
        kept = np.load(io.BytesIO(file.read_bytes())).astype(float).reshape(-1, 2)
        return np.array_equal(found.numpy(), kept)

    return judge(f"a trajectory {name}", read, right)
