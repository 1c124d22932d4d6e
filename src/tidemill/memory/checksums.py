"""CRC32C, by the processor's instruction where there is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidemill.memory.kernels import kernels

U32 = NDArray[np.uint32]


def as_bytes(data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes as an array of one dimension, without a copy."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def crc32c(data: bytes | bytearray | memoryview | NDArray[np.uint8], before: int = 0) -> int:
    """CRC32C (Castagnoli) of the bytes; ``before`` continues an earlier one."""
    return int(kernels().crc32c(as_bytes(data), before))


def crc32c_of_chunks(
    data: bytes | bytearray | memoryview | NDArray[np.uint8], chunk_bytes: int
) -> U32:
    """CRC32C of each chunk, the last of which may be shorter: (chunks,)."""
    flat = as_bytes(data)
    sums = np.empty(-(-flat.size // chunk_bytes), np.uint32)
    kernels().crc32c_of_chunks(flat, chunk_bytes, sums)
    return sums
