"""What Super Bloom and blocked Bloom filter have in common: sequences in, answers out, files.

Insertion into one filter is serialised by a lock; queries take none and, while somebody inserts,
see a subset of what is being inserted, never a torn word.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.cusbf import kernels, storage
from tidemill.systems.cusbf.config import SHARD_BITS, check_parameters
from tidemill.systems.cusbf.reports import AddReport, Counters, RecordHits
from tidemill.systems.cusbf.sequences import Batch, Sequence, as_bases, read_batches

SKIPPED_SHARE_TO_WARN = 0.5
"""More skipped windows than this look like protein text or a wrong file, and are warned about."""


class KmerFilter(ABC):
    """A set of k-mers with one-sided error over 256-bit shards; see the two subclasses."""

    kind: ClassVar[int]

    def __init__(
        self,
        bits: int,
        *,
        k: int,
        s: int,
        m: int,
        hashes: int,
        canonical: bool,
        seed: int,
        words: NDArray[np.uint64] | None = None,
    ) -> None:
        check_parameters(k=k, s=s, m=m, hashes=hashes, bits=bits, seed=seed)
        self.k, self.s, self.m = k, s, m
        self.hashes, self.canonical, self.seed = hashes, canonical, seed
        self.shards = bits // SHARD_BITS
        self.threads = 1
        self.counters = Counters()
        self.inserted_kmers = 0
        self._shared = words is not None
        self._words = self._own_words() if words is None else self._checked(words)
        self._lock = threading.Lock()
        self._kernels = kernels.load()
        self._layout = self._kernels.Layout(k, s, m, hashes, self.shards, canonical, seed)

    # -- inserting -----------------------------------------------------------------------------

    def insert(self, sequence: Sequence, *, threads: int | None = None) -> AddReport:
        """Insert every k-mer of ``sequence``; windows with other letters than ACGTU are skipped.

        Raises:
            InputError: The filter is read-only, or ``sequence`` holds no single bytes.
        """
        bases = as_bases(sequence)
        return self._insert(bases, 1, len(bases), max(0, len(bases) - self.k + 1), threads)

    def insert_file(
        self,
        path: str | Path,
        *,
        threads: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> AddReport:
        """Insert every record of a FASTA/FASTQ file (.gz .bz2 .xz .zst, ``-`` is stdin).

        Warns (UserWarning) if most windows had to be skipped, as in protein text.

        Args:
            path: The file.
            threads: Threads to use; default `self.threads`.
            on_bytes: Told now and then how many bytes of the file were read.

        Raises:
            InputError: It cannot be opened, or the filter is read-only.
            CorruptFile: It is damaged; the text says where and what was inserted before.
        """
        self._require_writable()
        total = AddReport()
        try:
            for batch in read_batches(path, on_bytes):
                windows = int(batch.windows(self.k).sum())
                count, letters = len(batch.records), int(batch.lengths.sum())
                total += self._insert(batch.bases, count, letters, windows, threads)
        except CorruptFile as error:
            raise CorruptFile(
                f"{error} Inserted before it: {total.records:,} records, {total.kmers:,} k-mers."
            ) from error
        if total.skipped > SKIPPED_SHARE_TO_WARN * (total.skipped + total.kmers):
            warn(
                f"{path}: {total.skipped:,} of {total.skipped + total.kmers:,} windows hold other "
                "letters than ACGTU and were skipped; is it nucleotide text?",
                stacklevel=2,
            )
        return total

    def update(self, sequences: Iterable[Sequence]) -> AddReport:
        """Insert every k-mer of every sequence."""
        return sum((self.insert(sequence) for sequence in sequences), AddReport())

    def insert_packed(self, mers: NDArray[np.uint64]) -> AddReport:
        """Insert isolated k-mers as `pack` packs them: one shard access each, the slow path."""
        self._require_writable()
        with self._lock:
            counts = self._insert_mers(np.ascontiguousarray(mers, dtype=np.uint64))
            return self._inserted(counts, 0, len(mers) * self.k, len(mers))

    def _insert(
        self,
        bases: NDArray[np.uint8],
        records: int,
        letters: int,
        windows: int,
        threads: int | None,
    ) -> AddReport:
        self._require_writable()
        with self._lock:
            counts = self._insert_bases(bases, threads or self.threads)
            return self._inserted(counts, records, letters, windows)

    def _inserted(
        self, counts: kernels.Counts, records: int, letters: int, windows: int
    ) -> AddReport:
        kmers, _, loads = counts
        self.inserted_kmers += kmers
        self.counters = replace(
            self.counters,
            inserted_kmers=self.counters.inserted_kmers + kmers,
            insert_loads=self.counters.insert_loads + loads,
        )
        return AddReport(records, letters, kmers, windows - kmers, loads)

    # -- asking --------------------------------------------------------------------------------

    def contains(self, sequence: Sequence, *, threads: int | None = None) -> NDArray[np.bool_]:
        """For every window of ``sequence`` whether its k-mer is there.

        Returns:
            ``max(0, len - k + 1)`` booleans; False where the window holds another letter.
        """
        bases = as_bases(sequence)
        found = np.empty(max(0, len(bases) - self.k + 1), dtype=np.uint8)
        self._queried(self._contains_bases(bases, found, threads or self.threads))
        return found.view(np.bool_)

    def contains_packed(self, mers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """For isolated k-mers as `pack` packs them: one shard access each, the slow path."""
        found = np.empty(len(mers), dtype=np.uint8)
        mers = np.ascontiguousarray(mers, dtype=np.uint64)
        self._queried(self._contains_mers(mers, found))
        return found.view(np.bool_)

    def __contains__(self, kmer: Sequence) -> bool:
        bases = as_bases(kmer)
        if len(bases) != self.k:
            raise InputError(
                f"{len(bases)} letters in filter — must be one k-mer of k={self.k} letters; use "
                "contains() for a longer sequence."
            )
        return bool(self.contains(bases)[0])

    def query_file(
        self,
        path: str | Path,
        *,
        threshold: float = 0.5,
        threads: int | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Iterator[RecordHits]:
        """One answer for each record of a FASTA/FASTQ file, in order.

        Args:
            path: The file; ``-`` is stdin.
            threshold: Share of a record's valid windows that must be found to classify it, 0-1.
            threads: Threads to use; default `self.threads`.
            on_bytes: Told now and then how many bytes of the file were read.

        Raises:
            ConfigError: ``threshold`` is not in 0-1.
            InputError: The file cannot be opened.
            CorruptFile: It is damaged; the records before that were answered.
        """
        if not 0 <= threshold <= 1:
            raise ConfigError.of("threshold", threshold, "in 0-1", "share of a record's k-mers")
        for batch in read_batches(path, on_bytes):
            kmers, hits = self.count_hits(batch, threads=threads)
            for record, total, found in zip(batch.records, kmers, hits, strict=True):
                yield RecordHits(
                    record.name, total, found, total > 0 and found >= threshold * total
                )

    def count_hits(
        self, batch: Batch, *, threads: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Valid windows and found windows of every record of ``batch``."""
        windows = batch.windows(self.k)
        found = self.contains(batch.bases, threads=threads)
        sums = np.concatenate(([0], np.cumsum(found, dtype=np.int64)))
        begins = np.minimum(batch.starts, len(found))
        hits = sums[np.minimum(batch.starts + windows, len(found))] - sums[begins]
        return self._valid_windows(batch, windows).tolist(), hits.tolist()

    def _valid_windows(self, batch: Batch, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """``windows`` less those with other letters."""
        odd = np.flatnonzero(_NO_BASE[batch.bases])
        owner = np.searchsorted(batch.starts, odd, side="right") - 1
        # Windows 0 … last of its record; each odd letter spoils those that reach it and that the
        # odd letter before it in the same record left.
        place, last = odd - batch.starts[owner], windows[owner] - 1
        spoilt_before = np.concatenate(([-1], np.minimum(place, last)[:-1]))
        spoilt_before[np.diff(owner, prepend=-1) != 0] = -1
        first = np.maximum(place - self.k + 1, spoilt_before + 1)
        spoilt = np.maximum(np.minimum(place, last) - first + 1, 0)
        return windows - np.bincount(owner, spoilt, len(windows)).astype(np.int64)

    def _queried(self, counts: kernels.Counts) -> None:
        kmers, hits, loads = counts
        with self._lock:
            self.counters = replace(
                self.counters,
                queried_kmers=self.counters.queried_kmers + kmers,
                query_loads=self.counters.query_loads + loads,
                hits=self.counters.hits + hits,
            )

    # -- the set as a whole --------------------------------------------------------------------

    @property
    def words(self) -> NDArray[np.uint64]:
        """The filter itself, four words for each shard; a view, not a copy."""
        return self._words

    @property
    def bits(self) -> int:
        """Size in bits, a multiple of 256."""
        return self.shards * SHARD_BITS

    @property
    def load_factor(self) -> float:
        """Share of bits set, 0-1; reads the whole filter."""
        return self._kernels.count_ones(self._words) / self.bits

    @abstractmethod
    def expected_fpr(self) -> float:
        """Share of random k-mers that this filter, as filled as it is, would find, 0-1."""

    def merge(self, other: KmerFilter) -> None:
        """Take all k-mers of ``other`` in.

        Raises:
            ConfigError: It has other parameters; the text names the first that differs.
            InputError: This filter is read-only.
        """
        self._require_writable()
        for name in ("kind", "k", "s", "m", "hashes", "canonical", "seed", "shards"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                raise ConfigError.of(
                    f"merge: {name}", its, repr(mine), "both filters must be built alike"
                )
        with self._lock:
            np.bitwise_or(self._words, other.words, out=self._words)
            self.inserted_kmers += other.inserted_kmers

    def __ior__(self, other: KmerFilter) -> Self:
        self.merge(other)
        return self

    def save(self, path: str | Path) -> None:
        """Write a TMSBF file in one step: a crash leaves the old file or the new one, whole.

        Raises:
            InputError: The folder cannot be written to.
            OutOfPool: The disk is full.
        """
        with self._lock:
            header = storage.Header(
                self.kind,
                *(self.k, self.s, self.m, self.hashes, self.canonical, self.seed, self.shards),
                self.inserted_kmers,
            )
            storage.save(path, header, self._words)

    @classmethod
    def load(cls, path: str | Path, *, mmap: bool = False) -> Self:
        """Read a filter back, or map its file read-only and share it with other processes.

        Raises:
            InputError: It cannot be opened.
            CorruptFile: It is damaged, cut short, or holds the other kind of filter.
        """
        header, words = storage.load(path, mapped=mmap)
        if header.kind != cls.kind:
            raise CorruptFile(
                f"{path} as a {cls.__name__} — holds a filter of kind {header.kind}; must be kind "
                f"{cls.kind}; load it with {_KINDS.get(header.kind)}."
            )
        try:
            made = cls._restore(header, words)
        except ConfigError as error:
            raise CorruptFile(f"{path} as a TMSBF filter — {error}; build it again.") from error
        made._shared = False
        made.inserted_kmers = header.inserted_kmers
        return made

    @classmethod
    @abstractmethod
    def _restore(cls, header: storage.Header, words: NDArray[np.uint64]) -> Self: ...

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.bits:,} bits, k={self.k} s={self.s} m={self.m} "
            f"hashes={self.hashes} {'canonical' if self.canonical else 'strand-specific'}, "
            f"{self.inserted_kmers:,} k-mers inserted>"
        )

    # -- what the subclasses bring -------------------------------------------------------------

    @abstractmethod
    def _insert_bases(self, bases: NDArray[np.uint8], threads: int) -> kernels.Counts: ...

    @abstractmethod
    def _contains_bases(
        self, bases: NDArray[np.uint8], found: NDArray[np.uint8], threads: int
    ) -> kernels.Counts: ...

    @abstractmethod
    def _insert_mers(self, mers: NDArray[np.uint64]) -> kernels.Counts: ...

    @abstractmethod
    def _contains_mers(
        self, mers: NDArray[np.uint64], found: NDArray[np.uint8]
    ) -> kernels.Counts: ...

    def _own_words(self) -> NDArray[np.uint64]:
        return np.frombuffer(storage.anonymous(self.bits // 8), dtype=np.uint64)

    def _checked(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        if words.dtype != np.uint64 or words.shape != (4 * self.shards,):
            raise ConfigError.of(
                "words",
                f"{words.dtype} {words.shape}",
                f"uint64 ({4 * self.shards},)",
                "four words for each shard of 256 bits",
            )
        return words

    def _require_writable(self) -> None:
        if not self._words.flags.writeable:
            raise InputError(
                "insertion into a filter mapped read-only — its file is shared with others; must "
                "be a filter in memory; load it with mmap=False."
            )


def pack(
    sequence: Sequence, k: int = 31, *, canonical: bool = False
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Every window of ``sequence`` as 2k bits, first base lowest, A 0, C 1, T 2, G 3.

    Args:
        sequence: Letters.
        k: Bases of a k-mer, 1-32.
        canonical: Pack the strand that the filters would hash instead of the one given.

    Returns:
        The packed windows and whether each holds bases only (its word is 0 if not).
    """
    if not 1 <= k <= 32:
        raise ConfigError.of("k", k, "in 1-32")
    bases = as_bases(sequence)
    windows = max(0, len(bases) - k + 1)
    mers, valid = np.empty(windows, dtype=np.uint64), np.empty(windows, dtype=np.uint8)
    kernels.load().pack_kmers(k, canonical, bases, mers, valid)
    return mers, valid.view(np.bool_)


_NO_BASE = np.ones(256, dtype=np.bool_)
_NO_BASE[np.frombuffer(b"ACGTUacgtu\n", dtype=np.uint8)] = False
_KINDS = {1: "SuperBloom", 2: "BlockedBloom"}
