"""The nested codebook: one tree of levels, each code the code of the level above plus a few bits.

Level 2 is the Lloyd-Max quantiser of four values; every cell is then split in two by the best
1-D 2-means, twice. So the first b bits of a code are the code at level b, and one stored copy
serves all levels. At level 6 a cell of level 4 has four values, symmetric steps from a center;
cells of one magnitude (its first two bits) share their steps, so that a kernel can look up center
and step in tables of 16 instead of a value in one of 64.

Reconstructed from Any-Precision LLM (nested codes) and MatQuant (slices from the top).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, CorruptFile

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

LEVELS = (2, 3, 4, 6)
"""Widths that are stored; 0, a channel that is skipped, is a level too but takes no bits."""
OUTLIER = 3.0
"""Scaled weights beyond this are stored exactly."""
_GRID = 60_001

SHARED = np.array([3, 3, 2, 2, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
"""Which steps each cell of level 4 takes: by the first two bits of its magnitude."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """Sorted values and cell edges of every level, for weights scaled to unit variance.

    Args:
        values: By level, ``2**level`` float32 values in ascending order.
        edges: ``2**top - 1`` cell borders of the top level, ascending.
        distortions: By level, the mean squared error on what the tree was fitted to; level 0: 1.
    """

    values: dict[int, F32]
    edges: F64
    distortions: dict[int, float]

    @property
    def top(self) -> int:
        """The widest level."""
        return LEVELS[-1]

    def encode(self, scaled: F32) -> U8:
        """Top-level codes of scaled weights, any shape; a code's first b bits are level b's."""
        return np.searchsorted(self.edges, scaled).astype(np.uint8)

    def decode(self, codes: U8, level: int) -> F32:
        """Values at ``level`` of top-level codes."""
        return self.values[level][codes >> (self.top - level)]

    def slopes(self, levels: tuple[int, ...] = (0, *LEVELS)) -> tuple[float, ...]:
        """Error saved per bit by each step between ``levels``; strictly decreasing."""
        return tuple(
            (self.distortions[low] - self.distortions[high]) / (high - low)
            for low, high in pairwise(levels)
        )

    @classmethod
    def from_values(cls, values: dict[int, F32], edges: F64, distortions: F64) -> Codebook:
        """Build one from stored arrays.

        Raises:
            CorruptFile: The arrays are no tree.
        """
        for level in LEVELS:
            row = values.get(level)
            if row is None or row.shape != (1 << level,) or not (np.diff(row) > 0).all():
                raise CorruptFile(
                    f"codebook level {level} — must be {1 << level} ascending values; "
                    "quantise the model again."
                )
        steps = values[LEVELS[-1]].reshape(16, 4).astype(np.float64)
        steps -= steps.mean(axis=1, keepdims=True)
        if not np.allclose(steps, steps[8 + 2 * SHARED], rtol=0, atol=1e-4):
            raise CorruptFile(
                f"codebook level {LEVELS[-1]} — cells of one magnitude must share their steps; "
                "quantise the model again."
            )
        if edges.shape != ((1 << LEVELS[-1]) - 1,) or not (np.diff(edges) > 0).all():
            raise CorruptFile("codebook — its edges must ascend; quantise the model again.")
        return cls(values, edges, dict(zip((0, *LEVELS), map(float, distortions), strict=True)))


def check_levels(levels: tuple[int, ...]) -> None:
    """Refuse levels that are no part of the hierarchy.

    Raises:
        ConfigError: They do not begin with 0, do not ascend, or one is not stored.
    """
    rest = levels[1:]
    ascends = all(low < high for low, high in pairwise(levels))
    if not rest or levels[0] != 0 or not ascends or not set(rest) <= set(LEVELS):
        allowed = f"0 and then some of {LEVELS}, ascending"
        raise ConfigError.of("levels", levels, allowed, "each is nested in the next")


@cache
def gaussian() -> Codebook:
    """The tree for normally distributed weights whose outliers beyond `OUTLIER` are kept apart."""
    grid = np.linspace(-OUTLIER, OUTLIER, _GRID)
    return fit(grid, np.exp(-grid * grid / 2))


def fit(samples: F64, mass: F64) -> Codebook:
    """The tree for weighted samples.

    Args:
        samples: Scaled weights, ascending.
        mass: Their weights, not negative.

    Raises:
        ConfigError: There are too few distinct samples.
    """
    if len(samples) < 4 << LEVELS[-1] or not (np.diff(samples) >= 0).all():
        raise ConfigError.of("samples", len(samples), f"at least {4 << LEVELS[-1]}, ascending")
    sums = _Sums(samples, mass)
    cuts = _lloyd(sums)
    values: dict[int, F32] = {}
    distortions = {0: 1.0}
    for level in LEVELS[:-1]:
        if level > LEVELS[0]:
            cuts = _split_all(sums, cuts)
        values[level] = np.array([sums.mean(a, b) for a, b in pairwise(cuts)], np.float32)
        distortions[level] = sums.distortion(cuts)
    top, cuts = _steps(sums, cuts)
    values[LEVELS[-1]] = top.astype(np.float32)
    distortions[LEVELS[-1]] = sums.error(cuts, top)
    edges = np.array([(samples[cut - 1] + samples[cut]) / 2 for cut in cuts[1:-1]])
    return Codebook(values, edges, distortions)


class _Sums:
    """Running sums over ascending samples: mean and error of any run in O(1)."""

    def __init__(self, samples: F64, mass: F64) -> None:
        self.samples = samples
        self.mass = np.concatenate([[0.0], np.cumsum(mass)])
        self.first = np.concatenate([[0.0], np.cumsum(mass * samples)])
        self.second = np.concatenate([[0.0], np.cumsum(mass * samples * samples)])

    def mean(self, begin: int, end: int) -> float:
        mass = self.mass[end] - self.mass[begin]
        if mass <= 0:
            return float(self.samples[begin])
        return float((self.first[end] - self.first[begin]) / mass)

    def distortion(self, cuts: list[int]) -> float:
        """Error relative to the second moment, all cells together."""
        runs = pairwise(cuts)
        kept = sum(
            (self.first[b] - self.first[a]) ** 2 / max(self.mass[b] - self.mass[a], 1e-300)
            for a, b in runs
        )
        return float(max(0.0, 1.0 - kept / self.second[-1]))

    def error(self, cuts: list[int], values: F64) -> float:
        """Error of given values relative to the second moment."""
        mass, first = np.diff(self.mass[cuts]), np.diff(self.first[cuts])
        left = self.second[-1] - 2 * (first * values).sum() + (mass * values * values).sum()
        return float(max(0.0, left / self.second[-1]))


def _lloyd(sums: _Sums) -> list[int]:
    """Cell borders of the four-value Lloyd-Max quantiser, as sample indices."""
    count = len(sums.samples)
    cuts = [0, count // 6, count // 2, count - count // 6, count]
    for _ in range(200):
        means = [sums.mean(a, b) for a, b in pairwise(cuts)]
        borders = [(low + high) / 2 for low, high in pairwise(means)]
        moved = [0, *map(int, np.searchsorted(sums.samples, borders)), count]
        if moved == cuts:
            break
        cuts = moved
    return cuts


def _split_all(sums: _Sums, cuts: list[int]) -> list[int]:
    """Every cell in two, at the cut that leaves the least error."""
    found = [cuts[0]]
    for begin, end in pairwise(cuts):
        at = np.arange(begin + 1, end)
        left, right = sums.mass[at] - sums.mass[begin], sums.mass[end] - sums.mass[at]
        gain = (sums.first[at] - sums.first[begin]) ** 2 / np.maximum(left, 1e-300)
        gain += (sums.first[end] - sums.first[at]) ** 2 / np.maximum(right, 1e-300)
        found += [int(at[np.argmax(gain)]), end]
    return found


def _steps(sums: _Sums, cuts: list[int]) -> tuple[F64, list[int]]:
    """Four values in each of 16 cells, steps shared, that leave little error, and their borders."""
    ends = np.array(cuts)
    center = np.array([sums.mean(a, b) for a, b in pairwise(cuts)])
    width = np.diff(sums.samples[np.minimum(ends, len(sums.samples) - 1)])
    mean_width = np.bincount(SHARED, width) / 4
    steps = np.outer(mean_width, [-0.375, -0.125, 0.125, 0.375])
    inner = np.repeat(ends[:-1, None], 5, axis=1)
    for _ in range(60):
        values = center[:, None] + steps[SHARED]
        borders = (values[:, :-1] + values[:, 1:]) / 2
        found = np.searchsorted(sums.samples, borders)
        inner = np.column_stack([ends[:-1], found, ends[1:]])
        inner = np.maximum.accumulate(np.clip(inner, ends[:-1, None], ends[1:, None]), axis=1)
        mass, first = np.diff(sums.mass[inner], axis=1), np.diff(sums.first[inner], axis=1)
        total = np.maximum(mass.sum(axis=1), 1e-300)
        center = (first - mass * steps[SHARED]).sum(axis=1) / total
        off = first - mass * center[:, None]  # the two on either side step as far
        for i, j in ((0, 3), (1, 2)):
            weight = np.bincount(SHARED, mass[:, i] + mass[:, j])
            step = np.bincount(SHARED, off[:, j] - off[:, i]) / np.maximum(weight, 1e-300)
            steps[:, i], steps[:, j] = -step, step
    return (center[:, None] + steps[SHARED]).ravel(), [*inner[:, :-1].ravel().tolist(), cuts[-1]]
