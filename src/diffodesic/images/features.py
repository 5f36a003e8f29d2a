r"""Feature extractors by name: numbers from one never stand beside numbers from another.

    digit-classifier-1     96 features of a classifier of turned digits, shipped (28x28, grey)
    squeezenet:FILE        the convolutions of SqueezeNet 1.1 (Iandola et al. 2016, ImageNet), from
                           an ONNX file

The distance of two pictures in SqueezeNet is the sum over seven layers of the mean over pixels of

    |u - v|^2,     u, v: features scaled to unit length over the channels

(the form of Zhang et al. 2018, unweighted).  It is not LPIPS and is not called so: the weights that
were learned for LPIPS belong to other trainings of these networks, and would mean nothing here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.images.digit_classifier import NAME, load_classifier

__all__ = ["Digits", "Features", "FeaturesError", "SqueezeNet", "load_features"]

BATCH = 256  # pictures in one call


class FeaturesError(ValueError):
    """An extractor is missing or cannot take these pictures; the message says what to change."""


class Features(ABC):
    """A named extractor of features of pictures (N, C, H, W) in [0, 1].

    Attributes:
        name: what every number made with it carries.
        size: number of pooled features F.
        distance_name: what :meth:`distance` is called.
    """

    name: str
    size: int
    distance_name: str

    @abstractmethod
    def pooled(self, images: Tensor) -> Tensor:
        """One vector per picture, (N, F), for distances between sets."""

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of pictures a and b, (N, C, H, W) each, (N,)."""

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of all pairs of pictures a (N, C, H, W) and b (M, C, H, W), (N, M).

        Args:
            a: pictures.
            b: pictures.

        Returns:
            the distances.

        Cost: that of :meth:`distance` of ``N M`` pairs; a subclass does better.
        """
        pairs = a.repeat_interleave(len(b), 0), b.repeat(len(a), 1, 1, 1)
        return self.distance(*pairs).unflatten(0, (len(a), len(b)))


class Digits(Features):
    """The shipped classifier of turned digits; its distance is Euclid's in 96 features.

    Args:
        device: where it runs.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.name, self.size, self.device = NAME, 96, torch.device(device)
        self.distance_name = f"feature distance ({NAME})"
        self._network = load_classifier().to(device)

    def pooled(self, images: Tensor) -> Tensor:
        """Features (N, 96) of digits (N, 1, 28, 28)."""
        if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
            raise FeaturesError(
                f"{NAME} takes grey pictures of 28x28, not {tuple(images.shape[1:])}; choose "
                "squeezenet:FILE"
            )
        with torch.inference_mode():
            batches = (x.to(self.device).float() for x in images.split(BATCH))
            parts = [self._network.features(x * 2 - 1) for x in batches]
        return torch.cat(parts)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Euclidean distance of the features, (N,)."""
        return (self.pooled(a) - self.pooled(b)).norm(dim=-1)

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Euclidean distances of the features, (N, M); one pass per picture."""
        return torch.cdist(self.pooled(a), self.pooled(b))


