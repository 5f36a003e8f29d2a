r"""Approximate second derivatives of the energy of a path, and how to solve with them.

For ``E(x) = n/2 sum steps`` with both ends fixed and a metric g frozen along the path, the Hessian
is ``n D^T g D`` with D the differences of neighbours.  It is held in the form that its metric
allows, and solved at the price that this form allows:

- :class:`BlockDiagonal`: one number per block of coordinates and segment.  An (n-1) x (n-1)
  inverse for each block serves all its coordinates.
- :class:`BlockTridiagonal`: a full d x d tensor per segment; block Cholesky, O(n d^3).
- :class:`RankOneSum`: ``I + w sum_k s_k s_k^T`` (score metrics, 2505.11128).  With r the change of
  log-density along a segment, ``E = n/2 sum |u|^2 + w r^2`` has the Gauss-Newton Hessian
  ``n (T x I + w J^T J)``, T the path Laplacian, row i of J being (-s_i, +s_{i+1}): Woodbury, with a
  kernel of the size of the path, O(n^2 d).
- :class:`MatrixFree`: the metric known by its action only; preconditioned conjugate gradients.

All are batched over paths and know their place in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from diffodesic.numerics.linear import conjugate_gradient, filled, product

__all__ = [
    "BlockDiagonal",
    "BlockTridiagonal",
    "MatrixFree",
    "PathHessian",
    "RankOneSum",
    "bend",
    "dot",
    "inverse_laplacian",
    "laplacian",
]


@dataclass(frozen=True)
class PathHessian(ABC):
    """A positive approximation of the Hessian of B path energies, ends fixed."""

    @abstractmethod
    def solve(self, g: Tensor) -> Tensor:
        """Inverse applied to ``g`` (B, n+1, d) on the inner nodes; zero at the ends."""

    def __getitem__(self, keep: Tensor) -> PathHessian:
        """The paths ``keep`` of the batch."""
        return self._made(lambda part: part[keep])

    def where(self, mask: Tensor, other: PathHessian) -> PathHessian:
        """``self`` for the paths of ``mask`` (B,), else ``other``, of the same kind."""

        def mix(own: Tensor, others: Tensor) -> Tensor:
            return torch.where(mask.reshape(-1, *[1] * (own.ndim - 1)), own, others)

        return self._made(mix, other)

    @staticmethod
    def cat(parts: Sequence[PathHessian]) -> PathHessian:
        """Curvatures of the same kind as one batch."""
        return parts[0]._made(lambda *tensors: torch.cat(tensors), *parts[1:])

    def _made(self, of: Callable[..., Tensor], *others: PathHessian) -> PathHessian:
        """This one with every tensor, also of a curvature inside, made of it and the others'."""
        made: dict[str, Tensor | PathHessian] = {}
        for name in (item.name for item in fields(self)):
            own, *rest = (getattr(each, name) for each in (self, *others))
            if isinstance(own, Tensor):
                made[name] = of(own, *rest)
            elif isinstance(own, PathHessian):
                made[name] = own._made(of, *rest)
        return replace(self, **made)


def _inner(g: Tensor) -> Tensor:
    return g[:, 1:-1]


