"""Models: a denoiser, a codec and a name; loading, training and foreign families."""

from diffodesic.models.adapters.diffusers import from_pipeline
from diffodesic.models.codec import Codec, PixelCodec
from diffodesic.models.datasets import shipped_digits, shipped_photographs
from diffodesic.models.loading import available, load
from diffodesic.models.model import Model, ModelError

__all__ = [
    "Codec",
    "Model",
    "ModelError",
    "PixelCodec",
    "available",
    "from_pipeline",
    "load",
    "shipped_digits",
    "shipped_photographs",
]
