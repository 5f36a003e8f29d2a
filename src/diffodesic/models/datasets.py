"""Images from disk as tensors (N, C, H, W) in [-1, 1], MNIST, and rotations of images.

An image turned by an angle a about its centre has at pixel p the bilinear interpolation of the
image at R(-a) p, and black where that lies outside. MNIST's digits fit a 20x20 box whose half
diagonal, 14.1 pixels, is half the side of the image, so that no angle cuts them off.
"""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "held_out",
    "load_images",
    "load_mnist",
    "read_idx",
    "rotate",
    "shipped_digits",
]


MNIST = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def load_images(source: str | os.PathLike[str]) -> Tensor:
    """Read images as a float tensor (N, C, H, W) in [-1, 1].

    Args:
        source: a folder with MNIST's `train-images-idx3-ubyte.gz`; a folder of image files of
            one size; a .npy file, or the first array of a .npz file, of shape (N, H, W) or
            (N, H, W, C), of bytes or of floats already in [-1, 1].

    Returns:
        the images.

    Raises:
        FileNotFoundError: if there is nothing there.
        ValueError: if it is no set of images.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give a folder of images or a .npy/.npz file.")
    if path.is_dir():
        idx = path / MNIST["train"][0]
        array = read_idx(idx) if idx.exists() else _read_folder(path)
    elif path.suffix in {".npy", ".npz"}:
        array = _read_array(path)
    else:
        raise ValueError(f"{path} is neither a folder nor a .npy/.npz file: convert it to one.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in {1, 3} or len(array) == 0:
        raise ValueError(
            f"the data have shape {tuple(array.shape)}: give (N, H, W) or (N, H, W, C), C = 1 or 3."
        )
    images = array.permute(0, 3, 1, 2).contiguous()
    return unit(images) if images.dtype == torch.uint8 else images.float()


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
    try:
        raw = bytearray(gzip.decompress(Path(path).read_bytes()))
        sizes = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
        start = 4 + 4 * len(sizes)
        return torch.frombuffer(raw, dtype=torch.uint8, offset=start).reshape(sizes)
    except (OSError, EOFError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a gzipped IDX file of bytes: download it anew.") from error


def _read_array(path: Path) -> Tensor:
    import numpy as np

    try:
        content = np.load(path, allow_pickle=False)
        array: np.ndarray = content if path.suffix == ".npy" else content[content.files[0]]
        return torch.from_numpy(np.ascontiguousarray(array))
    except (OSError, EOFError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no array of numbers: save it with numpy.save.") from error


def _read_folder(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image

    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in PICTURES)
    if not files:
        raise FileNotFoundError(f"no image in {path}: give a folder of PNG or JPEG files.")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                pictures.append(
                    np.array(picture if picture.mode == "L" else picture.convert("RGB"))
                )
        except OSError as error:
            raise ValueError(f"{file} cannot be read as an image: remove it.") from error
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError(f"the images in {path} differ in size or colour: bring them to one kind.")
    return torch.from_numpy(np.stack(pictures))


def shipped_digits() -> tuple[Tensor, Tensor]:
    """The 100 held-out digits of the package: images (100, 1, 28, 28) in [0, 1], labels (100,)."""
    from safetensors.torch import load_file

    digits = load_file(Path(__file__).parent / "assets" / "digits.safetensors")
    return digits["images"].unsqueeze(1).float() / 255, digits["labels"].long()
