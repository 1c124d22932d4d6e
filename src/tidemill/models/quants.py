"""Stored blocks of weights back to float32: plain numpy, a group of blocks at a time.

The order of operations is ggml's own, so that the result equals its reference bit for bit.
Nothing here is fast enough to decode with; the native matrices keep the weights packed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import UnsupportedModel
from tidemill.models import k_quants
from tidemill.models.ggml_types import GGMLType
from tidemill.models.quant_bits import Blocks, Floats, floats16, nibbles

_GROUP = 1 << 18
"""Weights that are unpacked at a time, so that temporaries stay within a few MiB."""
_IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def dequantize(raw: NDArray[np.uint8], kind: GGMLType) -> NDArray[np.float32]:
    """The weights stored in ``raw``, flat.

    Args:
        raw: whole blocks of ``kind``, shape (blocks · block_bytes,).
        kind: any type in ``DEQUANTIZERS``.

    Returns:
        Shape (blocks · block_size,), a fresh array.

    Raises:
        UnsupportedModel: ``kind`` has no dequantiser here.
    """
    unpack = DEQUANTIZERS.get(kind)
    if unpack is None:
        known = ", ".join(sorted(known.name for known in DEQUANTIZERS))
        raise UnsupportedModel(
            f"tensor type {kind.name} — cannot be unpacked; of the types of ggml these can: "
            f"{known}; convert the model with llama-quantize."
        )
    blocks = raw.reshape(-1, kind.block_bytes)
    weights = np.empty((len(blocks), kind.block_size), np.float32)
    step = max(1, _GROUP // kind.block_size)
    with np.errstate(all="ignore"):  # a damaged scale may be infinite; the result then is too
        for start in range(0, len(blocks), step):
            weights[start : start + step] = unpack(blocks[start : start + step])
    return weights.reshape(-1)


def _f32(blocks: Blocks) -> Floats:
    return blocks.view(np.float32)


def _f16(blocks: Blocks) -> Floats:
    return floats16(blocks)


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def _f64(blocks: Blocks) -> Floats:
    return blocks.view(np.float64).astype(np.float32)


def _q4_0(blocks: Blocks) -> Floats:
    return floats16(blocks[:, :2]) * (nibbles(blocks[:, 2:]).astype(np.int8) - np.int8(8))


def _q4_1(blocks: Blocks) -> Floats:
    scale, minimum = floats16(blocks[:, :2]), floats16(blocks[:, 2:4])
    return scale * nibbles(blocks[:, 4:]) + minimum


def _fifth_bits(packed: Blocks) -> NDArray[np.uint8]:
    """Four bytes with one bit per weight, shape (blocks, 4), as 0 or 16, shape (blocks, 32)."""
    return np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)


def _q5_0(blocks: Blocks) -> Floats:
    codes = nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return floats16(blocks[:, :2]) * (codes.astype(np.int8) - np.int8(16))


def _q5_1(blocks: Blocks) -> Floats:
    codes = nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return floats16(blocks[:, :2]) * codes + floats16(blocks[:, 2:4])


def _q8_0(blocks: Blocks) -> Floats:
    return floats16(blocks[:, :2]) * blocks[:, 2:].view(np.int8)


def _iq4_nl(blocks: Blocks) -> Floats:
    return floats16(blocks[:, :2]) * _IQ4_VALUES[nibbles(blocks[:, 2:])]


def _iq4_xs(blocks: Blocks) -> Floats:
    count = len(blocks)
    low = (blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)).reshape(count, 8) & np.uint8(15)
    packed = np.ascontiguousarray(blocks[:, 2:4]).view(np.uint16)
    high = packed >> np.arange(0, 16, 2, dtype=np.uint16)
    scales = (low | ((high & np.uint16(3)).astype(np.uint8) << np.uint8(4))).astype(np.int8)
    scaled = floats16(blocks[:, :2]) * (scales - np.int8(32)).astype(np.float32)
    codes = nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(count, 8, 32)
    return (scaled[:, :, None] * _IQ4_VALUES[codes]).reshape(count, 256)


DEQUANTIZERS: dict[GGMLType, Callable[[Blocks], Floats]] = {
    GGMLType.F32: _f32,
    GGMLType.F16: _f16,
    GGMLType.BF16: _bf16,
    GGMLType.F64: _f64,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    GGMLType.IQ4_NL: _iq4_nl,
    GGMLType.IQ4_XS: _iq4_xs,
    GGMLType.Q2_K: k_quants.q2_k,
    GGMLType.Q3_K: k_quants.q3_k,
    GGMLType.Q4_K: k_quants.q4_k,
    GGMLType.Q5_K: k_quants.q5_k,
    GGMLType.Q6_K: k_quants.q6_k,
    GGMLType.Q8_K: k_quants.q8_k,
}
"""What each type is unpacked with: blocks, shape (n, block_bytes), to weights (n, block_size)."""