class SqueezeNet(Features):
    """The trunk of SqueezeNet 1.1.

    Pictures with a side below 64 pixels are enlarged to it; grey ones are repeated.

    Args:
        path: an ONNX file with the weights of the Caffe model, which take BGR in 0..255.
        device: where it runs.

    Raises:
        FeaturesError: if a file is missing or holds something else, or the package ``onnx`` is not
            there.
    """

    WIDTHS = (64, 128, 256, 384, 384, 512, 512)

    def __init__(self, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> None:
        self._trunk = _Trunk()
        _fill(self._trunk, Path(path))
        self._trunk.to(device)
        self.name, self.size, self.device = "squeezenet-1.1", 512, torch.device(device)
        self.distance_name = f"feature distance, unweighted ({self.name})"

    def pooled(self, images: Tensor) -> Tensor:
        """Features of the last layer averaged over pixels, (N, 512)."""
        return torch.cat([layers[-1].mean((-2, -1)) for layers in self._layers(images)])

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum over layers as in the file's first lines, (N,)."""
        parts = []
        for first, second in zip(self._layers(a), self._layers(b), strict=True):
            total = torch.zeros(len(first[0]), device=self.device)
            for u, v in zip(first, second, strict=True):
                total = total + (_unit(u) - _unit(v)).square().sum(1).mean((-2, -1))
            parts.append(total)
        return torch.cat(parts)

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Sums over layers of all pairs, (N, M); one pass, and 0.5 MB at 64 pixels, per picture."""
        return torch.cdist(self._embedded(a), self._embedded(b)).square()

    def _embedded(self, images: Tensor) -> Tensor:
        """Vectors (N, E) whose squared Euclidean distance is :meth:`distance`."""
        parts = []
        for layers in self._layers(images):
            sized = [_unit(u) / (u.shape[-1] * u.shape[-2]) ** 0.5 for u in layers]
            parts.append(torch.cat([u.flatten(1) for u in sized], 1))
        return torch.cat(parts)

    def _layers(self, images: Tensor) -> Iterator[list[Tensor]]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise FeaturesError(
                f"{self.name} takes pictures of 1 or 3 channels, not {tuple(images.shape[1:])}"
            )
        for x in images.split(BATCH):
            x = x.to(self.device).float().expand(-1, 3, -1, -1)
            least = min(x.shape[-2:])
            if least < 64:
                size = [round(64 * side / least) for side in x.shape[-2:]]
                x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
            with torch.inference_mode():  # over before the caller goes on
                layers = self._trunk(x)
            yield layers


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, half: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, half, 1)
        self.expand3x3 = nn.Conv2d(squeezed, half, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze1x1(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class _Trunk(nn.Module):
    """The convolutions, with the names of the Caffe model; RGB in [0, 1] in, seven layers out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        sizes = ((64, 16), (128, 16), (128, 32), (256, 32), (256, 48), (384, 48), (384, 64))
        for i, (inputs, squeezed) in enumerate((*sizes, (512, 64)), 2):
            self.add_module(f"fire{i}", _Fire(inputs, squeezed, 4 * squeezed))

    def forward(self, x: Tensor) -> list[Tensor]:
        # the mean is not taken off: so the file's own stored output is met, to its three digits
        x = F.relu(self.conv1(255 * x.flip(1)))
        layers = [x]
        for i in range(2, 10):
            if i in (2, 4, 6):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self.get_submodule(f"fire{i}")(x)
            if i in (3, 5, 6, 7, 8, 9):
                layers.append(x)
        return layers


def load_features(source: str | Features, device: torch.device | str = "cpu") -> Features:
    """An extractor by its name.

    Args:
        source: ``digit-classifier-1``, ``squeezenet:FILE``, or an extractor, which is returned.
        device: where it runs; it takes pictures from anywhere.

    Returns:
        the extractor.

    Raises:
        FeaturesError: for an unknown name or files that are missing: nothing else is taken instead.
    """
    if isinstance(source, Features):
        return source
    name, _, file = source.partition(":")
    if name == NAME:
        return Digits(device)
    if name == "squeezenet" and file:
        return SqueezeNet(file, device)
    raise FeaturesError(
        f"unknown feature extractor {source!r}; choose {NAME} or squeezenet:FILE.onnx"
    )


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=1, keepdim=True) + 1e-10)


def _fill(trunk: _Trunk, path: Path) -> None:
    """Copy the initialisers of an ONNX file into the trunk."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise FeaturesError(
            "reading SqueezeNet needs the package onnx: pip install 'diffodesic[evaluate]'"
        ) from error
    if not path.is_file():
        raise FeaturesError(f"{path} is not there; give the ONNX file of SqueezeNet 1.1")
    try:
        graph: Any = onnx.load(path).graph
        weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        trunk.load_state_dict({name: weights[_caffe(name)].float() for name in trunk.state_dict()})
    except Exception as error:
        raise FeaturesError(
            f"{path} does not hold the weights of SqueezeNet 1.1 ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); give its ONNX file"
        ) from error
    trunk.eval().requires_grad_(False)


def _caffe(name: str) -> str:
    """``fire2.squeeze1x1.weight`` is called ``fire2/squeeze1x1_w_0`` there."""
    *layer, kind = name.split(".")
    return "/".join(layer) + f"_{kind[0]}_0"
