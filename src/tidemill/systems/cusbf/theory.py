"""What false-positive rate a filter must have: the law that the measurements are checked against.

A random k-mer's minimizer picks a shard uniformly. Distinct k-mers come in runs with one minimizer,
w = k-m+1 m-mers to a k-mer, 2/(w+1) runs to a k-mer; runs fall into shards as a Poisson process and
a run of r k-mers leaves r + z s-mers there, z = k-s. A k-mer is found when the H bits of its z+1
s-mers are all set. Holds while m-mers seldom repeat: 4^m far above the number of k-mers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError

_SECTOR_BITS = 64
_MOST_BITS = 40 * _SECTOR_BITS
"""Bits set in a sector after which the chance that one is still clear can be neglected."""


def super_fpr(
    kmers: float, shards: int, *, k: int = 31, s: int = 28, m: int = 16, hashes: int = 4
) -> float:
    """Share of random k-mers found in a Super Bloom filter with ``kmers`` distinct ones, 0-1.

    Reconstructed from Conchon-Kerjan et al. 2026, with the distributions of run lengths and of
    shard and sector occupancy in place of their means, which are optimistic by half.
    """
    lengths = run_lengths(k - m + 1)
    smers = np.concatenate((np.zeros(k - s), lengths))
    runs = kmers / shards / float(lengths @ np.arange(len(lengths)))
    return _all_set(runs, smers, bits=hashes // 4, tests=hashes // 4 * (k - s + 1))


def blocked_fpr(kmers: float, shards: int, *, hashes: int = 8) -> float:
    """Share of random k-mers found in a blocked Bloom filter with ``kmers`` distinct ones, 0-1."""
    return _all_set(kmers / shards, np.array([0.0, 1.0]), bits=hashes // 4, tests=hashes // 4)


def run_lengths(window: int) -> NDArray[np.float64]:
    """Chance of each length of a run, index 0 to ``window``, for random ranks.

    An m-mer of rank v whose next higher neighbours are L+1 and R+1 away (both at most ``window``)
    is the minimizer of L+R+2-w k-mers; integrated over v.
    """
    r = np.arange(1, window)
    reach = r + window - 2
    inner = np.maximum(2 * window - 3 - reach, 0) * 2 / ((reach + 1) * (reach + 2) * (reach + 3))
    edge = 2 / ((reach + 1) * (reach + 2))
    weight = np.concatenate(([0.0], inner + edge, [1 / (2 * window - 1)]))
    return weight / weight.sum()


def smallest_shards(kmers: int, fpr: float, law: Callable[[int], float]) -> int:
    """The fewest shards, to 0.1 %, at which ``law`` (falling in the shards) gives ``fpr``.

    Raises:
        ConfigError: ``kmers`` or ``fpr`` is out of range, or not even 2^31 shards reach it.
    """
    if not 1 <= kmers <= 1 << 44:
        raise ConfigError.of("kmers", kmers, "in 1-2^44", "distinct k-mers to be inserted")
    if not 0 < fpr < 1:
        raise ConfigError.of("fpr", fpr, "in (0, 1)", "share of random k-mers wrongly found")
    low, high = 8, 16
    while law(high) > fpr:
        low, high = high, high * 2
        if high >= 1 << 32:
            raise ConfigError.of("fpr", fpr, "larger", "no filter of these parameters reaches it")
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (middle, high) if law(middle) > fpr else (low, middle)
    return high


def _all_set(groups: float, sizes: NDArray[np.float64], *, bits: int, tests: int) -> float:
    """Chance that ``tests`` random bits of each of a shard's four sectors are set.

    The shard holds a Poisson(``groups``) number of groups of items, ``sizes[n]`` the chance that a
    group has n; every item sets ``bits`` random bits in each sector.
    """
    counts = np.arange(len(sizes))
    mean = groups * float(sizes @ counts)
    if mean * bits > 2 * _MOST_BITS:
        return 1.0
    spread = np.sqrt(groups * float(sizes @ counts**2))
    points = 1 << int(np.ceil(np.log2(mean + 12 * spread + 2 * len(sizes) + 16)))
    transform = np.exp(groups * (np.fft.rfft(sizes, points) - 1))
    chance = np.clip(np.fft.irfft(transform, points), 0, None)
    sector = _occupancy() @ (np.arange(_SECTOR_BITS + 1) / _SECTOR_BITS) ** tests
    items = np.minimum(np.arange(points) * bits, _MOST_BITS)
    return float(min(1.0, chance @ sector[items] ** 4))


@cache
def _occupancy() -> NDArray[np.float64]:
    """Row n: the chance of each number of set bits in a sector after n random ones were set."""
    rows = np.zeros((_MOST_BITS + 1, _SECTOR_BITS + 1))
    rows[0, 0] = 1
    set_share = np.arange(_SECTOR_BITS + 1) / _SECTOR_BITS
    for n in range(_MOST_BITS):
        rows[n + 1] = rows[n] * set_share
        rows[n + 1, 1:] += (rows[n] * (1 - set_share))[:-1]
    return rows
