"""Shortest paths, a breadth-first search and PageRank over a random graph."""

import heapq
import random
from collections import deque
from typing import Any


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``nodes`` nodes with four edges each."""
    rng = random.Random(request["seed"])
    count = request["nodes"]
    edges = [[(rng.randrange(count), rng.randint(1, 100)) for _ in range(4)] for _ in range(count)]
    distance = {0: 0}
    queue = [(0, 0)]
    while queue:
        so_far, node = heapq.heappop(queue)
        if so_far > distance[node]:
            continue
        for other, weight in edges[node]:
            if so_far + weight < distance.get(other, 1 << 60):
                distance[other] = so_far + weight
                heapq.heappush(queue, (so_far + weight, other))
    depth = {0: 0}
    waiting = deque([0])
    while waiting:
        node = waiting.popleft()
        for other, _ in edges[node]:
            if other not in depth:
                depth[other] = depth[node] + 1
                waiting.append(other)
    rank = [1 / count] * count
    for _ in range(5):
        following = [0.15 / count] * count
        for node, out in enumerate(edges):
            for other, _ in out:
                following[other] += 0.85 * rank[node] / 4
        rank = following
    return {
        "reached": len(distance),
        "farthest": max(distance.values()),
        "depth": max(depth.values()),
        "first": max(range(count), key=rank.__getitem__),
    }
