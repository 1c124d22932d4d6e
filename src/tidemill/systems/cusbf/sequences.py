"""Sequences in: strings, buffers and FASTA/FASTQ files, joined into batches the kernels like.

Knows nothing about filters. Records of a file are joined by a newline, which is no base, so that a
thousand short reads cost one kernel call and no k-mer spans two of them.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError

if TYPE_CHECKING:
    from dnaio import SequenceRecord

Sequence: TypeAlias = "str | bytes | bytearray | memoryview | NDArray[np.uint8]"
"""Anything that holds ASCII letters: text, or whatever has the buffer protocol."""

BATCH_BASES = 1 << 22
"""Bases joined before a kernel is called: enough for several threads, small beside a filter."""
BATCH_RECORDS = 1 << 16
"""Records joined at most: a file of empty ones must not fill the memory."""


def as_bases(sequence: Sequence) -> NDArray[np.uint8]:
    """The letters of ``sequence`` as uint8, without a copy unless it is text.

    Letters outside ASCII become ``?``, which is no base.

    Raises:
        InputError: It is neither text nor a contiguous buffer of bytes.
    """
    if isinstance(sequence, str):
        return np.frombuffer(sequence.encode("ascii", "replace"), dtype=np.uint8)
    try:
        view = memoryview(cast("bytes", sequence))
        if view.itemsize != 1 or view.ndim != 1:
            raise TypeError(f"{view.ndim} dimensions of {view.itemsize}-byte items")
        return np.frombuffer(view.cast("B"), dtype=np.uint8) if view.nbytes else _NOTHING
    except TypeError as error:
        raise InputError(
            f"sequence of type {type(sequence).__name__} — {error}; must be str, bytes or a "
            "contiguous one-dimensional buffer of single-byte letters."
        ) from error


_NOTHING = np.empty(0, dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records of a file, joined.

    Args:
        records: The records, in the file's order.
        bases: Their letters, a newline between two records.
        starts: Where each record begins in ``bases``.
        lengths: Letters of each record.
    """

    records: list[SequenceRecord]
    bases: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, records: list[SequenceRecord]) -> Batch:
        """Join ``records``."""
        bases = as_bases("\n".join([record.sequence for record in records]))
        lengths = np.array([len(record) for record in records], dtype=np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths + 1)))[:-1]
        return cls(records, bases, starts, lengths)

    def windows(self, k: int) -> NDArray[np.int64]:
        """K-mers of each record, valid or not."""
        return np.maximum(self.lengths - k + 1, 0)


def read_batches(
    path: str | Path, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Batch]:
    """The records of a FASTA or FASTQ file, plain or .gz/.bz2/.xz/.zst by content; ``-`` is stdin.

    Args:
        path: The file.
        on_bytes: Told with each batch how many bytes of the (compressed) file were read so far.

    Raises:
        InputError: It cannot be opened.
        CorruptFile: It is damaged or no FASTA/FASTQ; all records before that were yielded.
    """
    with ExitStack() as stack:
        raw = _open(path, stack)
        reader = _Reader(path, raw, stack)
        while batch := reader.batch():
            if on_bytes is not None and raw is not sys.stdin.buffer:
                on_bytes(raw.tell())
            yield batch
        if reader.damage is not None:
            raise reader.damage


def _open(path: str | Path, stack: ExitStack) -> BinaryIO:
    if str(path) == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(_File(io.FileIO(path)))
    except OSError as error:
        raise InputError(
            f"{path} — {error.strerror}; must be a FASTA or FASTQ file, or - for standard input."
        ) from error


class _File(io.BufferedReader):
    """A file that dnaio may let go of unclosed, as it does: `read_batches` closes it."""

    def _dealloc_warn(self, source: object) -> None:
        pass


class _Reader:
    """Groups records into batches; damage is kept until the records before it are handed over."""

    def __init__(self, path: str | Path, raw: BinaryIO, stack: ExitStack) -> None:
        self.damage: CorruptFile | None = None
        self._path = path
        self._count = 0
        self._name = ""
        self._records = self._parse(raw, stack)

    def _parse(self, raw: BinaryIO, stack: ExitStack) -> Iterator[SequenceRecord]:
        import dnaio
        import xopen

        # No helper threads or processes: a broken file must not leave any behind.
        plain = stack.enter_context(
            xopen.xopen(raw, "rb", threads=0)  # pyright: ignore[reportUnknownMemberType]
        )
        yield from stack.enter_context(
            dnaio.open(plain)  # pyright: ignore[reportUnknownMemberType]
        )

    def batch(self) -> Batch | None:
        records: list[SequenceRecord] = []
        bases = 0
        try:
            for record in self._records:
                records.append(record)
                bases += len(record)
                if bases >= BATCH_BASES or len(records) >= BATCH_RECORDS:
                    break
        except Exception as error:  # every decompressor raises types of its own
            self._damaged(error, records)
        if not records:
            return None
        self._count += len(records)
        self._name = records[-1].name
        return Batch.of(records)

    def _damaged(self, error: Exception, records: list[SequenceRecord]) -> None:
        name = records[-1].name if records else self._name
        after = f", after {name!r}" if name else ""
        self.damage = CorruptFile(
            f"{self._path}: record {self._count + len(records) + 1}{after} — {error}; must be "
            "whole FASTA or FASTQ, plain or .gz, .bz2, .xz, .zst; get the file again."
        )
        self.damage.__cause__ = error
