"""The blocked Bloom filter: what the Super Bloom filter is measured against, with the same API."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from tidemill.systems.cusbf import kernels, storage
from tidemill.systems.cusbf.config import SHARD_BITS, check_parameters
from tidemill.systems.cusbf.kmer_filter import KmerFilter
from tidemill.systems.cusbf.theory import blocked_fpr, smallest_shards


class BlockedBloom(KmerFilter):
    """Every k-mer sets ``hashes`` bits in one 256-bit block of its own: one cache line each.

    Args:
        bits: Size; rounded down to blocks of 256.
        k: Bases of a k-mer, 1-32.
        hashes: Bits set for each k-mer: 4, 8, 12 or 16. cuCollections' default is 8.
        canonical: Treat a k-mer and its reverse complement as one.
        seed: Draws the hash constants; only filters with equal seeds merge.
        words: A buffer to use in place, as shared memory; insertion is then by atomic OR.

    Raises:
        ConfigError: A parameter is outside what is allowed.
        OutOfPool: The memory is not there.

    Source: Putze, Sanders and Singler 2007; sectors as in Lang et al. 2019.
    """

    kind = 2

    def __init__(
        self,
        bits: int,
        *,
        k: int = 31,
        hashes: int = 8,
        canonical: bool = True,
        seed: int = 0,
        words: NDArray[np.uint64] | None = None,
    ) -> None:
        super().__init__(
            bits, k=k, s=k, m=k, hashes=hashes, canonical=canonical, seed=seed, words=words
        )

    @classmethod
    def for_kmers(
        cls,
        kmers: int,
        *,
        fpr: float = 1e-4,
        k: int = 31,
        hashes: int = 8,
        canonical: bool = True,
        seed: int = 0,
    ) -> Self:
        """The smallest filter for ``kmers`` distinct k-mers at ``fpr``.

        Raises:
            ConfigError: ``kmers`` < 1, ``fpr`` not in (0, 1), or no size reaches it.
        """
        check_parameters(k=k, s=k, m=k, hashes=hashes, bits=1 << 30, seed=seed)
        shards = smallest_shards(
            kmers, fpr, lambda shards: blocked_fpr(kmers, shards, hashes=hashes)
        )
        return cls(shards * SHARD_BITS, k=k, hashes=hashes, canonical=canonical, seed=seed)

    @classmethod
    def _restore(cls, header: storage.Header, words: NDArray[np.uint64]) -> Self:
        return cls(
            header.shards * SHARD_BITS,
            **{name: getattr(header, name) for name in ("k", "hashes", "seed")},
            canonical=header.canonical,
            words=words,
        )

    def expected_fpr(self) -> float:
        """Share of random k-mers found: exact for the bits as they are set, reads them all."""
        return self._kernels.chance_of_all(self._words, self.hashes // 4)

    def _insert_bases(self, bases: NDArray[np.uint8], threads: int) -> kernels.Counts:
        return self._kernels.blocked_insert(self._layout, self._words, bases, threads, self._shared)

    def _contains_bases(
        self, bases: NDArray[np.uint8], found: NDArray[np.uint8], threads: int
    ) -> kernels.Counts:
        return self._kernels.blocked_contains(self._layout, self._words, bases, found, threads)

    def _insert_mers(self, mers: NDArray[np.uint64]) -> kernels.Counts:
        return self._kernels.blocked_insert_packed(self._layout, self._words, mers, self._shared)

    def _contains_mers(self, mers: NDArray[np.uint64], found: NDArray[np.uint8]) -> kernels.Counts:
        return self._kernels.blocked_contains_packed(self._layout, self._words, mers, found)
