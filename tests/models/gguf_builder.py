"""GGUF files made byte by byte, so that any single thing in them can be wrong."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

STRING, ARRAY, UINT32, FLOAT32, BOOL, UINT64 = 8, 9, 4, 6, 7, 10
F32, Q8_0 = 0, 8


def uint32(value: int) -> bytes:
    return struct.pack("<I", value)


def uint64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return uint64(len(data)) + data


def value(found: Any) -> bytes:
    """A type tag and the value, as llama.cpp's converter would choose."""
    if isinstance(found, bytes):
        return found
    if isinstance(found, bool):
        return uint32(BOOL) + bytes([found])
    if isinstance(found, int):
        return uint32(UINT32) + uint32(found)
    if isinstance(found, float):
        return uint32(FLOAT32) + struct.pack("<f", found)
    if isinstance(found, str):
        return uint32(STRING) + string(found)
    items = b"".join(string(item) for item in found)
    return uint32(ARRAY) + uint32(STRING) + uint64(len(found)) + items


@dataclass
class Tensor:
    name: str | bytes
    dims: Sequence[int]
    """Innermost first, as in the file."""
    data: bytes
    kind: int = F32
    offset: int | None = None
    rank: int | None = None

    def row(self, offset: int) -> bytes:
        rank = len(self.dims) if self.rank is None else self.rank
        return (
            string(self.name)
            + uint32(rank)
            + b"".join(uint64(dim) for dim in self.dims)
            + uint32(self.kind)
            + uint64(offset if self.offset is None else self.offset)
        )


@dataclass
class Gguf:
    """``build()`` is a valid file unless something was set to be wrong."""

    metadata: Mapping[str | bytes, Any] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    metadata_count: int | None = None
    alignment: int = 32

    def head(self) -> bytes:
        count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entries = len(self.metadata) if self.metadata_count is None else self.metadata_count
        found = self.magic + uint32(self.version) + uint64(count) + uint64(entries)
        found += b"".join(string(key) + value(item) for key, item in self.metadata.items())
        offset = 0
        for tensor in self.tensors:
            found += tensor.row(offset)
            offset += self.padded(len(tensor.data))
        return found

    def padded(self, length: int) -> int:
        return -(-length // self.alignment) * self.alignment

    def build(self) -> bytes:
        found = self.head()
        found += bytes(self.padded(len(found)) - len(found))
        for tensor in self.tensors:
            found += tensor.data + bytes(self.padded(len(tensor.data)) - len(tensor.data))
        return found


def floats(*dims: int) -> bytes:
    """The bytes of a float32 tensor of ``dims``, counted up."""
    count = 1
    for dim in dims:
        count *= dim
    return struct.pack(f"<{count}f", *range(count))


def llama(layers: int = 2, **changed: Any) -> Gguf:
    """A tiny, valid model: 4 heads of 8, 2 of keys, 5 words."""
    metadata: dict[str | bytes, Any] = {
        "general.architecture": "llama",
        "llama.block_count": layers,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": ["a", "b", "c", "d", "e"],
    }
    metadata |= {key.replace("__", "."): item for key, item in changed.items()}
    metadata = {key: item for key, item in metadata.items() if item is not None}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (32, 5), "output_norm.weight": (32,)}
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (32,),
            f"blk.{layer}.attn_q.weight": (32, 32),
            f"blk.{layer}.attn_k.weight": (32, 16),
            f"blk.{layer}.attn_v.weight": (32, 16),
            f"blk.{layer}.attn_output.weight": (32, 32),
            f"blk.{layer}.ffn_norm.weight": (32,),
            f"blk.{layer}.ffn_gate.weight": (32, 48),
            f"blk.{layer}.ffn_up.weight": (32, 48),
            f"blk.{layer}.ffn_down.weight": (48, 32),
        }
    tensors = [Tensor(name, dims, floats(*dims)) for name, dims in shapes.items()]
    return Gguf(metadata, tensors)
