"""A digit classifier: the named feature extractor of the Frechet distances on digits.

Inception's features say little about 28x28 grey digits, so distances between sets of digits are
taken in the features of a network that knows them: 96 numbers before the last layer of a
classifier of turned digits. Numbers from it compare only with numbers from the same weights; the
weights therefore ship with the library and are called `digit-classifier-1`.

The network is 4 convolutions with SiLU, 28 -> 14 -> 7 -> 4, then 1024 -> 96 -> 10; `tools` holds
its training.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from diffodesic.models.folder import read_config, read_weights

__all__ = ["ASSETS", "NAME", "DigitClassifier", "load_classifier"]

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
        folder: where ``tools.digit_classifier`` wrote one.

    Returns:
        the classifier, with frozen weights.

    Raises:
        ModelError: if there is none, or it is damaged.
    """
    place = Path(folder or ASSETS)
    network = DigitClassifier()
    read_weights(network, place, read_config(place))
    return network.eval().requires_grad_(False)
