"""Which pages of a guest are zero, hot or cold, and where each lies, in two bitmaps and a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]
PageClass = Literal["zero", "hot", "cold"]

RANK_WORDS = 8
"""Words of 64 pages between two entries of the rank directory."""
GAP_PAGES = 8
"""Intervals of non-zero pages that are at most so far apart are registered as one."""
BLOCK_PAGES = 512
"""Pages of a block: what a huge page of the host holds."""


@dataclass(frozen=True, slots=True, eq=False)
class PageClasses:
    """A class and a slot for every page of a guest, each found in O(1).

    Attributes:
        guest_pages: pages of the guest.
        nonzero: (words,) one bit a page, lowest first, set if the page holds anything.
        hot: (words,) one bit a page, a subset of ``nonzero``.
        rank: (2, words / 8 rounded up) non-zero and hot pages before each 512th page.
    """

    guest_pages: int
    nonzero: U64
    hot: U64
    rank: U32

    @classmethod
    def of(cls, nonzero: Bools, hot: Bools) -> PageClasses:
        """The classes from one truth value a page; what is hot and zero counts as zero."""
        bitmaps = _packed(nonzero), _packed(hot & nonzero)
        return cls(nonzero.size, *bitmaps, rank_directory(*bitmaps))

    @property
    def hot_pages(self) -> int:
        """How many pages are hot."""
        return _count(self.hot)

    @property
    def cold_pages(self) -> int:
        """How many pages are neither zero nor hot."""
        return _count(self.nonzero) - _count(self.hot)

    def class_of(self, page: int) -> PageClass:
        """The class of a page.

        Raises:
            InputError: the guest has no such page.
        """
        self._check(page)
        if not _bit(self.nonzero, page):
            return "zero"
        return "hot" if _bit(self.hot, page) else "cold"

    def slot_of(self, page: int) -> int:
        """Where a page lies in the extent of its class, in pages.

        Raises:
            InputError: the guest has no such page, or it is zero and lies nowhere.
        """
        if (kind := self.class_of(page)) == "zero":
            raise InputError(
                f"slot of page {page} — it is zero; must be hot or cold; ask class_of first."
            )
        hot = self._ranked(1, self.hot, page)
        return hot if kind == "hot" else self._ranked(0, self.nonzero, page) - hot

    def truths(self) -> tuple[Bools, Bools]:
        """(guest_pages,) whether each page is not zero, and whether it is hot."""
        return _unpacked(self.nonzero, self.guest_pages), _unpacked(self.hot, self.guest_pages)

    def hot_runs(self, among: Bools | None = None) -> U64:
        """(n, 3) first guest page, pages and first hot slot of each longest run of hot pages.

        Args:
            among: (guest_pages,) leave out the others.
        """
        hot = self.truths()[1]
        slots = np.cumsum(hot) - hot
        runs = _runs(hot if among is None else hot & among)
        return np.column_stack((runs, slots[runs[:, 0].astype(np.int64)].astype(np.uint64)))

    def regions_to_register(self, gap: int = GAP_PAGES) -> U64:
        """(m, 2) first guest page and pages of non-zero intervals, those near each other merged."""
        runs = _runs(self.truths()[0]).astype(np.int64)
        if not len(runs):
            return np.empty((0, 2), np.uint64)
        starts, ends = runs[:, 0], runs.sum(axis=1)
        opens = np.concatenate(([True], starts[1:] - ends[:-1] > gap))
        closes = np.concatenate((opens[1:], [True]))
        return np.column_stack((starts[opens], ends[closes] - starts[opens])).astype(np.uint64)

    def _check(self, page: int) -> None:
        if not 0 <= page < self.guest_pages:
            raise InputError(
                f"page {page} — the guest has {self.guest_pages} pages; must be in "
                f"0-{self.guest_pages - 1}."
            )

    def _ranked(self, which: int, bitmap: U64, page: int) -> int:
        word = page // 64
        block = word // RANK_WORDS
        before = sum(int(w).bit_count() for w in bitmap[block * RANK_WORDS : word].tolist())
        below = int(bitmap[word]) & ((1 << page % 64) - 1)
        return int(self.rank[which, block]) + before + below.bit_count()


def dense_blocks(often: Bools, least: int) -> U32:
    """The blocks of which at least ``least`` pages are often touched; none if that is 0."""
    blocks = often[: often.size // BLOCK_PAGES * BLOCK_PAGES].reshape(-1, BLOCK_PAGES)
    dense = blocks.sum(axis=1) >= least if least else np.zeros(len(blocks), bool)
    return np.flatnonzero(dense).astype(np.uint32)


def in_blocks(blocks: U32, guest_pages: int) -> Bools:
    """(guest_pages,) whether a page lies in one of these blocks."""
    found = np.zeros(guest_pages, bool)
    found[: guest_pages // BLOCK_PAGES * BLOCK_PAGES].reshape(-1, BLOCK_PAGES)[blocks] = True
    return found


def rank_directory(nonzero: U64, hot: U64) -> U32:
    """(2, blocks) set bits before each block of 8 words, of both bitmaps."""
    blocks = -(-nonzero.size // RANK_WORDS)
    found = np.zeros((2, blocks), np.uint32)
    for row, bitmap in zip(found, (nonzero, hot), strict=True):
        counts = np.zeros(blocks * RANK_WORDS, np.int64)
        counts[: bitmap.size] = np.unpackbits(bitmap.view(np.uint8)).reshape(-1, 64).sum(axis=1)
        row[1:] = np.cumsum(counts.reshape(blocks, RANK_WORDS).sum(axis=1))[:-1]
    return found


def words_of(guest_pages: int) -> int:
    """Words of a bitmap."""
    return -(-guest_pages // 64)


def _packed(truths: Bools) -> U64:
    padded = np.zeros(words_of(truths.size) * 64, bool)
    padded[: truths.size] = truths
    return np.packbits(padded, bitorder="little").view("<u8")


def _unpacked(bitmap: U64, pages: int) -> Bools:
    return np.unpackbits(bitmap.view(np.uint8), bitorder="little")[:pages].astype(bool)


def _runs(truths: Bools) -> U64:
    edges = np.flatnonzero(np.diff(truths.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return np.column_stack((edges[:, 0], edges[:, 1] - edges[:, 0])).astype(np.uint64)


def _bit(bitmap: U64, page: int) -> bool:
    return bool(int(bitmap[page // 64]) >> (page % 64) & 1)


def _count(bitmap: U64) -> int:
    return int(np.unpackbits(bitmap.view(np.uint8)).sum(dtype=np.int64))
