"""The bits that all block formats share: half-precision scales and packed nibbles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[np.uint8]
"""Stored bytes, one block to a row."""
Floats = NDArray[np.float32]


def floats16(packed: Blocks) -> Floats:
    """Little-endian half floats, shape (n, 2k), widened to (n, k); the widening is exact."""
    return np.ascontiguousarray(packed).view(np.float16).astype(np.float32)


def nibbles(packed: Blocks) -> NDArray[np.uint8]:
    """Four-bit codes, low halves first, then high halves: shape (n, k) to (n, 2k)."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=1)


def shifted(packed: Blocks, shifts: range) -> NDArray[np.uint8]:
    """``packed`` once per shift: shape (n, k) to (n, len(shifts), k)."""
    return packed[:, None, :] >> np.array(shifts, np.uint8)[None, :, None]
