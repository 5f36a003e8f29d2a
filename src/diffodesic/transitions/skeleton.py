r"""What a structure must share with the molecule it is said to be: bonds, units and handedness.

A force field holds a molecule near its shape and does not know which molecule that is: two atoms
that change places, or a mirror image, relax to another molecule without an error.  So before a
structure is used, every bond must be within 30 % of its length in the force field, and every
centre with four different branches must have the handedness of the reference structure, the sign of

    v = det(u_1, u_2, u_3),        u_i = (x_i - x_0) / |x_i - x_0|,      |v| = .77 of a tetrahedron,

x_1 .. x_3 being the neighbours of lowest number.  Two branches are alike if refinement of the
molecule's graph by its elements (Morgan 1965) does not tell them apart: the hydrogens of a methyl.
Their labels carry no chemistry, but paths join structures by their labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Skeleton"]

_STRETCH = 0.3  # of a bond
_FLAT = 0.2  # |v| below which a centre has no handedness


@dataclass(frozen=True)
class Skeleton:
    """Bonds and centres of a molecule.

    Attributes:
        names: of the atoms (N), for messages.
        bonds: pairs of atoms (m, 2).
        lengths: of the bonds (m,), nm.
        centres: atoms with four neighbours, and these in order, (k, 5).
        kinds: which atoms are alike, one number each (N,).
        hands: v of each centre in the reference structure (k,).
    """

    names: Sequence[str]
    bonds: Tensor
    lengths: Tensor
    centres: Tensor
    kinds: Tensor
    hands: Tensor

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        elements: Sequence[str],
        lengths: Mapping[tuple[int, int], float],
        reference: Tensor,
    ) -> Skeleton:
        """The skeleton of a molecule.

        Args:
            names: of the atoms (N).
            elements: of the atoms (N).
            lengths: length of every bond (i, j), i < j, in nm.
            reference: the structure (3N,) that has the handedness of the molecule, nm.

        Returns:
            the skeleton.
        """
        near: list[list[int]] = [[] for _ in names]
        for i, j in sorted(lengths):
            near[i].append(j)
            near[j].append(i)
        four = [[i, *sorted(close)] for i, close in enumerate(near) if len(close) == 4]
        centres = torch.tensor(four, dtype=torch.long).reshape(-1, 5)
        return cls(
            tuple(names),
            torch.tensor(sorted(lengths), dtype=torch.long).reshape(-1, 2),
            torch.tensor([lengths[pair] for pair in sorted(lengths)], dtype=torch.float64),
            centres,
            torch.tensor(_alike(elements, near)),
            _hands(reference, centres),
        )

    def check(self, x: Tensor, where: str) -> None:
        """Refuse a structure of another molecule.

        Args:
            x: structure (3N,), nm.
            where: what the structure is, for the message.

        Raises:
            ValueError: naming the atoms, for coordinates that are not finite, a bond that is 30 %
                off its length, or a centre of the other handedness.
        """
        points = x.detach().double().reshape(-1, 3)
        wrong = ~points.isfinite().all(-1)
        if bool(wrong.any()):
            atom = int(wrong.nonzero()[0])
            raise ValueError(f"{where}: {self._atom(atom)} has coordinates that are not finite")
        self._check_bonds(points, where)
        hands = _hands(points, self.centres)
        for centre, hand, ours in zip(self.centres.tolist(), hands, self.hands, strict=True):
            if self._distinct(centre) and float(hand * ours.sign()) < _FLAT:
                shape = "flat" if float(hand.abs()) < _FLAT else "of the other handedness"
                raise ValueError(
                    f"{where}: the four neighbours of {self._atom(centre[0])}, "
                    f"{', '.join(self.names[i] for i in centre[1:])}, are {shape}; give a "
                    "structure that is no mirror image, with the atoms in the order of the topology"
                )

    def relabelled(self, a: Tensor, b: Tensor) -> tuple[str, ...]:
        """Phrases on like atoms whose labels are exchanged between two structures (3N,)."""
        hands = [_hands(x.detach().double().reshape(-1, 3), self.centres) for x in (a, b)]
        found = []
        for centre, product in zip(self.centres.tolist(), hands[0] * hands[1], strict=True):
            if float(product) < 0 and not self._distinct(centre):
                kinds = Counter(self.kinds[centre[1:]].tolist())
                like = [self.names[i] for i in centre[1:] if kinds[int(self.kinds[i])] > 1]
                found.append(
                    f"{', '.join(like)} at {self._atom(centre[0])} are labelled in another sense "
                    "in the two states"
                )
        return tuple(found)

    def _check_bonds(self, points: Tensor, where: str) -> None:
        if not len(self.bonds):
            return
        found = (points[self.bonds[:, 0]] - points[self.bonds[:, 1]]).norm(dim=-1)
        ratio = found / self.lengths
        off = torch.maximum(ratio, 1 / ratio)
        if float((ratio - 1).abs().max()) <= _STRETCH:
            return
        worst = int(off.argmax())
        i, j = self.bonds[worst].tolist()
        typical = float(ratio.median())
        if abs(typical - 1) > _STRETCH:
            cure = (
                f"bonds are {typical:.2g} times as long as they should be: files hold angstroms, "
                "tensors nanometres"
            )
        else:
            cure = "give the atoms in the order of the topology, and the molecule in one piece"
        raise ValueError(
            f"{where}: {self._atom(i)} and {self._atom(j)} are {float(found[worst]):.3g} nm apart "
            f"and their bond is {float(self.lengths[worst]):.3g} nm long; {cure}"
        )

    def _distinct(self, centre: list[int]) -> bool:
        return len(set(self.kinds[centre[1:]].tolist())) == 4

    def _atom(self, i: int) -> str:
        return f"atom {i + 1} ({self.names[i]})"


def _alike(elements: Sequence[str], near: list[list[int]]) -> list[int]:
    """Classes of atoms by element and, again and again, by the classes of their neighbours."""
    kinds = _numbered(list(elements))
    while True:
        finer = _numbered(
            [
                (kind, tuple(sorted(kinds[j] for j in close)))
                for kind, close in zip(kinds, near, strict=True)
            ]
        )
        if len(set(finer)) == len(set(kinds)):
            return finer
        kinds = finer


def _numbered(things: Sequence[object]) -> list[int]:
    """One number for each different thing."""
    numbers: dict[object, int] = {}
    return [numbers.setdefault(thing, len(numbers)) for thing in things]


def _hands(points: Tensor, centres: Tensor) -> Tensor:
    """The handedness v of each centre (k,); see above."""
    points = points.reshape(-1, 3)
    arms = points[centres[:, 1:4]] - points[centres[:, :1]]
    return torch.linalg.det(arms / arms.norm(dim=-1, keepdim=True))
