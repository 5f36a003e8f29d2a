"""Picture files: the same picture in many encodings, and encodings with changed bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from campaign.mutators import spoil_bytes
from campaign.oracle import judge, judge_command
from diffodesic.models.datasets import load_images
from diffodesic.output.images import read_image
from support.tiny import tiny_model

SIDES = (8, 8)
CHECKED = (".png",)  # formats whose pixels carry checksums
TAGS = (1, 3, 6, 8, 2, 4, 5, 7)  # of orientation: by quarter turns, then mirrored


def _base(rng: Random) -> np.ndarray:
    """Smooth colours, (8, 8, 3) bytes."""
    phase = [rng.uniform(0, 6) for _ in range(6)]
    y, x = np.mgrid[0:8, 0:8] / 8
    waves = [np.sin(3 * x + phase[c]) * np.cos(2 * y + phase[c + 3]) for c in range(3)]
    return np.rint(127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def _grey(colour: np.ndarray) -> np.ndarray:
    return colour[..., 0]


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _array(values: np.ndarray, *, zipped: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez if zipped else np.save)(buffer, values)
    return buffer.getvalue()


def _oriented(colour: np.ndarray, tag: int, kind: str) -> bytes:
    """The picture stored so that its EXIF tag makes it upright."""
    undone = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
              5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}[tag]  # fmt: skip
    picture = Image.fromarray(colour)
    if undone:
        picture = picture.transpose(getattr(Image.Transpose, undone))
    exif = Image.Exif()
    exif[274] = tag
    return _saved(picture, kind, exif=exif)


Encoded = tuple[str, bytes, np.ndarray, float]  # suffix, file, true bytes, tolerance


def _encodings(rng: Random) -> dict[str, Callable[[], Encoded]]:
    """The same picture in many files."""
    colour = _base(rng)
    grey, wide = _grey(colour), _grey(colour).astype(np.uint16)
    alpha = rng.randrange(256)
    laid = np.rint(colour * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)
    see = np.concatenate([colour, np.full((8, 8, 1), alpha, np.uint8)], -1)
    tag, flat = rng.choice(TAGS), np.tile(colour[:1, :1], (8, 8, 1))
    black = (grey > 127).astype(np.uint8) * 255
    palette = Image.fromarray(grey).convert("P")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb, one = Image.fromarray(colour), Image.fromarray(grey)
    return {
        "PNG": lambda: (".png", _saved(rgb, "PNG"), colour, 1),
        "grey PNG": lambda: (".png", _saved(one, "PNG"), grey, 1),
        "PNG with a palette": lambda: (".png", _saved(palette, "PNG"), grey, 1),
        "PNG of two levels": lambda: (
            ".png", _saved(Image.fromarray(black).convert("1"), "PNG"), black, 1),
        "PNG with alpha": lambda: (".png", _saved(Image.fromarray(see), "PNG"), laid, 2),
        "grey PNG with alpha": lambda: (
            ".png", _saved(Image.fromarray(see[..., [0, 3]].copy()), "PNG"), laid[..., 0], 2),
        "PNG of 16 bits": lambda: (".png", _saved(Image.fromarray(wide * 257), "PNG"), grey, 1),
        "PNG with a profile": lambda: (".png", _saved(rgb, "PNG", icc_profile=srgb), colour, 1),
        f"PNG, orientation {tag}": lambda: (".png", _oriented(colour, tag, "PNG"), colour, 1),
        f"TIFF, orientation {tag}": lambda: (".tif", _oriented(colour, tag, "TIFF"), colour, 1),
        f"WebP, orientation {tag}": lambda: (
            ".webp", _saved(rgb, "WEBP", lossless=True), colour, 1),
        f"JPEG, orientation {tag}": lambda: (".jpg", _oriented(flat, tag, "JPEG"), flat, 6),
        "BMP": lambda: (".bmp", _saved(rgb, "BMP"), colour, 1),
        "GIF": lambda: (".gif", _saved(one, "GIF"), grey, 1),
        "TIFF": lambda: (".tiff", _saved(rgb, "TIFF"), colour, 1),
        "TIFF of 16 bits": lambda: (".tif", _saved(Image.fromarray(wide * 257), "TIFF"), grey, 1),
        "TIFF of floats": lambda: (
            ".tif", _saved(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"), grey, 1),
        "TIFF of 32-bit integers": lambda: (
            ".tif", _saved(Image.fromarray(grey.astype(np.int32)), "TIFF"), grey, 1),
        "PPM": lambda: (".ppm", _saved(rgb, "PPM"), colour, 1),
        "PGM": lambda: (".pgm", _saved(one, "PPM"), grey, 1),
        "array of bytes": lambda: (".npy", _array(colour), colour, 1),
        "array of floats": lambda: (".npy", _array(colour / 255), colour, 1),
        "array from -1 to 1": lambda: (".npy", _array(colour / 127.5 - 1), colour, 1),
        "array of 16 bits": lambda: (".npy", _array(wide * 257), grey, 1),
        "array of 64-bit integers": lambda: (".npy", _array(grey.astype(np.int64)), grey, 1),
        "zipped array": lambda: (".npz", _array(colour, zipped=True), colour, 1),
        "array of objects": lambda: (".npy", _array(np.array([[{}]], dtype=object)), grey, 1),
    }  # fmt: skip


def case(index: int, rng: Random, folder: Path) -> str:
    """One file: whole in one of three cases, spoilt in the others."""
    encodings = _encodings(rng)
    name = sorted(encodings)[index % len(encodings)]
    suffix, content, truth, tolerance = encodings[name]()
    what = name
    if index % 3:
        change, content = spoil_bytes(rng, content)
        what = f"{name}, {change}"
    file = folder / f"picture{suffix}"
    file.write_bytes(content)
    shape = (1 if truth.ndim == 2 else 3, *SIDES)

    def right(found: torch.Tensor) -> bool:
        # a byte is a 255th, whoever scales it
        levels = found.double().movedim(0, -1).squeeze(-1).numpy() * 255
        near = [truth] if index % 3 == 0 or suffix in CHECKED else [truth, *_plain(file, shape)]
        return any(np.abs(levels - other).max() <= tolerance + 0.01 for other in near)

    if index % 24 == 5:
        return _by_command(what, file, shape, right)
    if index % 2 and suffix not in {".npy", ".npz"}:
        return judge(what, lambda: _of_folder(folder, shape), right, names=folder.name)
    return judge(what, lambda: read_image(file, shape)[0], right, names=file.name)


def _of_folder(folder: Path, shape: tuple[int, int, int]) -> torch.Tensor:
    """The picture in [0, 1], read as training reads it."""
    (image,) = load_images(folder, say=lambda _: None)
    image = (image + 1) / 2
    return image.expand(shape) if shape[0] == 3 else image.mean(0, keepdim=True)


def _plain(file: Path, shape: tuple[int, int, int]) -> list[np.ndarray]:
    """What the file holds now, where its format has no checksum: by Pillow or numpy alone."""
    try:
        if file.suffix == ".npy":
            values = np.load(file).squeeze().astype(float)
            white = {"f": 1, "b": 1}.get(
                np.load(file).dtype.kind, 255 if values.max() < 256 else 65535
            )
            values = values * 255 / white if values.min() >= 0 else (values + 1) * 127.5
            picture = Image.fromarray(np.rint(values).astype(np.uint8))
        else:
            with Image.open(file) as opened:
                picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I") or picture.mode == "F":
                levels = np.asarray(picture).astype(float)
                scale = 255 if picture.mode == "F" else 1 / 257 if levels.max() > 255 else 1
                picture = Image.fromarray(np.rint(levels * scale).clip(0, 255).astype(np.uint8))
        picture = picture.convert("L" if shape[0] == 1 else "RGB")
        return [np.asarray(ImageOps.fit(picture, SIDES, Image.Resampling.LANCZOS), dtype=float)]
    except Exception:  # then there is nothing that it could be read as
        return []


def _by_command(
    what: str, file: Path, shape: tuple[int, int, int], right: Callable[[torch.Tensor], bool]
) -> str:
    tiny_model(shape[0]).save("tiny")
    Image.new("L", SIDES, 128).save("grey.png")
    run = ("interpolate", file, "grey.png", "--model", "tiny", "--metric", "euclidean")
    small = ("--frames", 3, "--nodes", 4, "--flow-steps", 8)

    def shown() -> bool:
        """Whether the inputs of the result are the picture."""
        from safetensors.torch import load_file

        return right(load_file("out/path.safetensors")["inputs"][0])

    return judge_command(what, *run, *small, right=shown, names=file.name)
