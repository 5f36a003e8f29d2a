"""A first path through data: the shortest one in their graph of nearest neighbours.

A solver finds the minimum near its start, and between ends far apart the start matters more than
the metric.  Edges join every point to its nearest neighbours, as long as the metric finds the
segment between them; Dijkstra's algorithm finds the path.
"""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.numerics import checks

__all__ = ["graph_path"]

_TILE = 1024  # rows of the table of distances held at once


def graph_path(
    metric: Metric, data: Tensor, a: Tensor, b: Tensor, *, neighbours: int = 8
) -> Tensor:
    """Shortest path from ``a`` to ``b`` through points of a data set.

    Give it to ``geodesic(..., init=path)``.

    Args:
        metric: measures the edges.
        data: points (N, d), noised as the metric wants them.
        a: start (d,).
        b: end (d,).
        neighbours: edges from each point, to its nearest by Euclidean distance.

    Returns:
        (k+1, d), ``a`` first and ``b`` last, k >= 1.

    Raises:
        TypeError: for complex numbers.
        ValueError: for shapes that do not fit, points that are not finite, a metric that is not
            finite on an edge, or a graph that does not join the ends.

    Cost: one segment of the metric per edge, ``N neighbours`` at most.
    """
    given = (("data", data), ("a", a), ("b", b))
    what = "the dimension of the metric"
    data, a, b = (checks.points(x, name, metric.dim, what) for name, x in given)
    a, b = checks.pair(a, b)
    if data.ndim != 2 or a.shape != b.shape or a.shape != data.shape[1:]:
        raise ValueError(
            f"data must be (N, d) and the ends (d,), got {tuple(data.shape)}, {tuple(a.shape)} "
            f"and {tuple(b.shape)}"
        )
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    points = torch.cat([a.unsqueeze(0), b.unsqueeze(0), data.to(a)])
    count = min(neighbours, len(points) - 1)
    near = [
        # the first of them is the point itself, or one at the same place
        torch.cdist(part, points).topk(count + 1, largest=False).indices[:, 1:]
        for part in points.split(_TILE)
    ]
    first = torch.arange(len(points), device=a.device).repeat_interleave(count)
    pairs = torch.stack([first, torch.cat(near).flatten()], 1).sort(1).values.unique(dim=0)
    with torch.no_grad():
        steps = [metric.squared_steps(points[part])[:, 0] for part in pairs.split(_TILE)]
    lengths = torch.cat(steps).clamp(min=0).sqrt()
    if not bool(torch.isfinite(lengths).all()):
        raise ValueError("the metric is not finite on an edge of the graph; check the data")
    way = _shortest(pairs.tolist(), lengths.tolist(), len(points))
    if not way:
        raise ValueError(
            f"the graph of {count} neighbours does not join the ends; raise neighbours, or give "
            "data that lie between them"
        )
    return points[way]


def _shortest(pairs: list[list[int]], lengths: list[float], count: int) -> list[int]:
    """Places on the way from point 0 to point 1, or nothing."""
    edges: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for (i, j), length in zip(pairs, lengths, strict=True):
        edges[i].append((j, length))
        edges[j].append((i, length))
    best, before = [math.inf] * count, [-1] * count
    best[0], heap = 0.0, [(0.0, 0)]
    while heap:
        reach, i = heapq.heappop(heap)
        if i == 1:
            break
        for j, length in edges[i] if reach <= best[i] else []:
            if reach + length < best[j]:
                best[j], before[j] = reach + length, i
                heapq.heappush(heap, (best[j], j))
    if math.isinf(best[1]):
        return []
    way = [1]
    while way[-1] != 0:
        way.append(before[way[-1]])
    return way[::-1]
