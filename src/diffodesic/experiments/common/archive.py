"""Many photographs in one file: their encoded bytes, where each begins, and what is known of it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Archive"]


@dataclass(frozen=True)
class Archive:
    """Encoded pictures in one file, and what is known of each."""

    data: bytes
    arrays: Mapping[str, Any]  # ``offsets`` of the pictures in the data, and their labels

    @classmethod
    def read(cls, path: Path) -> Archive:
        """An .npz file; ValueError where it is not there."""
        import numpy as np

        if not path.is_file():
            raise ValueError(f"{path} is not there; give the folder that holds it as --data")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return cls(found.pop("data").tobytes(), found)

    def pictures(self, rows: Iterable[Any], size: tuple[int, int]) -> Tensor:
        """Pictures of some rows in bytes, resampled (Lanczos) to a size (H, W), (R, 3, H, W)."""
        import numpy as np
        from PIL import Image

        (height, width), offsets, pictures = size, self.arrays["offsets"], []
        for row in rows:
            with Image.open(io.BytesIO(self.data[offsets[row] : offsets[row + 1]])) as picture:
                fitted = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            pictures.append(torch.from_numpy(np.array(fitted)).movedim(-1, 0))
        return torch.stack(pictures)