def _outer(inner: Tensor) -> Tensor:
    return torch.nn.functional.pad(inner, (0, 0, 1, 1))


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Sum of products over everything but the first axis, (B, ...) -> (B,)."""
    return (u * v).flatten(1).sum(-1)


def bend(delta: Tensor) -> Tensor:
    """From the gradient by differences (..., n, d) that by nodes: ``delta_{i-1} - delta_i``."""
    pad = torch.nn.functional.pad
    return pad(delta, (0, 0, 1, 0)) - pad(delta, (0, 0, 0, 1))


def _finite(metric: Tensor) -> Tensor:
    """The identity in place of the tensors (B, n, d, d) of a path that is not finite."""
    good = torch.isfinite(metric).flatten(1).all(-1)[:, None, None, None]
    one = torch.eye(metric.shape[-1], dtype=metric.dtype, device=metric.device)
    return torch.where(good, metric, one)


def laplacian(weights: Tensor) -> Tensor:
    """Matrix (..., n-1, n-1) of ``sum_i w_i (v_{i+1} - v_i)^2 / 2``, ends fixed; w (..., n) > 0."""
    matrix = torch.diag_embed(weights[..., :-1] + weights[..., 1:])
    if weights.shape[-1] > 2:
        off = torch.diag_embed(weights[..., 1:-1], offset=1)
        matrix = matrix - off - off.mT
    return matrix


def inverse_laplacian(weights: Tensor) -> Tensor:
    """Inverse (..., n-1, n-1) of :func:`laplacian`, to rounding in every entry.

    With ``left_i`` and ``right_i`` the sums of ``1/w`` on both sides of inner node i, the entry of
    i <= j is ``left_i right_j / sum 1/w``: that of a chain of springs, pushed at j and read at i.

    Returns:
        the inverse; sums of positive terms, so that nothing cancels.
    """
    slack = 1 / weights
    left = slack.cumsum(-1)[..., :-1]
    right = slack.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    first = torch.minimum(left.unsqueeze(-1), left.unsqueeze(-2))
    last = torch.minimum(right.unsqueeze(-1), right.unsqueeze(-2))
    # a share first, since the product of two large numbers may be infinite, of two small ones zero
    return first * (last / slack.sum(-1)[..., None, None])


@dataclass(frozen=True)
class BlockDiagonal(PathHessian):
    """One number per block of coordinates and segment."""

    inverse: Tensor  # (B, blocks, n-1, n-1)
    blocks: tuple[int, ...]  # sizes of the blocks

    @classmethod
    def of(cls, weights: Tensor, blocks: tuple[int, ...]) -> BlockDiagonal:
        """From weights (B, n, blocks), non-negative; those that rounding would lose are raised."""
        w = weights.double().movedim(-1, 1).nan_to_num(0.0, 0.0, 0.0)
        # a weight of zero would make the inverse infinite
        top = w.amax(-1, keepdim=True)
        w = torch.where(top > 0, torch.maximum(w, 1e-10 * top), 1.0)
        inverse = inverse_laplacian(w) / w.shape[-1]
        return cls(inverse.to(weights), blocks)

    def solve(self, g: Tensor) -> Tensor:
        """One product with an (n-1) x (n-1) matrix per block."""
        parts = _inner(g).split(self.blocks, -1)
        solved = [product(self.inverse[:, i], part) for i, part in enumerate(parts)]
        return _outer(torch.cat(solved, -1))


@dataclass(frozen=True)
class BlockTridiagonal(PathHessian):
    """A full tensor per segment."""

    pivots: Tensor  # lower Cholesky factors of the pivots, (B, n-1, d, d)
    links: Tensor  # what a pivot takes from its neighbour, ``L_{i-1}^-1 A_{i-1,i}``, (B, n-2, d, d)

    @classmethod
    def of(cls, metric: Tensor) -> BlockTridiagonal:
        """From symmetric metric tensors (B, n, d, d)."""
        # a trial path may lie where one of them is not positive to rounding; it will not be
        # accepted, and gets the identity
        n, dim = metric.shape[1], metric.shape[-1]
        kind = metric.dtype
        metric = _finite(metric.double())
        # keeps nearly degenerate tensors positive through the rounding of float64
        trace = metric.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        metric = metric + 1e-11 * trace * torch.eye(dim, dtype=metric.dtype, device=metric.device)
        diagonal = n * (metric[:, :-1] + metric[:, 1:])
        first, failed = torch.linalg.cholesky_ex(diagonal[:, 0])
        pivots, links, bad = [first], [], failed > 0
        for i in range(1, n - 1):
            link = torch.linalg.solve_triangular(pivots[-1], -n * metric[:, i], upper=False)
            links.append(link)
            pivot, failed = torch.linalg.cholesky_ex(diagonal[:, i] - link.mT @ link)
            pivots.append(pivot)
            bad = bad | (failed > 0)
        if bool(bad.any()):
            one = torch.eye(dim, dtype=metric.dtype, device=metric.device)
            return cls.of(torch.where(bad[:, None, None, None], one, metric).to(kind))
        none = metric.new_zeros(len(metric), 0, dim, dim)
        joined = torch.stack(links, 1) if links else none
        return cls(torch.stack(pivots, 1).to(kind), joined.to(kind))

    def solve(self, g: Tensor) -> Tensor:
        """Forward and backward substitution along the path."""
        rows = _inner(g).unsqueeze(-1).unbind(1)
        # contiguous, since the order of summation depends on where numbers lie
        pivots = [pivot.contiguous() for pivot in self.pivots.unbind(1)]
        found: list[Tensor] = []
        for i, row in enumerate(rows):
            if i:
                row = row - self.links[:, i - 1].mT @ found[-1]
            found.append(torch.linalg.solve_triangular(pivots[i], row.contiguous(), upper=False))
        for i in range(len(found) - 1, -1, -1):
            rest = found[i] - self.links[:, i] @ found[i + 1] if i + 1 < len(found) else found[i]
            found[i] = torch.linalg.solve_triangular(pivots[i].mT, rest.contiguous(), upper=True)
        return _outer(torch.stack(found, 1).squeeze(-1))


@dataclass(frozen=True)
class RankOneSum(PathHessian):
    """``I + w sum_k s_k s_k^T`` at every node."""

    scores: Tensor  # (B, n+1, K, d)
    kernel: Tensor  # Cholesky factor of ``1/w + J T^-1 J^T``, filled up, (B, n K, n K)
    inverse: Tensor  # ``T^-1``, (n-1, n-1), without the factor n

    @classmethod
    def of(cls, scores: Tensor, weight: float) -> RankOneSum:
        """From scores (B, n+1, K, d) and the weight w > 0 of each."""
        batch, n, rank = scores.shape[0], scores.shape[1] - 1, scores.shape[2]
        kind, scores = scores, scores.double()  # the kernel's condition is that of w |s|^2
        finite = torch.isfinite(scores).flatten(1).all(-1)
        scores = torch.where(finite[:, None, None, None], scores, 0.0)
        inverse = inverse_laplacian(torch.ones(n, dtype=torch.float64, device=scores.device))
        flat = scores[:, 1:-1].flatten(1, 2)
        gram = product(flat, flat.mT).unflatten(2, (n - 1, rank)).unflatten(1, (n - 1, rank))
        weighted = gram * inverse[:, None, :, None]
        full = torch.nn.functional.pad(weighted, (0, 0, 1, 1, 0, 0, 1, 1))
        kernel = full.diff(dim=1).diff(dim=3).reshape(batch, n * rank, n * rank)
        one = torch.eye(n * rank, dtype=kernel.dtype, device=kernel.device)
        floor = 1e-13 * kernel.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        factor = torch.linalg.cholesky(filled(kernel + one * (1 / weight + floor)))
        return cls(kind, factor, inverse.expand(batch, -1, -1))

    def solve(self, g: Tensor) -> Tensor:
        """Woodbury's identity."""
        n, kind = g.shape[1] - 1, g
        g, scores = g.double(), self.scores.double()
        plain = _outer(product(self.inverse, _inner(g)))
        change = (scores * plain.unsqueeze(2)).sum(-1).diff(dim=1)
        size = change[0].numel()
        right = torch.nn.functional.pad(change.flatten(1), (0, self.kernel.shape[-1] - size))
        held = torch.cholesky_solve(right.unsqueeze(-1), self.kernel)[:, :size, 0]
        back = (bend(held.reshape(change.shape)).unsqueeze(-1) * scores).sum(2)
        return ((plain - _outer(product(self.inverse, _inner(back)))) / n).to(kind)


@dataclass(frozen=True)
class MatrixFree(PathHessian):
    """A metric known by its action on vectors at the middle of each segment."""

    middle: Tensor  # where it is frozen, (B, n, d)
    flat: Callable[[Tensor, Tensor], Tensor]  # ``(points, vectors) -> g(points) vectors``
    scale: BlockDiagonal  # preconditioner
    iterations: int = 12  # limit of the conjugate gradients
    rtol: float = 0.1  # they stop when the residual is below this share of the right-hand side

    def solve(self, g: Tensor) -> Tensor:
        """Truncated conjugate gradients: any number of iterations gives a direction of descent."""
        n = g.shape[1] - 1

        def apply(p: Tensor) -> Tensor:
            return _outer(_inner(n * bend(self.flat(self.middle, p.diff(dim=1)))))

        found = conjugate_gradient(
            apply,
            _outer(_inner(g)),
            inverse=self.scale.solve,
            axes=2,
            rtol=self.rtol,
            iterations=self.iterations,
        )
        return found.x
