"""GGUF files: metadata and tensors, mapped and not copied, refused before anything absurd is done.

A GGUF file is a header, key-value metadata, a table of tensors, and the aligned data. Every count
and length in it comes from whoever wrote the file: each is checked against what is left of the
file before memory is taken, so a hostile file costs at most a small multiple of its own size.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, UnsupportedModel
from tidemill.models.gguf_cursor import Cursor, MetadataValue, quoted
from tidemill.models.mapped_file import map_file
from tidemill.models.quants import dequantize
from tidemill.models.tensor_info import TensorInfo, tensor_info

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 65_536
MAX_METADATA = 65_536
MAX_NAME_BYTES = 64  # GGML_MAX_NAME
MAX_KEY_BYTES = 65_535
MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32


class GGUFFile:
    """An open GGUF file; a context manager.

    Views given out by ``raw`` stay valid after ``close``: the mapping goes when the last of them
    does. Reading is thread-safe. A file that another program cuts short while it is mapped kills
    the process (SIGBUS), as with every mapped file.
    """

    path: Path
    metadata: Mapping[str, MetadataValue]
    """Strings, numbers and booleans as Python's own; an array as a read-only numpy array, an array
    of strings as a sequence of them."""
    tensors: Mapping[str, TensorInfo]
    """By name, in the order of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        cursor = Cursor(data, path)
        count = _read_header(cursor)
        self.path = path
        self.metadata = MappingProxyType(_read_metadata(cursor, count[1]))
        alignment = _alignment(cursor, self.metadata)
        self.tensors = MappingProxyType(_read_tensors(cursor, count[0], alignment))
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(data, np.uint8)

    @classmethod
    def open(cls, path: Path | str) -> GGUFFile:
        """Map ``path`` and read all but its weights.

        Cost: O(metadata) time and memory; the weights are paged in when they are touched.

        Raises:
            InputError: there is no such file, or it cannot be read.
            CorruptFile: it is not GGUF, is cut short, or contradicts itself.
            UnsupportedModel: it is well-formed but of a version or type that is not known.
        """
        path = Path(path)
        return cls(path, map_file(path))

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of tensor ``name``: a read-only view of shape (nbytes,), not a copy."""
        if self._bytes is None:
            raise InputError(f"{self.path} — was closed; open it again to read {name!r}.")
        info = self._info(name)
        return self._bytes[info.offset : info.offset + info.nbytes]

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The weights of tensor ``name``, a fresh array of its shape (outputs first)."""
        info = self._info(name)
        return dequantize(self.raw(name), info.type).reshape(info.shape)

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._bytes = None

    def _info(self, name: str) -> TensorInfo:
        try:
            return self.tensors[name]
        except KeyError:
            raise InputError(
                f"{self.path} — has no tensor {name!r}; it has {len(self.tensors)} others, "
                "see `tidemill models info`."
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.tensors)} tensors)"


def _read_header(cursor: Cursor) -> tuple[int, int]:
    """The counts of tensors and of metadata entries."""
    magic = cursor.take(4, "the magic")
    if magic != MAGIC:
        raise cursor.corrupt(f"begins with {magic!r}; a GGUF file begins with {MAGIC!r}")
    version = cursor.uint32("the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        found = "big-endian GGUF" if swapped else f"GGUF version {version}"
        raise UnsupportedModel(
            f"{cursor.path} — is {found}; versions 2 and 3, little-endian, can be read; "
            "convert the model with a current llama.cpp."
        )
    tensors = cursor.count("tensors", MAX_TENSORS, at_least=24)
    return tensors, cursor.count("metadata entries", MAX_METADATA, at_least=13)


def _read_metadata(cursor: Cursor, count: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for index in range(count):
        key = cursor.string(f"key {index} of the metadata", MAX_KEY_BYTES)
        if not key:
            raise cursor.corrupt(f"key {index} of the metadata is empty")
        if key in metadata:
            raise cursor.corrupt(f"the metadata has {quoted(key)} twice")
        metadata[key] = cursor.value(key)
    return metadata


def _alignment(cursor: Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    found = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(found, int) or not 8 <= found <= MAX_ALIGNMENT or found & (found - 1):
        raise cursor.corrupt(
            f"general.alignment is {quoted(found)}; must be a power of two, 8 to {MAX_ALIGNMENT}"
        )
    return found


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for index in range(count):
        name = cursor.string(f"the name of tensor {index}", MAX_NAME_BYTES)
        if not name:
            raise cursor.corrupt(f"the name of tensor {index} is empty")
        if name in tensors:
            raise cursor.corrupt(f"two tensors are named {name!r}")
        dims = cursor.dims(name)
        kind, offset = cursor.uint32(f"the type of {name!r}"), cursor.uint64(f"{name!r}'s offset")
        if offset % alignment:
            raise cursor.corrupt(f"{name!r} lies at {offset}; must be a multiple of {alignment}")
        tensors[name] = tensor_info(cursor.path, name, dims, kind, offset)
    return _placed(cursor, tensors, alignment)


def _placed(
    cursor: Cursor, tensors: dict[str, TensorInfo], alignment: int
) -> dict[str, TensorInfo]:
    """The same with offsets from the start of the file; all within it, none over another."""
    start = -(-cursor.position // alignment) * alignment
    end = 0
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        if info.offset < end:
            raise cursor.corrupt(f"{info.name!r} at {info.offset} lies over another tensor")
        end = info.offset + info.nbytes
        if start + end > cursor.size:
            raise cursor.corrupt(
                f"{info.name!r} ends at {start + end}, past the end of the file at {cursor.size}"
            )
    return {name: info.moved(start) for name, info in tensors.items()}
