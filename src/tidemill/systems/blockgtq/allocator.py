"""How many bits each RoPE block gets: the greedy allocator, exact because the gains shrink."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError

LEAST, MOST = 1, 8
"""Bits a block may have per dimension."""

Widths = tuple[int, ...]


def allocate(scores: NDArray[np.float64], total: int) -> Widths:
    """Widths b_i in 1-8 with Σ b_i = ``total`` that minimise Σ s_i 4^(−b_i).

    Each bit goes where it takes most off: to the block of largest s_i 4^(−b_i), the lowest index
    first among equals. A block's gains fall by four with each bit, so that greedy is optimal.

    Args:
        scores: Energy of each block, at least 0.
        total: Bits to give, one per dimension of a block's pair.

    Raises:
        ConfigError: Fewer bits than blocks, or more than eight each; a score below 0 or not finite.
    """
    blocks = len(scores)
    if not LEAST * blocks <= total <= MOST * blocks:
        allowed = f"in {LEAST * blocks}-{MOST * blocks}"
        raise ConfigError.of("total", total, allowed, f"{blocks} blocks of {LEAST}-{MOST} bits")
    if not (np.isfinite(scores).all() and (scores >= 0).all()):
        raise ConfigError("scores — an energy is negative or not finite; calibrate again.")
    widths = [LEAST] * blocks
    heap = [(-float(score) / 4**LEAST, i) for i, score in enumerate(scores)]
    heapq.heapify(heap)
    for _ in range(total - LEAST * blocks):
        gain, i = heapq.heappop(heap)
        widths[i] += 1
        if widths[i] < MOST:
            heapq.heappush(heap, (gain / 4, i))
    return tuple(widths)


def allocate_within(scores: NDArray[np.float64], bits: int, norm_bits: int) -> Widths:
    """As `allocate`, with the most bits that fit into ``bits`` a key, group norms counted.

    A width group costs one norm of ``norm_bits``, so that widths used once are dear; merging
    neighbouring widths is tried where it lets the remaining blocks have more.

    Raises:
        ConfigError: Not even one bit a block and one norm fit.
    """
    blocks = len(scores)
    least = 2 * LEAST * blocks + norm_bits
    if bits < least:
        why = "one bit a dimension and one norm must fit"
        raise ConfigError.of("bits", bits, f"at least {least}", why)
    best: tuple[float, Widths] | None = None
    for total in range(min(MOST * blocks, bits // 2), LEAST * blocks - 1, -1):
        widths = allocate(scores, total)
        if _cost(widths, norm_bits) <= bits:
            best = (predicted(scores, widths), widths)
            break
    for merged in _merged(scores, bits, norm_bits):
        if best is None or predicted(scores, merged) < best[0]:
            best = (predicted(scores, merged), merged)
    if best is None:
        raise ConfigError.of("bits", bits, f"more for {blocks} blocks", "no allocation fits")
    return best[1]


def predicted(scores: NDArray[np.float64], widths: Sequence[int]) -> float:
    """Σ s_i 4^(−b_i), what the allocation minimises."""
    return float((scores * 4.0 ** -np.array(widths)).sum())


def _cost(widths: Sequence[int], norm_bits: int) -> int:
    return 2 * sum(widths) + norm_bits * len(set(widths))


def _merged(scores: NDArray[np.float64], bits: int, norm_bits: int) -> Iterable[Widths]:
    """Allocations from one to four consecutive widths, which cost as many norms."""
    blocks = len(scores)
    order = np.argsort(-scores, kind="stable")
    for count in (1, 2, 3, 4):
        room = bits - count * norm_bits
        for low in range(LEAST, MOST + 1):
            steps = [low + i for i in range(count) if low + i <= MOST]
            spare = room // 2 - low * blocks
            if len(steps) < count or spare < 0:
                continue
            yield _filled(scores, order, steps, spare)


def _filled(
    scores: NDArray[np.float64], order: NDArray[np.int64], steps: list[int], spare: int
) -> Widths:
    widths = np.full(len(scores), steps[0])
    heap = [(-float(scores[i]), int(i)) for i in order if len(steps) > 1]
    heapq.heapify(heap)
    while spare > 0 and heap:
        gain, i = heapq.heappop(heap)
        widths[i] += 1
        spare -= 1
        if widths[i] < steps[-1]:
            heapq.heappush(heap, (gain / 4, i))
    return tuple(int(width) for width in widths)
