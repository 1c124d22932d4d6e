"""What false-positive rate a filter must have: the law that the measurements are checked against.

A random k-mer's minimizer picks a shard uniformly. Runs of k-mers fall into shards as a compound
Poisson process: of N distinct k-mers, 2/(w+1) N runs of r = 1..w k-mers (uniformly), each leaving
r + z s-mers, where w = k-m+1 and z = k-s. With n s-mers a bit of a sector is set with probability
rho(n) = 1 - (63/64)^(n H/4), and a k-mer is found when the H bits of its z+1 s-mers all are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError

_SECTOR_BITS = 64


def super_fpr(
    kmers: float, shards: int, *, k: int = 31, s: int = 28, m: int = 16, hashes: int = 4
) -> float:
    """Share of random k-mers found in a Super Bloom filter with ``kmers`` distinct ones, 0-1.

    Reconstructed from Conchon-Kerjan et al. 2026 with the shard occupancy's full distribution in
    place of its mean, which would be optimistic by half at 20 bits per k-mer.
    """
    window = k - m + 1
    runs = 2 / (window + 1) * kmers / shards
    smers = np.arange(1, window + 1) + k - s
    sizes = np.bincount(smers) / window
    return _all_set(runs, sizes, per_item=hashes / 4, tests=hashes * (k - s + 1))


def blocked_fpr(kmers: float, shards: int, *, hashes: int = 4) -> float:
    """Share of random k-mers found in a blocked Bloom filter with ``kmers`` distinct ones, 0-1."""
    return _all_set(kmers / shards, np.array([0.0, 1.0]), per_item=hashes / 4, tests=hashes)


def smallest_shards(kmers: int, fpr: float, law: Callable[[int], float]) -> int:
    """The fewest shards, to 0.1 %, at which ``law`` (falling in the shards) gives ``fpr``.

    Raises:
        ConfigError: ``kmers`` or ``fpr`` is out of range, or not even 2^40 shards reach it.
    """
    if not 1 <= kmers <= 1 << 44:
        raise ConfigError.of("kmers", kmers, "in 1-2^44", "distinct k-mers to be inserted")
    if not 0 < fpr < 1:
        raise ConfigError.of("fpr", fpr, "in (0, 1)", "share of random k-mers wrongly found")
    low, high = 8, 16
    while law(high) > fpr:
        low, high = high, high * 2
        if high > 1 << 40:
            raise ConfigError.of("fpr", fpr, "larger", "no filter of these parameters reaches it")
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if law(middle) > fpr else (low, middle)
    return high


def _all_set(groups: float, sizes: NDArray[np.float64], *, per_item: float, tests: int) -> float:
    """E[rho^tests] where n is a Poisson(``groups``) number of groups of random ``sizes``."""
    mean = groups * float(sizes @ np.arange(len(sizes)))
    spread = np.sqrt(groups * float(sizes @ np.arange(len(sizes)) ** 2))
    if mean > 100 * _SECTOR_BITS:
        return 1.0
    points = 1 << int(np.ceil(np.log2(mean + 12 * spread + 2 * len(sizes) + 16)))
    transform = np.exp(groups * (np.fft.rfft(sizes, points) - 1))
    chance = np.clip(np.fft.irfft(transform, points), 0, None)
    fill = 1 - (1 - 1 / _SECTOR_BITS) ** (per_item * np.arange(points))
    return float(min(1.0, chance @ fill**tests))
