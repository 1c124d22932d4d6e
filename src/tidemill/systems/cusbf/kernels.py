"""The native sub-module as Python sees it: shapes, dtypes and errors of every function.

All arrays are one-dimensional and C-contiguous. A function that is given a read-only array to write
to, or another dtype, raises TypeError; wrong lengths raise ValueError. All release the GIL. A
sequence is ASCII bytes (either case, U as T); its windows are its ``max(0, len - k + 1)`` k-mers,
valid when they hold bases only.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tidemill import native

U8: TypeAlias = "NDArray[np.uint8]"
U16: TypeAlias = "NDArray[np.uint16]"
U64: TypeAlias = "NDArray[np.uint64]"
Counts: TypeAlias = "tuple[int, int, int]"
"""Valid windows, those found (0 for insertion), shards or blocks visited."""


class Layout(Protocol):
    """Parameters and the hash constants drawn from ``seed``; opaque to Python."""


class Kernels(Protocol):
    """What both native levels offer; equal input gives equal words and answers on both."""

    def Layout(self, *parameters: int) -> Layout:
        """Check and hold k, s, m, hashes, shards, canonical, seed, in this order.

        Raises ValueError for those that do not fit together.
        """
        ...

    def super_insert(
        self, layout: Layout, words: U64, sequence: U8, threads: int, shared: bool
    ) -> Counts:
        """OR all valid windows into ``words`` (4 x shards).

        ``shared``: other processes may insert at the same time, so words change by atomic OR
        only, at a third of the speed. The ``threads`` (at most 16 are used) need no such thing.
        """
        ...

    def super_contains(
        self, layout: Layout, words: U64, sequence: U8, found: U8, threads: int
    ) -> Counts:
        """Write 1 or 0 for every window to ``found``; 0 where a window is not valid."""
        ...

    def blocked_insert(
        self, layout: Layout, words: U64, sequence: U8, threads: int, shared: bool
    ) -> Counts:
        """As `super_insert`, each k-mer into a block of its own (``s`` must be ``k``)."""
        ...

    def blocked_contains(
        self, layout: Layout, words: U64, sequence: U8, found: U8, threads: int
    ) -> Counts:
        """As `super_contains`, each k-mer from a block of its own."""
        ...

    def scalar_insert(self, layout: Layout, words: U64, sequence: U8) -> Counts:
        """`super_insert` one k-mer and one shard access at a time; the same words."""
        ...

    def scalar_contains(self, layout: Layout, words: U64, sequence: U8, found: U8) -> Counts:
        """`super_contains` one k-mer at a time; the same answers."""
        ...

    def super_insert_packed(self, layout: Layout, words: U64, mers: U64, shared: bool) -> Counts:
        """Insert isolated k-mers as `pack_kmers` packs them (either strand)."""
        ...

    def super_contains_packed(self, layout: Layout, words: U64, mers: U64, found: U8) -> Counts:
        """Look isolated k-mers up."""
        ...

    def blocked_insert_packed(self, layout: Layout, words: U64, mers: U64, shared: bool) -> Counts:
        """Insert isolated k-mers into the blocked filter."""
        ...

    def blocked_contains_packed(self, layout: Layout, words: U64, mers: U64, found: U8) -> Counts:
        """Look isolated k-mers up in the blocked filter."""
        ...

    def pack_kmers(self, k: int, canonical: bool, sequence: U8, mers: U64, valid: U8) -> int:
        """Write each window as 2k bits, first base lowest, and 1 where it is valid.

        ``canonical`` packs the strand that the filters would hash. Returns the valid windows.
        """
        ...

    def count_distinct(
        self, k: int, canonical: bool, sequence: U8, registers: U8, precision: int
    ) -> int:
        """Fold all valid windows into ``2**precision`` HyperLogLog registers; returns them."""
        ...

    def count_ones(self, words: U64) -> int:
        """Bits set in ``words``."""
        ...

    def chance_of_all(self, words: U64, tests: int) -> float:
        """How often ``tests`` random bits in each sector of a random shard are all set, 0-1."""
        ...

    def keyed_insert(self, words: U64, keys: U64) -> None:
        """CuCollections' blocked Bloom policy: 64-bit keys, xxHash64, 8 x 32-bit words."""
        ...

    def keyed_contains(self, words: U64, keys: U64, found: U8) -> int:
        """Look keys up in such a filter; returns how many were found."""
        ...

    def cuckoo_insert(self, table: U16, keys: U64) -> int:
        """Insert into buckets of four 16-bit fingerprints (len(table) a power of two >= 4).

        Returns how many went in: fewer than ``len(keys)`` when the table is full, and then the
        first that did not fit left nothing behind.
        """
        ...

    def cuckoo_contains(self, table: U16, keys: U64, found: U8) -> int:
        """Look keys up; returns how many were found."""
        ...


@cache
def load(level: str | None = None) -> Kernels:
    """The kernels at ``level``, by default the best that this CPU runs.

    Raises:
        MissingCapability: This installation lacks them.
    """
    return cast(Kernels, native.kernels("cusbf", level))
