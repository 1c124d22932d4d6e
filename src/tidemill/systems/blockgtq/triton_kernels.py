"""Decode attention over packed tiles as a Triton kernel: nothing is ever written unpacked.

One program owns some tiles of one KV head, for all query heads of its group: it unpacks each once,
scores it, and keeps a running softmax in base 2. Programs leave their maximum, denominator and
weighted sum, which the host merges. How a head is packed is data (`gpu.layout`), so that one kernel
serves every allocation. Checked in Triton's interpreter, never timed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _unpacked(tile, layout, ranges, centroids, D: tl.constexpr):
    """Centroids of a tile's codes times their norms, (32, D); see `gpu.layout` for the rows."""
    dim = tl.arange(0, D)[None, :]
    slot = tl.arange(0, 32)[:, None]
    per = tl.load(layout + 2 * D + dim)
    vector = tl.load(layout + 3 * D + dim) + slot // per * tl.load(layout + 4 * D + dim)
    place = tl.load(layout + 5 * D + dim) * (slot % per) + tl.load(layout + 6 * D + dim)
    at = tl.load(layout + dim) + vector * tl.load(layout + D + dim)
    code = tl.zeros((32, D), tl.int32)
    for field in tl.static_range(3):
        bits = tl.load(layout + (10 + 3 * field) * D + dim)
        first = tl.load(layout + (11 + 3 * field) * D + dim)
        lowest = tl.load(layout + (12 + 3 * field) * D + dim)
        size = tl.maximum(4 * bits, 1)
        byte = tl.load(tile + at + first + place % size, mask=bits > 0, other=0).to(tl.int32)
        code |= ((byte >> (bits * (place // size))) & ((1 << bits) - 1)) << lowest
    norm_bytes = tl.load(layout + 8 * D + dim)
    norm_at = tile + tl.load(layout + 7 * D + dim) + slot * norm_bytes
    low = tl.load(norm_at, mask=norm_bytes > 0, other=0).to(tl.int32)
    high = tl.load(norm_at + 1, mask=norm_bytes > 1, other=0).to(tl.int32)
    half = ((high << 8) | low).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    power = tl.exp2(tl.load(ranges + dim) + tl.load(ranges + D + dim) * (low - 1).to(tl.float32))
    norm = tl.where(norm_bytes > 1, half, tl.where(low > 0, power, 0.0))
    return norm * tl.load(centroids + tl.load(layout + 9 * D + dim) + code)


@triton.jit
def attend_tiles(
    tiles,
    queries,
    waves,
    frequencies,
    key_layout,
    key_ranges,
    value_layout,
    value_ranges,
    centroids,
    tops,
    sums,
    outs,
    tokens,
    base,
    tile_bytes,
    per_split,
    HEADS: tl.constexpr,
    D: tl.constexpr,
):
    """Softmax over the tokens of ``per_split`` tiles: maxima, denominators and weighted sums.

    Scores are in base 2: queries (HEADS, D) are scaled for it, as are the waves (2, HEADS, D / 2),
    by which the mean key counts with the cosine and the sine of each block's angle.
    """
    split = tl.program_id(0)
    head, dim, slot = tl.arange(0, HEADS), tl.arange(0, D), tl.arange(0, 32)
    block = tl.arange(0, D // 2)
    query = tl.load(queries + head[:, None] * D + dim[None, :])
    at = head[:, None] * (D // 2) + block[None, :]
    even, odd = tl.load(waves + at), tl.load(waves + HEADS * (D // 2) + at)
    turn = tl.load(frequencies + block)
    top = tl.full((HEADS,), -1e30, tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    out = tl.zeros((HEADS, D), tl.float32)
    last = tl.minimum((split + 1) * per_split, (tokens + 31) // 32)
    tile = tiles + split.to(tl.int64) * per_split * tile_bytes
    for n in range(split * per_split, last):
        keys = _unpacked(tile, key_layout, key_ranges, centroids, D)
        turns = (base + n * 32 + slot).to(tl.float64)[:, None] * turn[None, :]
        angle = ((turns - tl.floor(turns)) * 6.283185307179586).to(tl.float32)
        score = tl.dot(query, tl.trans(keys), input_precision="ieee")
        score += tl.dot(even, tl.trans(tl.cos(angle)), input_precision="ieee")
        score += tl.dot(odd, tl.trans(tl.sin(angle)), input_precision="ieee")
        score = tl.where((n * 32 + slot < tokens)[None, :], score, -2e30)
        highest = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - highest[:, None])
        kept = tl.exp2(top - highest)
        values = _unpacked(tile, value_layout, value_ranges, centroids, D)
        out = out * kept[:, None] + tl.dot(weight, values, input_precision="ieee")
        total = total * kept + tl.sum(weight, 1)
        top = highest
        tile += tile_bytes
    tl.store(tops + split * HEADS + head, top)
    tl.store(sums + split * HEADS + head, total)
    tl.store(outs + (split * HEADS + head[:, None]) * D + dim[None, :], out)
