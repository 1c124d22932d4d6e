"""The Super Bloom filter: minimizer-guided shards and the Findere scheme inside each of them."""

from __future__ import annotations

from typing import Self
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from tidemill.systems.cusbf import kernels, storage
from tidemill.systems.cusbf.config import SHARD_BITS, check_parameters
from tidemill.systems.cusbf.kmer_filter import KmerFilter
from tidemill.systems.cusbf.theory import smallest_shards, super_fpr


class SuperBloom(KmerFilter):
    """All k-mers of a run with one minimizer live in one 256-bit shard, as their s-mers.

    A k-mer is there if all its ``k - s + 1`` s-mers are, each with ``hashes`` bits, in the shard
    that its minimizer picks. No k-mer inserted is ever missed.

    Args:
        bits: Size; rounded down to shards of 256.
        k: Bases of a k-mer, 1-32.
        s: Bases of an s-mer, 1-k. Shorter means a lower false-positive rate until shards fill up.
        m: Bases of a minimizer, 1-k. Shorter means longer runs, down to uneven shards.
        hashes: Bits set for each s-mer: 4, 8, 12 or 16.
        canonical: Treat a k-mer and its reverse complement as one.
        seed: Draws the hash constants; only filters with equal seeds merge.
        words: A buffer to use in place, as shared memory; insertion is then by atomic OR.

    Raises:
        ConfigError: A parameter is outside what is allowed.
        OutOfPool: The memory is not there.

    Source: arXiv 2606.24417; Conchon-Kerjan et al. 2026; Robidou and Peterlongo 2021.
    """

    kind = 1

    def __init__(
        self,
        bits: int,
        *,
        k: int = 31,
        s: int = 28,
        m: int = 16,
        hashes: int = 4,
        canonical: bool = True,
        seed: int = 0,
        words: NDArray[np.uint64] | None = None,
    ) -> None:
        super().__init__(
            bits, k=k, s=s, m=m, hashes=hashes, canonical=canonical, seed=seed, words=words
        )
        if m > s:
            warn(
                f"m={m} > s={s}: neighbouring k-mers then share s-mers across shards less often "
                "and the filter fills faster; m <= s is usual.",
                stacklevel=2,
            )

    @classmethod
    def for_kmers(
        cls,
        kmers: int,
        *,
        fpr: float = 1e-4,
        k: int = 31,
        s: int = 28,
        m: int = 16,
        hashes: int = 4,
        canonical: bool = True,
        seed: int = 0,
    ) -> Self:
        """The smallest filter for ``kmers`` distinct k-mers at ``fpr`` for random negatives.

        See `estimate_kmers` for how many a file holds.

        Raises:
            ConfigError: ``kmers`` < 1, ``fpr`` not in (0, 1), or no size reaches it.
        """
        check_parameters(k=k, s=s, m=m, hashes=hashes, bits=1 << 30, seed=seed)
        shards = smallest_shards(
            kmers, fpr, lambda shards: super_fpr(kmers, shards, k=k, s=s, m=m, hashes=hashes)
        )
        return cls(
            shards * SHARD_BITS, k=k, s=s, m=m, hashes=hashes, canonical=canonical, seed=seed
        )

    @classmethod
    def _restore(cls, header: storage.Header, words: NDArray[np.uint64]) -> Self:
        return cls(
            header.shards * SHARD_BITS,
            **{name: getattr(header, name) for name in ("k", "s", "m", "hashes", "seed")},
            canonical=header.canonical,
            words=words,
        )

    def expected_fpr(self) -> float:
        """Share of random k-mers found: exact for the bits as they are set, reads them all."""
        tests = self.hashes // 4 * (self.k - self.s + 1)
        return self._kernels.chance_of_all(self._words, tests)

    def expected_near_fpr(self) -> float:
        """Share of k-mers found of which all s-mers but one are there: the hardest negatives."""
        return self._kernels.chance_of_all(self._words, self.hashes // 4)

    def _insert_bases(self, bases: NDArray[np.uint8], threads: int) -> kernels.Counts:
        return self._kernels.super_insert(self._layout, self._words, bases, threads, self._shared)

    def _contains_bases(
        self, bases: NDArray[np.uint8], found: NDArray[np.uint8], threads: int
    ) -> kernels.Counts:
        return self._kernels.super_contains(self._layout, self._words, bases, found, threads)

    def _insert_mers(self, mers: NDArray[np.uint64]) -> kernels.Counts:
        return self._kernels.super_insert_packed(self._layout, self._words, mers, self._shared)

    def _contains_mers(self, mers: NDArray[np.uint64], found: NDArray[np.uint8]) -> kernels.Counts:
        return self._kernels.super_contains_packed(self._layout, self._words, mers, found)
