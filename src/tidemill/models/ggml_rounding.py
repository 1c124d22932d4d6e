"""What ggml's block formats keep of numbers: rounding only, without packing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Q4_0_BITS, Q8_0_BITS = 4.5, 8.5
"""Bits per number of ggml's blocks of 32 with an fp16 scale."""


def q4_0(x: F32) -> F32:
    """What ggml's Q4_0 keeps of ``x``, whose last axis holds whole blocks of 32."""
    blocks = x.reshape(-1, 32)
    top = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = top / -8
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.floor(blocks * inverse + 8.5), 0, 15)
    return ((codes - 8) * scale.astype(np.float16).astype(np.float32)).reshape(x.shape)


def q8_0(x: F32) -> F32:
    """What ggml's Q8_0 keeps of ``x``, whose last axis holds whole blocks of 32."""
    blocks = x.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    kept = np.rint(blocks * inverse) * scale.astype(np.float16).astype(np.float32)
    return kept.reshape(x.shape).astype(np.float32)
