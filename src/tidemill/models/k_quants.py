"""The K-quants: super-blocks of 256 weights whose sub-block scales are quantised themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidemill.models.quant_bits import Blocks, Floats, floats16, nibbles, shifted


def q2_k(blocks: Blocks) -> Floats:
    """2-bit codes, 16 sub-blocks with a 4-bit scale and a 4-bit minimum each."""
    count = len(blocks)
    packed, codes = blocks[:, :16], blocks[:, 16:80]
    scale = floats16(blocks[:, 80:82]) * (packed & np.uint8(15)).astype(np.float32)
    minimum = floats16(blocks[:, 82:84]) * (packed >> np.uint8(4)).astype(np.float32)
    weights = (shifted(codes.reshape(-1, 32), range(0, 8, 2)) & np.uint8(3)).reshape(count, 16, 16)
    scaled = scale[:, :, None] * weights.astype(np.float32)
    return np.subtract(scaled, minimum[:, :, None]).reshape(count, 256)


def q3_k(blocks: Blocks) -> Floats:
    """3-bit codes (2 low bits, and a mask whose set bit spares the weight 4 less)."""
    count = len(blocks)
    mask, codes, packed = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108]
    scale = floats16(blocks[:, 108:110]) * _q3_scales(packed)
    low = (shifted(codes.reshape(-1, 32), range(0, 8, 2)) & np.uint8(3)).reshape(count, 16, 16)
    unset = (shifted(mask, range(8)).reshape(count, 16, 16) & np.uint8(1)) ^ np.uint8(1)
    weights = low.astype(np.int8) - (unset << np.uint8(2)).astype(np.int8)
    return (scale[:, :, None] * weights).reshape(count, 256)


def _q3_scales(packed: Blocks) -> Floats:
    """Sixteen signed 6-bit scales: eight bytes of low nibbles, then four of high bit pairs."""
    count = len(packed)
    low = shifted(packed[:, :8], range(0, 8, 4)).reshape(count, 16) & np.uint8(15)
    high = shifted(packed[:, 8:], range(0, 8, 2)).reshape(count, 16) & np.uint8(3)
    return ((low | (high << np.uint8(4))).astype(np.int8) - np.int8(32)).astype(np.float32)


def _scales_and_minima(packed: Blocks) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Eight 6-bit scales and minima of Q4_K and Q5_K from twelve bytes, shape (n, 8) each."""
    scale, minimum, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    high_scale = (rest & np.uint8(15)) | ((scale >> np.uint8(2)) & np.uint8(0x30))
    high_minimum = (rest >> np.uint8(4)) | ((minimum >> np.uint8(2)) & np.uint8(0x30))
    return (
        np.concatenate([scale & np.uint8(0x3F), high_scale], axis=1),
        np.concatenate([minimum & np.uint8(0x3F), high_minimum], axis=1),
    )


def _scaled(blocks: Blocks, codes: NDArray[np.uint8]) -> Floats:
    """``d · scale · code − dmin · minimum`` with ``codes`` of shape (n, 8, 32)."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scale = floats16(blocks[:, 0:2]) * scales.astype(np.float32)
    minimum = floats16(blocks[:, 2:4]) * minima.astype(np.float32)
    scaled = scale[:, :, None] * codes.astype(np.float32)
    return np.subtract(scaled, minimum[:, :, None]).reshape(len(blocks), 256)


def q4_k(blocks: Blocks) -> Floats:
    """4-bit codes, 8 sub-blocks with a 6-bit scale and minimum each."""
    return _scaled(blocks, nibbles(blocks[:, 16:].reshape(-1, 32)).reshape(-1, 8, 32))


def q5_k(blocks: Blocks) -> Floats:
    """As ``q4_k`` with a fifth bit per weight."""
    low = nibbles(blocks[:, 48:].reshape(-1, 32)).reshape(-1, 8, 32)
    high = shifted(blocks[:, 16:48], range(8)) & np.uint8(1)
    return _scaled(blocks, low | (high << np.uint8(4)))


def q6_k(blocks: Blocks) -> Floats:
    """Signed 6-bit codes, 16 sub-blocks with an 8-bit scale each."""
    count = len(blocks)
    low, high = blocks[:, :128].reshape(-1, 64), blocks[:, 128:192].reshape(-1, 32)
    scale = floats16(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    codes = nibbles(low).reshape(count, 8, 32)
    codes |= (shifted(high, range(0, 8, 2)) & np.uint8(3)).reshape(count, 8, 32) << np.uint8(4)
    weights = (codes.astype(np.int8) - np.int8(32)).reshape(count, 16, 16)
    return (scale[:, :, None] * weights).reshape(count, 256)


def q8_k(blocks: Blocks) -> Floats:
    """8-bit codes with one float32 scale; the block sums behind them are derived, so unread."""
    scale = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
    return scale * blocks[:, 4:260].view(np.int8)
