"""Reading GGUF's primitives in order, with every length checked before it is believed."""

from __future__ import annotations

import mmap
import struct
from array import array
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, UnsupportedModel
from tidemill.models.string_array import StringArray

MetadataArray = (
    NDArray[np.int8]
    | NDArray[np.uint8]
    | NDArray[np.int16]
    | NDArray[np.uint16]
    | NDArray[np.int32]
    | NDArray[np.uint32]
    | NDArray[np.int64]
    | NDArray[np.uint64]
    | NDArray[np.float32]
    | NDArray[np.float64]
    | NDArray[np.bool_]
)
MetadataValue = bool | int | float | str | MetadataArray | StringArray

MAX_STRING_BYTES = 1 << 24
MAX_ELEMENTS = 1 << 23
"""Elements of all arrays of a file together; the largest vocabularies have 262,144 tokens."""
MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_QUOTED = 80
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, type[np.generic]] = {
    0: np.uint8,
    1: np.int8,
    2: np.uint16,
    3: np.int16,
    4: np.uint32,
    5: np.int32,
    6: np.float32,
    _BOOL: np.uint8,
    10: np.uint64,
    11: np.int64,
    12: np.float64,
}
_UINT64 = struct.Struct("<Q")


def quoted(found: object) -> str:
    """``found`` for an error message: escaped, and not longer than a line."""
    text = repr(found)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"


class Cursor:
    """A position in a mapped file that moves forward; every read says what it is for.

    Raises ``CorruptFile`` when less is left than is asked for.
    """

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.path = path
        self.position = 0
        self.size = len(data)
        self._data = data
        self._elements_left = MAX_ELEMENTS

    def corrupt(self, found: str) -> CorruptFile:
        """The error for this file, to raise."""
        return CorruptFile(f"{self.path} — {found}; pull or copy the file again.")

    def take(self, length: int, what: str) -> bytes:
        """The next ``length`` bytes."""
        start = self._reserve(length, what)
        return self._data[start : start + length]

    def _reserve(self, length: int, what: str) -> int:
        start = self.position
        if length > self.size - start:
            raise self.corrupt(
                f"{what} needs {length} bytes at {start}, the file ends after {self.size - start}"
            )
        self.position = start + length
        return start

    def uint32(self, what: str) -> int:
        """The next four bytes."""
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        """The next eight bytes."""
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, most: int, *, at_least: int) -> int:
        """How many ``what`` follow, each of ``at_least`` bytes."""
        found = self.uint64(f"the number of {what}")
        if found > most or found * at_least > self.size:
            raise self.corrupt(
                f"claims {found} {what} in {self.size} bytes; at most {most} are read"
            )
        return found

    def string(self, what: str, most: int = MAX_STRING_BYTES) -> str:
        """A length and that many bytes of UTF-8."""
        length = self.uint64(f"the length of {what}")
        if length > most:
            raise self.corrupt(f"{what} claims {length} bytes; at most {most} are read")
        return self._text(self.take(length, what), what)

    def _text(self, found: bytes, what: str) -> str:
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} is not UTF-8 ({error.reason})") from error

    def dims(self, name: str) -> tuple[int, ...]:
        """The dimensions of tensor ``name``, innermost first."""
        rank = self.uint32(f"the rank of {name!r}")
        if not 1 <= rank <= MAX_DIMS:
            raise self.corrupt(f"{name!r} has {rank} dimensions; 1 to {MAX_DIMS} are possible")
        dims = tuple(self.uint64(f"the dimensions of {name!r}") for _ in range(rank))
        if 0 in dims or max(dims) > 1 << 40:
            raise self.corrupt(f"{name!r} has the dimensions {dims}; each must be 1 to 2^40")
        return dims

    def value(self, key: str) -> MetadataValue:
        """A type tag and a value of that type."""
        kind = self.uint32(f"the type of {quoted(key)}")
        if kind == _STRING:
            return self.string(quoted(key))
        if kind == _ARRAY:
            return self._array(key)
        array = self._numbers(key, kind, 1)
        return cast("bool | int | float", array[0].item())

    def _array(self, key: str) -> MetadataValue:
        kind = self.uint32(f"the element type of {quoted(key)}")
        if kind == _ARRAY:
            raise UnsupportedModel(
                f"{self.path} — {quoted(key)} is an array of arrays, which no known model uses; "
                "convert the model with a current llama.cpp."
            )
        count = self.uint64(f"the length of {quoted(key)}")
        if count > self._elements_left:
            raise self.corrupt(
                f"{quoted(key)} claims {count} elements; a file may have {MAX_ELEMENTS}"
            )
        self._elements_left -= count
        return self._strings(key, count) if kind == _STRING else self._numbers(key, kind, count)

    def _numbers(self, key: str, kind: int, count: int) -> MetadataArray:
        dtype = _NUMBERS.get(kind)
        if dtype is None:
            raise self.corrupt(f"{quoted(key)} is of type {kind}; types 0 to 12 are possible")
        size = np.dtype(dtype).itemsize
        found = np.frombuffer(self.take(count * size, quoted(key)), dtype)
        if kind == _BOOL:
            if count and int(found.max()) > 1:
                raise self.corrupt(f"{quoted(key)} is a boolean that is neither 0 nor 1")
            found = found.astype(np.bool_)
            found.flags.writeable = False
        return cast("MetadataArray", found)

    def _strings(self, key: str, count: int) -> StringArray:
        """Vocabularies, in one loop: half the time of a call of ``string`` for each."""
        what = f"an element of {quoted(key)}"
        data, size, position, read = self._data, self.size, self.position, _UINT64.unpack_from
        self._reserve(8 * count, quoted(key))
        strings, ends = bytearray(), array("Q", (0,))
        try:
            for _ in range(count):
                (length,) = read(data, position)
                position += 8
                if length > size - position or length > MAX_STRING_BYTES:
                    raise self.corrupt(f"{what} claims {length} bytes, {size - position} are left")
                text = data[position : position + length]
                text.decode()
                strings += text
                ends.append(len(strings))
                position += length
        except struct.error as error:
            raise self.corrupt(f"{what} needs 8 bytes at {position}, past the end") from error
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} is not UTF-8 ({error.reason})") from error
        self.position = position
        return StringArray(strings, ends)
