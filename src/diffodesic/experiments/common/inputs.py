"""Inputs that several experiments take: models of digits, MNIST, weights of an extractor."""

from __future__ import annotations

from pathlib import Path

from diffodesic.experiments.experiment import Context
from diffodesic.images.features import Features, load_features
from diffodesic.models.loading import load
from diffodesic.models.model import Model

__all__ = ["digit_model", "mnist_folder", "squeezenet"]


def digit_model(context: Context) -> Model:
    """The context's model, which must be of 28 x 28 digits; ValueError for another."""
    model = load(context.model, device=context.device)
    if model.codec.shape != (1, 28, 28):
        raise ValueError(f"the model's pictures are {model.codec.shape}; this takes (1, 28, 28)")
    return model


def mnist_folder(data: Path) -> Path:
    """The folder of MNIST: ``mnist`` in the folder of data, or that folder itself."""
    return data / "mnist" if (data / "mnist").is_dir() else data


def squeezenet(data: Path, device: str) -> Features:
    """The extractor whose weights lie in the folder of data."""
    return load_features(f"squeezenet:{data / 'squeezenet' / 'SqueezeNet_fp16.onnx'}", device)
