"""Images from disk as tensors (N, C, H, W) in [-1, 1], MNIST, and rotations of images.

An image turned by an angle a about its centre has at pixel p the bilinear interpolation of the
image at R(-a) p, and black where that lies outside. MNIST's digits fit a 20x20 box whose half
diagonal, 14.1 pixels, is half the side of the image, so that no angle cuts them off.
"""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffodesic.output.arrays import ARRAYS, ImageError, pixel_range, read_array
from diffodesic.output.decoding import check_file, decode, picture_files
from diffodesic.output.files import UNREADABLE

__all__ = [
    "held_out",
    "load_images",
    "load_mnist",
    "read_idx",
    "rotate",
    "shipped_digits",
    "shipped_photographs",
]


MNIST = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_UNREADABLE = (*UNREADABLE, IndexError, MemoryError, OverflowError, RuntimeError)


def load_images(
    source: str | os.PathLike[str], *, say: Callable[[str], None] | None = None
) -> Tensor:
    """Read images as a float tensor (N, C, H, W) in [-1, 1].

    Args:
        source: a folder with MNIST's `train-images-idx3-ubyte.gz`; a folder of image files of
            one size, read as :func:`.decoding.decode` reads them, grey if all of them are; a .npy
            file, or the first array of a .npz file, of shape (N, H, W) or (N, H, W, C), C = 1 or
            3, in a range of :func:`.arrays.pixel_range`.
        say: is told what was changed about them; None warns.

    Returns:
        the images.

    Raises:
        FileNotFoundError: if there is nothing there.
        ValueError: if it is no set of images.
    """
    path, say = Path(source), say or _warn
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give a folder of images or a .npy/.npz file.")
    if path.is_dir():
        idx = path / MNIST["train"][0]
        array = read_idx(idx) if idx.exists() else _read_folder(path, say)
    elif path.suffix.lower() in ARRAYS:
        array = _read_array(path, say)
    else:
        raise ValueError(f"{path} is neither a folder nor a .npy/.npz file: convert it to one.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in {1, 3} or len(array) == 0:
        raise ValueError(
            f"{path} has shape {tuple(array.shape)}: give (N, H, W) or (N, H, W, C), C = 1 or 3."
        )
    images = array.permute(0, 3, 1, 2).contiguous()
    return unit(images) if images.dtype == torch.uint8 else images


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


def load_mnist(folder: str | os.PathLike[str], split: str = "train") -> tuple[Tensor, Tensor]:
    """Read MNIST: images (N, 1, 28, 28) in [-1, 1] and labels (N,), of "train" or "test"."""
    images, labels = (read_idx(Path(folder) / name) for name in MNIST[split])
    return unit(images[:, None]), labels.long()


def held_out(labels: Tensor, each: int = 10) -> Tensor:
    """Indices of the first ``each`` examples of every class, class after class."""
    classes = labels.unique().tolist()
    return torch.cat([(labels == c).nonzero().flatten()[:each] for c in classes])


def unit(images: Tensor) -> Tensor:
    """Bytes as floats in [-1, 1], in the same shape."""
    return images.float() / 127.5 - 1


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images about their centre, bilinearly; what enters from outside is black (-1).

    Args:
        images: shape (N, C, H, W) in [-1, 1].
        degrees: counter-clockwise angle of each image, shape (N,).

    Returns:
        the turned images (N, C, H, W).
    """
    angle = degrees * (math.pi / 180)
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = images.shape[-2] / images.shape[-1]  # grid coordinates are relative to each side
    rows = [torch.stack([c, -s * ratio, o], -1), torch.stack([s / ratio, c, o], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, padding_mode="zeros", align_corners=False) - 1


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """Read a gzipped IDX file of bytes (MNIST's format).

    Args:
        path: the file.

    Returns:
        a tensor of bytes, of the shape that the file states.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no file {path}: give the folder of MNIST's four .gz files.")
    check_file(path)
    try:
        with gzip.open(path) as file:
            sizes = [int.from_bytes(file.read(4), "big") for _ in range(file.read(4)[3])]
            # a small file may hold a great many bytes: those of its images, and one to see the end
            raw = bytearray(file.read(math.prod(sizes) + 1))
        return torch.frombuffer(raw, dtype=torch.uint8).reshape(sizes)
    except _UNREADABLE as error:
        raise ValueError(f"{path} is not a gzipped IDX file of bytes: download it anew.") from error


def _read_array(path: Path, say: Callable[[str], None]) -> Tensor:
    import numpy as np

    check_file(path)
    values, notices = read_array(path)
    black, white, notice = pixel_range(values, path)
    for text in (*notices, *filter(None, [notice])):
        say(f"{path}: {text}")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.array(values))
    floats = torch.from_numpy(values.astype(np.float32))
    return floats if black == -1 else floats / (white / 2) - 1


def _read_folder(path: Path, say: Callable[[str], None]) -> Tensor:
    import numpy as np

    files = picture_files(path, below=True)
    if not files:
        raise FileNotFoundError(f"no image in {path}: give a folder of PNG or JPEG files.")
    pictures, notices, size = [], Counter[str](), None
    for file in files:
        found = decode(file)
        size = size or found.size
        if found.size != size:
            raise ImageError(
                f"{file} is {found.size[0]}x{found.size[1]} pixels and {files[0].name} is "
                f"{size[0]}x{size[1]}: bring the images to one size."
            )
        pictures.append(found.picture)
        notices.update(set(found.notices))
    modes = Counter(picture.mode for picture in pictures)
    if len(modes) > 1:
        notices["grey among pictures in colour, read as colour"] = modes["L"]
    for notice, count in notices.items():
        say(f"{path}: {count} of {len(files)} pictures: {notice}")
    mode = "L" if modes.keys() == {"L"} else "RGB"
    return torch.from_numpy(np.stack([np.asarray(picture.convert(mode)) for picture in pictures]))


def shipped_photographs(height: int = 128, width: int = 128) -> tuple[Tensor, tuple[str, ...]]:
    """The two held-out photographs of the package.

    They are of Fruits-360, by Mihai Oltean and Horea Muresan (MIT), 100x100 pixels on white.

    Args:
        height: of the images in pixels; resampled to it (Lanczos).
        width: likewise.

    Returns:
        images (2, 3, height, width) in [0, 1], and their names.
    """
    from diffodesic.output.images import read_image

    files = sorted((Path(__file__).parent / "assets" / "photographs").glob("*.png"))
    images = [read_image(file, (3, height, width))[0] for file in files]
    return torch.stack(images), tuple(file.stem for file in files)


def shipped_digits() -> tuple[Tensor, Tensor]:
    """The 100 held-out digits of the package: images (100, 1, 28, 28) in [0, 1], labels (100,)."""
    from safetensors.torch import load_file

    digits = load_file(Path(__file__).parent / "assets" / "digits.safetensors")
    return digits["images"].unsqueeze(1).float() / 255, digits["labels"].long()
