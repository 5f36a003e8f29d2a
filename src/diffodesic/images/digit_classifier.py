"""A digit classifier: the named feature extractor of the Frechet distances on digits.

Inception's features say little about 28x28 grey digits, so distances between sets of digits are
taken in the features of a network that knows them: 96 numbers before the last layer of a
classifier of turned digits. Numbers from it compare only with numbers from the same weights; the
weights therefore ship with the library and are called `digit-classifier-1`.

The network is 4 smooth convolutions, 28 -> 14 -> 7 -> 4, then 1024 -> 96 -> 10. It minimises the
cross-entropy with smoothed labels (.1), with Adam and one cosine of the learning rate.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.models.datasets import load_mnist, rotate
from diffodesic.models.folder import write_model

__all__ = ["DigitClassifier", "load_classifier", "train_classifier"]

NAME = "digit-classifier-1"
ASSETS = Path(__file__).parent / "assets" / "digit_classifier"


class DigitClassifier(nn.Module):
    """Classify digits of shape (N, 1, 28, 28) in [-1, 1].

    Attributes:
        num_features: the number of features, 96.
    """

    num_features: int = 96

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 24, 1), (24, 32, 2), (32, 64, 2), (64, 64, 2)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in sizes:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
                nn.GroupNorm(8, outputs),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, self.num_features))
        self.head = nn.Linear(self.num_features, 10)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of x, shape (N, 96)."""
        return F.silu(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the ten classes, shape (N, 10)."""
        return self.head(self.features(x))


def load_classifier(folder: str | os.PathLike[str] | None = None) -> DigitClassifier:
    """Load the classifier, by default the one that ships with the library.

    Args:
        folder: where `train_classifier` wrote one.

    Returns:
        the classifier, with frozen weights.

    Raises:
        FileNotFoundError: if there is none.
    """
    from safetensors.torch import load_file

    path = Path(folder or ASSETS) / "weights.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no classifier at {path}: train one with train_classifier.")
    network = DigitClassifier()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def train_classifier(
    data: str | os.PathLike[str],
    outdir: str | os.PathLike[str] = ASSETS,
    *,
    epochs: int = 3,
    batch: int = 128,
    lr: float = 2e-3,
    rotation: float = 90.0,
    seed: int = 0,
) -> float:
    """Train the classifier on MNIST's turned training digits and write it with its card.

    Args:
        data: the folder of MNIST's four .gz files.
        outdir: receives weights.safetensors, config.json and CARD.md.
        epochs: passes over the training set.
        batch: digits per step.
        lr: peak learning rate.
        rotation: digits are turned by uniform angles in [-rotation, rotation] degrees.
        seed: the seed of everything.

    Returns:
        the accuracy on turned test digits.

    Cost: about two minutes on two cores.
    """
    images, labels = load_mnist(data)
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitClassifier()
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.1)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=g)
        for index in order[: len(order) // batch * batch].split(batch):
            x = rotate(images[index], (2 * torch.rand(batch, generator=g) - 1) * rotation)
            loss = F.cross_entropy(network(x), labels[index], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return _write(network.eval(), Path(outdir), data, rotation, epochs, seed)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the network classifies as labelled."""
    with torch.no_grad():
        guesses = [network(x).argmax(1) for x in images.split(500)]
    return float((torch.cat(guesses) == labels).float().mean())


def _write(
    network: DigitClassifier,
    outdir: Path,
    data: str | os.PathLike[str],
    rotation: float,
    epochs: int,
    seed: int,
) -> float:
    images, labels = load_mnist(data, "test")
    g = torch.Generator().manual_seed(seed + 1)
    turned = rotate(images, (2 * torch.rand(len(images), generator=g) - 1) * rotation)
    scores = {
        "upright": accuracy(network, images, labels),
        "turned": accuracy(network, turned, labels),
    }
    config = {"name": NAME, "features": network.num_features, "rotation": rotation,
              "epochs": epochs, "seed": seed, "held_out_accuracy": scores}  # fmt: skip
    card = _CARD.format(rotation=rotation, epochs=epochs, **scores)
    write_model(outdir, config, network, card=card)
    return scores["turned"]


_CARD = """# digit-classifier-1

A small convolutional classifier of 28x28 digits in [-1, 1], used for its 96 penultimate features:
the named feature extractor of this library's Frechet distances on digits. Distances compare only
with distances from these weights.

- Training: MNIST's 60,000 training digits, turned by uniform angles in +-{rotation:g} degrees,
  {epochs} epochs, cross-entropy with smoothed labels, `train_classifier(DATA)`.
- Held-out accuracy (10,000 test digits): {upright:.2%} upright, {turned:.2%} turned. Turned digits
  are ambiguous in part: a 6 turned by 90 degrees and a 9 turned by -90 degrees are one picture.
- Not for: reading real documents, or judging anything but grey digits in this format.
- Data: MNIST, by Yann LeCun, Corinna Cortes and Christopher Burges. No formal licence, commonly
  given as CC BY-SA 3.0.
"""
