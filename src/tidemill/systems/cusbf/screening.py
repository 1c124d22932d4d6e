"""Sequences out: the records that a filter knows, or does not, as a file of their own."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Self

from tidemill.errors import InputError

if TYPE_CHECKING:
    from dnaio import SequenceRecord
    from dnaio.interfaces import SingleEndWriter

_KIND = {True: "FASTQ", False: "FASTA"}


class Copy:
    """Writes chosen records beside ``out`` and puts the file there when all went well.

    The format follows the first record, the compression the suffix of ``out``.
    """

    def __init__(self, out: Path) -> None:
        self.written = 0
        self._out = out
        if out.is_dir():
            raise InputError(f"{out} — is a folder; must be a file to write the records to.")
        self._draft = out.with_name(f".part-{token_hex(6)}-{out.name}")  # keeps the suffix
        self._writer: SingleEndWriter | None = None
        self._has_qualities = False

    def __enter__(self) -> Self:
        return self

    def write(self, record: SequenceRecord, source: str | Path) -> None:
        """Write ``record``, which comes from ``source``.

        Raises:
            InputError: It is FASTA and those before were FASTQ, or the other way round; or there is
                no writing to that folder.
        """
        has_qualities = record.qualities is not None
        if self._writer is None:
            self._has_qualities = has_qualities
            with self._told():
                self._writer = self._open(_KIND[has_qualities].lower())
        if has_qualities is not self._has_qualities:
            raise InputError(
                f"{source}: record {record.name!r} is {_KIND[has_qualities]} — {self._out} is "
                f"{_KIND[self._has_qualities]} by its first record; must be one kind throughout; "
                "screen the files of each kind separately."
            )
        with self._told():
            self._writer.write(record)
        self.written += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._told():
                if self._writer is not None:
                    self._writer.close()
                elif kind is None:
                    self._draft.touch()
                if kind is None:
                    _sync(self._draft)
                    self._draft.replace(self._out)
        finally:
            self._draft.unlink(missing_ok=True)

    def _open(self, fileformat: str) -> SingleEndWriter:
        import dnaio

        return dnaio.open(  # pyright: ignore[reportUnknownMemberType]
            self._draft, mode="w", fileformat=fileformat, open_threads=0
        )

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._out} — cannot be written: {error.strerror or error}; nothing was put "
                "there; give a writable folder with enough space."
            ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
