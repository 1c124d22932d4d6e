"""What was read while a trace was open: bits and bytes of each layer, and levels of channels."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidemill.systems.grinqh.codebook import LEVELS, U8
from tidemill.systems.grinqh.graded_matrix import GROUP, GradedMatrix, column_bytes

F64 = NDArray[np.float64]
PART_GROUPS = 16
"""Groups of outputs to a part, at most; two parts at least, where there are two groups."""
BLOCK = 8192
"""Columns whose outliers are kept together."""


class Reading:
    """What one product with a matrix reads, by the levels of its columns."""

    def __init__(self, matrix: GradedMatrix) -> None:
        self.weights = matrix.rows * matrix.cols
        self.column = np.zeros(LEVELS[-1] + 1)
        for level in matrix.planes:
            self.column[level] = column_bytes(level, matrix.rows)
        # float scales of rows and columns, norms for the choice; outliers, whatever is chosen
        self.scales = 4.0 * (matrix.rows + 2 * matrix.cols)
        self.outliers = float(outlier_bytes(matrix))

    def bytes_of(self, levels: U8) -> F64:
        """Bytes read for each token of levels (tokens, n): codes with padding, outliers, scales."""
        found: F64 = self.column[levels].sum(axis=1) + self.outliers + self.scales
        return found


def outlier_bytes(matrix: GradedMatrix) -> int:
    """Bytes of the outliers as the kernel keeps them: eight outputs together, padded to the most.

    Four bytes each, and 20 for each eight outputs, of each part of the outputs and block of inputs.
    """
    groups = -(-matrix.rows // GROUP)
    parts = 1 if groups < 2 else max(2, -(-groups // PART_GROUPS))
    columns = np.repeat(np.arange(matrix.cols), np.diff(matrix.outlier_start.astype(np.int64)))
    blocks = -(-matrix.cols // BLOCK)
    places = np.zeros((blocks, groups * GROUP), np.int64)
    np.add.at(places, (columns // BLOCK, matrix.outlier_rows.astype(np.int64)), 1)
    total = 0
    for part in range(parts):
        rows = slice(part * groups // parts * GROUP, (part + 1) * groups // parts * GROUP)
        most = -np.sort(-places[:, rows], axis=1)[:, ::8]
        total += 32 * int(most.sum()) + 20 * int((most > 0).sum())
    return total


@dataclass(slots=True)
class LayerTrace:
    """Of one layer.

    Args:
        weights: Of its matrix.
        code_bits: Of each token, the average width of its channels.
        bytes: Of each token, everything read for it.
        channels: How often a channel was read at level 0, 1, … 6.
        moved: Bytes that really moved: prefill reads the matrix once for all its tokens.
    """

    weights: int
    code_bits: list[float] = field(default_factory=list[float])
    bytes: list[float] = field(default_factory=list[float])
    channels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS[-1] + 1, np.int64))
    moved: float = 0.0

    @property
    def read_bits(self) -> float:
        """Bits read per weight and token, outliers, scales and padding included."""
        return 8 * float(np.mean(self.bytes)) / self.weights


@dataclass(slots=True)
class Trace:
    """What was read while it was open, by layer."""

    layers: dict[str, LayerTrace] = field(default_factory=dict[str, LayerTrace])

    @property
    def average_bits(self) -> float:
        """Code bits per weight and token."""
        known = self.layers.values()
        total = sum(layer.weights * len(layer.bytes) for layer in known)
        return (
            sum(layer.weights * sum(layer.code_bits) for layer in known) / total if total else 0.0
        )

    @property
    def read_bits(self) -> float:
        """Bits read per weight and token, outliers, scales and padding included."""
        known = self.layers.values()
        total = sum(layer.weights * len(layer.bytes) for layer in known)
        return 8 * sum(sum(layer.bytes) for layer in known) / total if total else 0.0

    @property
    def bytes_moved(self) -> float:
        """Bytes of weights read from memory in all."""
        return sum(layer.moved for layer in self.layers.values())

    @property
    def channels(self) -> dict[int, float]:
        """Share of channels read at each level, all layers and tokens together."""
        counts = sum((layer.channels for layer in self.layers.values()), np.zeros(7, np.int64))
        total = max(1, int(counts.sum()))
        return {level: float(counts[level] / total) for level in (0, *LEVELS)}

    def count(self, name: str, reading: Reading, levels: U8, *, at_once: bool = False) -> None:
        """Add one product of layer ``name``; ``at_once`` if all tokens shared one reading."""
        layer = self.layers.setdefault(name, LayerTrace(reading.weights))
        read = reading.bytes_of(levels)
        layer.code_bits += levels.mean(axis=1).tolist()
        layer.bytes += read.tolist()
        layer.channels += np.bincount(levels.reshape(-1), minlength=LEVELS[-1] + 1)
        layer.moved += float(read.max() if at_once else read.sum())


_open: list[Trace] = []


@contextmanager
def trace() -> Generator[Trace]:
    """Record what every graded layer reads inside the block, on any thread."""
    found = Trace()
    _open.append(found)
    try:
        yield found
    finally:
        _open[:] = [each for each in _open if each is not found]


def is_traced() -> bool:
    """Whether any trace is open."""
    return bool(_open)


def record(name: str, reading: Reading, levels: U8, *, at_once: bool = False) -> None:
    """Tell all open traces."""
    for found in _open:
        found.count(name, reading, levels, at_once=at_once)
