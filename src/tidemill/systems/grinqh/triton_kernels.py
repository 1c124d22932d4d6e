"""The product of chosen columns as a Triton kernel: bit-planes as they are stored, sums in float32.

One program owns the 128 outputs of half a group, so that no sum is shared. All columns of a launch
are read at one level; a byte of a plane is loaded once for the four or eight outputs in it by as
many lanes, of which all but the first hit the cache. Checked in Triton's interpreter, never timed.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _bits(plane, at, shift, WIDTH: tl.constexpr, live):
    """Some bits of a byte for each lane."""
    byte = tl.load(plane + at, mask=live, other=0).to(tl.int32)
    return (byte >> shift) & ((1 << WIDTH) - 1)


@triton.jit
def add_columns(
    two,
    three,
    four,
    six,
    columns,
    inputs,
    values,
    y,
    count,
    halves,
    PLANES: tl.constexpr,
):
    """Add inputs[i] * values[code of column columns[i]] for all i to the outputs of one half."""
    half = tl.program_id(0)
    output = tl.arange(0, 128)
    lane, field = output % 32, output // 32
    group, upper = half // 2, half % 2
    alone = (half == halves - 1).to(tl.int32) * (halves % 2)
    always = lane >= 0
    wide, third, fourth = halves * 32, (halves + 1) // 2 * 32, halves // 2 * 32
    one_at = 2 + field % 2 + 4 * (field // 2)  # see `graded_matrix.pack`
    last_at = 1 - field % 2 + 4 * (field // 2)
    sums = tl.zeros((128,), tl.float32)
    for i in range(count):
        column = tl.load(columns + i).to(tl.int64)
        code = _bits(two, column * wide + half * 32 + lane, 2 * field, 2, always)
        if PLANES > 1:
            at = column * third + group * 32 + lane
            code |= _bits(three, at, one_at - 2 * upper, 1, always) << 2
        if PLANES > 2:
            # the last half of all, if it is alone, keeps its fourth bits beside its third
            shared = _bits(three, column * third + group * 32 + lane, one_at - 2, 1, always)
            own_at = column * fourth + group * 32 + lane
            own = _bits(four, own_at, one_at - 2 * upper, 1, lane >= 32 * alone)
            code |= tl.where(alone > 0, shared, own) << 3
        if PLANES > 3:
            at = column * wide + half * 32 + lane
            code |= _bits(six, at, last_at, 1, always) << 4
            code |= _bits(six, at, last_at + 2, 1, always) << 5
        sums += tl.load(inputs + i) * tl.load(values + code)
    at = y + half * 128 + output
    tl.store(at, tl.load(at) + sums)
