"""Many strings as one run of bytes: a vocabulary of 262,144 as Python's own takes 18 MB, so 4."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast, overload


class StringArray(Sequence[str]):
    """Strings that are decoded when they are asked for; immutable, equal to a sequence of equals.

    Cost: indexing O(1), a fresh string each time.
    """

    __slots__ = ("_bytes", "_ends")

    def __init__(self, data: bytes | bytearray, ends: array[int]) -> None:
        """Take ``data`` and where its strings end; each must be UTF-8, as the reader has checked.

        Args:
            data: All strings, one after the other.
            ends: 0, then the end of each string.
        """
        self._bytes = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        return self._bytes[self._ends[at] : self._ends[at + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        data = self._bytes
        return (data[begin:end].decode() for begin, end in pairwise(self._ends))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringArray | list | tuple):
            return NotImplemented
        others = cast("Sequence[object]", other)
        return len(self) == len(others) and all(a == b for a, b in zip(self, others, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as a list, it equals lists

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"
