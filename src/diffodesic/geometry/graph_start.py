"""First paths through data, by Dijkstra's algorithm.

A solver finds the minimum near its start, and between ends far apart the start matters more than
the metric.  :func:`graph_path` takes the shortest path in the graph of nearest neighbours, whose
edges are as long as the metric finds them.  :func:`dense_path` asks no metric.  Where data are
clouds of one width s around points, log-density falls by about r^2/(8 s^2) from the ends of a hop
of length r to its middle, and a metric that charges its change charges the deepest place of a path
once, down and up, and its length besides: hops must be short before they are few.  So it takes the
path of least sum of r^p over all hops (a Fermat distance: Groisman, Jonckheere & Sapienza,
1810.09398), whose hops are the shorter the higher the power p.
"""

from __future__ import annotations

import heapq
import math

import torch
from torch import Tensor

from diffodesic.geometry.metric import Metric
from diffodesic.numerics import checks
from diffodesic.numerics.curves import Polyline, constant_speed

__all__ = ["dense_path", "graph_path"]

ROUNDS = 3  # of rounding corners
MOST = 2048  # points that are asked

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
    checks.of_kind(metric, "metric", Metric)
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


def dense_path(data: Tensor, a: Tensor, b: Tensor, nodes: int, *, power: float) -> Tensor:
    """Path from ``a`` to ``b`` by short hops between points of a data set, its corners rounded.

    Args:
        data: points (N, d).
        a: start (d,).
        b: end (d,).
        nodes: number n of segments of the path, of one length each.
        power: p of the sum of r^p that is least.

    Returns:
        (n+1, d), ``a`` first and ``b`` last.

    Cost: no evaluation; distances between those 2,048 points at most for which the way from ``a``
    to ``b`` is shortest.
    """
    if len(data) > MOST:
        around = (data - a).norm(dim=-1) + (data - b).norm(dim=-1)
        data = data[around.topk(MOST, largest=False).indices]
    points = torch.cat([a.unsqueeze(0), b.unsqueeze(0), data])
    apart = torch.cdist(points, points)
    # of their largest, since powers of large distances are infinite in float32
    hops = _cheapest((apart / apart.amax()) ** power)
    way = points[hops].unique_consecutive(dim=0)
    for _ in range(ROUNDS):
        way = torch.cat([way[:1], (way[1:] + way[:-1]) / 2, way[-1:]])
    return constant_speed(Polyline(way), way.diff(dim=0).norm(dim=-1), nodes)


def _cheapest(cost: Tensor) -> list[int]:
    """Places on the cheapest way from point 0 to point 1, every two points (N, N) being joined."""
    cost = cost.cpu()  # a GPU would be waited for at every point
    reach, before = cost[0].clone(), torch.zeros(len(cost), dtype=torch.long)
    left = reach.clone()  # infinite where the way is known
    left[0] = torch.inf
    while (i := int(left.argmin())) != 1:
        left[i] = torch.inf
        further = reach[i] + cost[i]
        better = (further < reach) & torch.isfinite(left)
        before[better] = i
        reach = torch.where(better, further, reach)
        left = torch.where(better, further, left)
    return _way(before.tolist())


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
    return [] if math.isinf(best[1]) else _way(before)


def _way(before: list[int]) -> list[int]:
    """Places from point 0 to point 1, by the place before each."""
    way = [1]
    while way[-1] != 0:
        way.append(before[way[-1]])
    return way[::-1]
