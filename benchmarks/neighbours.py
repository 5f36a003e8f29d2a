"""Nearest neighbours of 8 x 8 digits: recall, and solved pairs of all  (docs/edit-distance.md).

    python -m benchmarks.neighbours [COUNT] [CHECK]

The law is the exact mixture around 100 digits, COUNT (200) others are the points, all pairs of
CHECK (8) of them are solved for the recall.  Then the candidates of 10,000 samples of the law are
counted, which bounds the pairs that would be solved, without solving any.
"""

from __future__ import annotations

import sys
import time

import torch

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.editing import anchored
from diffodesic.images.neighbours import CANDIDATES, candidates_of, entropies, nearest

K, BANDWIDTH, MANY = 5, 0.15, 10_000


def main(count: int = 200, check: int = 8) -> None:
    """Measure, and print two lines."""
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().data / 8 - 1, dtype=torch.float64)
    digits = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))]
    law, points = GaussianMixture.from_data(digits[-100:], BANDWIDTH), digits[:count]
    began = time.process_time()
    found = nearest(law, points, K, check=check)
    print(
        f"{count} digits: {found.solved:,} of {found.pairs:,} pairs solved, recall of {K} nearest "
        f"{found.recall} of {check}, {time.process_time() - began:.0f} s of one core"
    )
    many = law.sample(MANY, generator=torch.Generator().manual_seed(1))
    nearby = candidates_of(entropies(*anchored(law, many)), CANDIDATES * K).isfinite()
    pairs, every = int((nearby | nearby.T).sum()) // 2, MANY * (MANY - 1) // 2
    print(f"{MANY:,} samples: {pairs:,} candidates of {every:,} pairs, 1 of {every / pairs:.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
