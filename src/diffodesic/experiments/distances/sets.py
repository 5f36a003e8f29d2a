"""Sets of pictures, and which neighbour of a picture is the right one.

digits       test digits of MNIST; right is a digit of the same class
turntable    objects on a turntable, photographed every few degrees; right are the two next
poses, among all other poses of the same object
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffodesic.experiments.common.archive import Archive
from diffodesic.experiments.common.inputs import mnist_folder
from diffodesic.models.datasets import held_out, load_mnist
from diffodesic.models.model import Model

__all__ = ["PictureSet", "digits", "turntable"]

POSES = 120  # of a full turn, in the file


@dataclass(frozen=True)
class PictureSet:
    """Pictures with a question: which is nearest to each?

    Attributes:
        name: of the set.
        model: of such pictures.
        images: (N, C, H, W) in [0, 1], float64.
        asked: which pictures are candidates for which, (N, N), symmetric.
        right: which of these are right answers, (N, N).
        question: what a right answer is, in words.
    """

    name: str
    model: Model
    images: Tensor
    asked: Tensor
    right: Tensor
    question: str

    @property
    def pairs(self) -> Tensor:
        """All pairs of candidates (P, 2), the smaller index first."""
        return self.asked.triu(1).nonzero()

    def triples(self, count: int, seed: int) -> Tensor:
        """Pictures with a right and a wrong candidate each, drawn at random, (count, 3)."""
        generator = torch.Generator().manual_seed(seed)
        first = torch.randperm(len(self.images), generator=generator)

        def drawn(allowed: Tensor) -> Tensor:
            return torch.multinomial(allowed[first].double(), 1, generator=generator)[:, 0]

        # drawn for all pictures: fewer triples are the first of more
        every = torch.stack([first, drawn(self.right), drawn(self.asked & ~self.right)], 1)
        return every[:count]


def digits(model: Model, data: Path, each: int) -> PictureSet:
    """The first ``each`` test digits of every class."""
    images, labels = load_mnist(mnist_folder(data), "test")
    kept = held_out(labels, each)
    images, labels = (images[kept].double() + 1) / 2, labels[kept]
    other = ~torch.eye(len(labels), dtype=torch.bool)
    same = (labels[:, None] == labels) & other
    return PictureSet("digits", model, images, other, same, "of the same class")


def turntable(model: Model, data: Path, objects: int, every: int) -> PictureSet:
    """Every ``every``-th pose of the first ``objects`` objects."""
    poses = range(0, POSES, every)
    rows = [POSES * thing + pose for thing in range(objects) for pose in poses]
    images = Archive.read(data / "fruit_turntable" / "images.npz").images(rows, model)
    thing = torch.arange(objects).repeat_interleave(len(poses))
    pose = torch.arange(len(poses)).repeat(objects)
    asked = (thing[:, None] == thing) & ~torch.eye(len(rows), dtype=torch.bool)
    apart = (pose[:, None] - pose).abs()
    right = asked & ((apart == 1) | (apart == len(poses) - 1))
    name = "the pose before or after it"
    return PictureSet("turntable", model, images, asked, right, name)
