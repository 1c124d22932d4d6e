"""Safetensors files, one or several shards in a folder: mapped, and checked as GGUF files are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.ggml_types import GGMLType
from tidemill.models.mapped_file import map_file
from tidemill.models.quants import dequantize
from tidemill.models.tensor_info import TensorInfo

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER_BYTES = 1 << 25
"""Room for 200,000 tensors; the safetensors package allows three times as much."""
MAX_JSON_BYTES = 1 << 24
MAX_SHARDS = 1000
_MAX_RANK = 8
_TYPES = {
    "F64": GGMLType.F64,
    "F32": GGMLType.F32,
    "F16": GGMLType.F16,
    "BF16": GGMLType.BF16,
    "I8": GGMLType.I8,
    "I16": GGMLType.I16,
    "I32": GGMLType.I32,
    "I64": GGMLType.I64,
}


class SafetensorsFile:
    """The tensors of one ``.safetensors`` file, or of all shards in a folder."""

    path: Path
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: Path, shards: list[Path]) -> None:
        self.path = path
        tensors: dict[str, TensorInfo] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        for shard in shards:
            data = np.frombuffer(map_file(shard), np.uint8)
            for info in _header(shard, data):
                if info.name in tensors:
                    raise CorruptFile(f"{shard} — holds {info.name!r}, as another shard does.")
                tensors[info.name] = info
                self._bytes[info.name] = data
        self.tensors = MappingProxyType(tensors)

    @classmethod
    def open(cls, path: Path | str) -> SafetensorsFile:
        """Map the file at ``path``, or what ``model.safetensors[.index.json]`` in a folder names.

        Raises:
            InputError: there is no such file, or it cannot be read.
            CorruptFile: it is not safetensors, is cut short, or contradicts itself.
            UnsupportedModel: a tensor is of a type that is not known.
        """
        path = Path(path)
        return cls(path, _shards(path) if path.is_dir() else [path])

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of tensor ``name``: a read-only view of shape (nbytes,), not a copy."""
        try:
            info, data = self.tensors[name], self._bytes[name]
        except KeyError:
            raise InputError(
                f"{self.path} — has no tensor {name!r}, or was closed; "
                "`tidemill models info` lists the tensors."
            ) from None
        return data[info.offset : info.offset + info.nbytes]

    def dequantize(self, name: str) -> NDArray[np.float32]:
        """The weights of tensor ``name``, a fresh float32 array of its shape."""
        raw = self.raw(name)
        info = self.tensors[name]
        return dequantize(raw, info.type).reshape(info.shape)

    def close(self) -> None:
        """Let go of the files; may be called twice."""
        self._bytes.clear()

    def __repr__(self) -> str:
        return f"SafetensorsFile({str(self.path)!r}, {len(self.tensors)} tensors)"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file.

    Raises:
        InputError: it cannot be read.
        CorruptFile: it is not a JSON object, or is absurdly large.
    """
    return _object(read_bytes(path, MAX_JSON_BYTES), path)


def read_bytes(path: Path, most: int) -> bytes:
    """What is in a small file.

    Raises:
        InputError: it cannot be read.
        CorruptFile: it is larger than ``most`` bytes.
    """
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{path} — cannot be read: {error}.") from error
    if len(text) > most:
        raise CorruptFile(f"{path} — has more than {most} bytes; copy the model again.")
    return text


def _object(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} — is not JSON: {error}; copy the model again.") from error
    if not isinstance(found, dict):
        raise CorruptFile(f"{path} — is JSON, but not an object; copy the model again.")
    return cast("dict[str, Any]", found)


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return [folder / SINGLE]
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CorruptFile(f"{index} — has no weight_map; copy the model again.")
    files = sorted({str(name) for name in cast("dict[str, object]", names).values()})
    if len(files) > MAX_SHARDS:
        raise CorruptFile(f"{index} — names {len(files)} shards; {MAX_SHARDS} are the most.")
    for name in files:
        if Path(name).name != name:
            raise CorruptFile(f"{index} — names {name!r}, which is not a file beside it.")
    return [folder / name for name in files]


def _header(path: Path, data: NDArray[np.uint8]) -> list[TensorInfo]:
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CorruptFile(
            f"{path} — claims a header of {length} bytes in a file of {len(data)}; copy it again."
        )
    start = 8 + length
    entries = _object(data[8:start].tobytes(), path)
    entries.pop("__metadata__", None)
    infos = [_info(path, name, entry, start) for name, entry in entries.items()]
    end = start
    for info in sorted(infos, key=lambda info: info.offset):
        if info.offset < end:
            raise CorruptFile(f"{path} — {info.name!r} lies over another tensor; copy it again.")
        end = info.offset + info.nbytes
        if end > len(data):
            raise CorruptFile(
                f"{path} — {info.name!r} ends at {end}, past the end of the file at {len(data)}; "
                "copy it again."
            )
    return infos


def _info(path: Path, name: str, entry: object, start: int) -> TensorInfo:
    found = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    shape, offsets = _naturals(found.get("shape")), _naturals(found.get("data_offsets"))
    if shape is None or offsets is None or len(offsets) != 2 or len(shape) > _MAX_RANK:
        raise CorruptFile(f"{path} — says nothing sensible of {name[:80]!r}; copy it again.")
    known = _TYPES.get(str(found.get("dtype")))
    if known is None:
        raise UnsupportedModel(
            f"{path} — {name[:80]!r} is of type {str(found.get('dtype'))[:20]!r}; "
            f"{', '.join(_TYPES)} can be read; use another model."
        )
    nbytes = known.nbytes(prod(shape))
    if offsets[1] - offsets[0] != nbytes:
        raise CorruptFile(
            f"{path} — {name[:80]!r} of shape {shape} takes {nbytes} bytes, but has "
            f"{offsets[1] - offsets[0]}; copy it again."
        )
    return TensorInfo(name, shape, known, start + offsets[0], nbytes)


def _naturals(found: object) -> tuple[int, ...] | None:
    if not isinstance(found, list):
        return None
    numbers = cast("list[object]", found)
    if all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        return tuple(cast("list[int]", numbers))
    return None
