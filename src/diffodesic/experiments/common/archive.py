"""Archives of photographs: encoded pictures in one file, one after another, with their labels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffodesic.models.model import Model

__all__ = ["Archive"]


@dataclass(frozen=True)
class Archive:
    """Encoded pictures, and what is known of each.

    Attributes:
        data: the pictures.
        arrays: ``offsets`` of the pictures in the data, and their labels.
    """

    data: bytes
    arrays: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Archive:
        """Read an archive.

        Args:
            path: an .npz file with ``data``, ``offsets`` and labels of any name.

        Returns:
            the archive.

        Raises:
            ValueError: without the file.
        """
        import numpy as np

        if not path.is_file():
            raise ValueError(f"{path} is not there; give the folder that holds it as --data")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return cls(found.pop("data").tobytes(), found)

    def pictures(self, rows: Iterable[Any], height: int, width: int | None = None) -> Tensor:
        """Some pictures, resampled (Lanczos).

        Args:
            rows: their places.
            height: in pixels.
            width: in pixels; default the height.

        Returns:
            bytes (R, 3, height, width).
        """
        import numpy as np
        from PIL import Image

        offsets, size, pictures = self.arrays["offsets"], (width or height, height), []
        for row in rows:
            with Image.open(io.BytesIO(self.data[offsets[row] : offsets[row + 1]])) as picture:
                fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            pictures.append(torch.from_numpy(np.array(fitted)).movedim(-1, 0))
        return torch.stack(pictures)

    def images(self, rows: Iterable[Any], model: Model) -> Tensor:
        """Some pictures as a model takes them.

        Args:
            rows: their places.
            model: whose codec says the shape.

        Returns:
            (R, 3, H, W) in [0, 1], float64.

        Raises:
            ValueError: for a model of grey pictures.
        """
        channels, height, width = model.codec.shape
        if channels != 3:
            raise ValueError(
                f"the model's pictures are {model.codec.shape}; photographs need one in colour"
            )
        return self.pictures(rows, height, width).double() / 255
