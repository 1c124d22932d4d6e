"""How many distinct k-mers there are, estimated in 16 KiB: what a filter is sized by.

HyperLogLog (Flajolet et al. 2007) with Ertl's estimator (2017), which needs no bias tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, log, sqrt
from pathlib import Path

import numpy as np

from tidemill.systems.cusbf import kernels
from tidemill.systems.cusbf.sequences import Sequence, as_bases, read_batches

_PRECISION = 14


class KmerCounter:
    """Counts distinct k-mers; standard error 0.8 %. Not thread-safe.

    Args:
        k: Bases of a k-mer, 1-32.
        canonical: Count a k-mer and its reverse complement as one.
    """

    def __init__(self, k: int = 31, *, canonical: bool = True) -> None:
        self.k = k
        self.canonical = canonical
        self._registers = np.zeros(1 << _PRECISION, dtype=np.uint8)

    def add(self, sequence: Sequence) -> int:
        """Take all valid windows of ``sequence`` in; returns how many there were."""
        return kernels.load().count_distinct(
            self.k, self.canonical, as_bases(sequence), self._registers, _PRECISION
        )

    def estimate(self) -> int:
        """Distinct k-mers seen so far."""
        return round(_ertl(np.bincount(self._registers, minlength=66 - _PRECISION).tolist()))


def estimate_kmers(sources: Iterable[str | Path], k: int = 31, *, canonical: bool = True) -> int:
    """Distinct k-mers of one FASTA/FASTQ file or several, one pass, standard error 0.8 %.

    Raises:
        InputError: A file cannot be opened or (CorruptFile) read to its end.
    """
    counter = KmerCounter(k, canonical=canonical)
    for source in [sources] if isinstance(sources, str | Path) else sources:
        for batch in read_batches(source):
            counter.add(batch.bases)
    return counter.estimate()


def _ertl(histogram: list[int]) -> float:
    """Ertl 2017, algorithm 6, over the histogram of register values."""
    size = sum(histogram)
    top = 65 - _PRECISION
    total = size * _tau((size - histogram[top]) / size)
    for value in range(top - 1, 0, -1):
        total = (total + histogram[value]) / 2
    total += size * _sigma(histogram[0] / size)
    return size * size / (2 * log(2) * total) if total != inf else 0.0


def _sigma(x: float) -> float:
    if x == 1:
        return inf
    y, z, previous = 1.0, x, -1.0
    while z != previous:
        x, previous = x * x, z
        z, y = z + x * y, 2 * y
    return z


def _tau(x: float) -> float:
    if x in (0, 1):
        return 0.0
    y, z, previous = 1.0, 1 - x, -1.0
    while z != previous:
        x, previous, y = sqrt(x), z, y / 2
        z -= (1 - x) ** 2 * y
    return z / 3
