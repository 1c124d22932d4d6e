"""Insert and query of a Super Bloom filter as Triton kernels: hash scheme 1, bit for bit.

One program takes ``BLOCK`` k-mers of a 2-bit packed sequence (32 bases per 64-bit word, the first
lowest). Neighbours share a shard, so of their loads and atomics all but the first hit the cache;
a bit that is already set costs no atomic. Checked in Triton's interpreter, never timed there.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _window(packed, base, LENGTH: tl.constexpr, live):
    """``LENGTH`` bases from ``base`` on, right-aligned, the first base lowest."""
    word = base // 32
    shift = (base % 32 * 2).to(tl.uint64)
    low = tl.load(packed + word, mask=live, other=0).to(tl.uint64, bitcast=True)
    high = tl.load(packed + word + 1, mask=live, other=0).to(tl.uint64, bitcast=True)
    # Two shifts, because one by 64 is undefined.
    bases = (low >> shift) | ((high << 1) << (63 - shift))
    return bases & (0xFFFFFFFFFFFFFFFF >> (64 - 2 * LENGTH))


@triton.jit
def _reverse_complement(mer, LENGTH: tl.constexpr):
    x = mer ^ 0xAAAAAAAAAAAAAAAA
    x = ((x >> 2) & 0x3333333333333333) | ((x & 0x3333333333333333) << 2)
    x = ((x >> 4) & 0x0F0F0F0F0F0F0F0F) | ((x & 0x0F0F0F0F0F0F0F0F) << 4)
    x = ((x >> 8) & 0x00FF00FF00FF00FF) | ((x & 0x00FF00FF00FF00FF) << 8)
    x = ((x >> 16) & 0x0000FFFF0000FFFF) | ((x & 0x0000FFFF0000FFFF) << 16)
    x = (x >> 32) | (x << 32)
    return x >> (64 - 2 * LENGTH)


@triton.jit
def _part(mer, offset, LENGTH: tl.constexpr):
    """The ``LENGTH`` bases at ``offset`` of a right-aligned k-mer, left-aligned."""
    return (mer >> (2 * offset)) << (64 - 2 * LENGTH)


@triton.jit
def _smaller(forward, reverse):
    """The canonical strand: the smaller as *signed* words, as the CPU's kernels compare."""
    back = reverse.to(tl.int64, bitcast=True) < forward.to(tl.int64, bitcast=True)
    return tl.where(back, reverse, forward)


@triton.jit
def _mix(mer, low, high):
    a = (mer + low) & 0xFFFFFFFF
    b = ((mer >> 32) + high) & 0xFFFFFFFF
    product = a * b
    return (product ^ (product >> 32)) & 0xFFFFFFFF, product >> 32


@triton.jit
def _shard(
    kmer, reverse, constants, shards, K: tl.constexpr, M: tl.constexpr, CANONICAL: tl.constexpr
):
    """The shard of the highest-ranking m-mer."""
    multiplier = tl.load(constants + 0).to(tl.uint64, bitcast=True)
    low = tl.load(constants + 1).to(tl.uint64, bitcast=True)
    high = tl.load(constants + 2).to(tl.uint64, bitcast=True)
    best = kmer & 0
    for i in tl.static_range(K - M + 1):
        mer = _part(kmer, i, M)
        if M <= 16:
            if CANONICAL:
                mer = tl.minimum(mer, _part(reverse, K - M - i, M))
            rank = ((mer >> 32) * multiplier) & 0xFFFFFFFF
        else:
            if CANONICAL:
                mer = _smaller(mer, _part(reverse, K - M - i, M))
            rank, _ = _mix(mer, low, high)
        best = tl.maximum(best, rank)
    mixed = (
        (best ^ (best >> 15)) * tl.load(constants + 6).to(tl.uint64, bitcast=True)
    ) & 0xFFFFFFFF
    return ((mixed * shards) >> 32).to(tl.int64)


@triton.jit
def _sector_bits(
    kmer,
    reverse,
    constants,
    sector,
    K: tl.constexpr,
    S: tl.constexpr,
    GROUPS: tl.constexpr,
    CANONICAL: tl.constexpr,
):
    """The bits of all s-mers of a k-mer in one 64-bit sector of its shard."""
    low = tl.load(constants + 3).to(tl.uint64, bitcast=True)
    high = tl.load(constants + 4).to(tl.uint64, bitcast=True)
    place_multiplier = tl.load(constants + 5).to(tl.uint64, bitcast=True)
    bits = kmer & 0
    one = bits + 1
    for i in tl.static_range(K - S + 1):
        mer = _part(kmer, i, S)
        if CANONICAL:
            mer = _smaller(mer, _part(reverse, K - S - i, S))
        fold, upper = _mix(mer, low, high)
        for group in tl.static_range(GROUPS):
            x = fold
            if group != 0:
                x = ((fold + group * (upper | 1)) * place_multiplier) & 0xFFFFFFFF
                x = x ^ (x >> 15)
            bits = bits | (one << ((x >> (8 * sector)) & 63))
    return bits


@triton.jit
def insert_kernel(
    words,
    packed,
    valid,
    constants,
    kmers,
    shards,
    K: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    GROUPS: tl.constexpr,
    CANONICAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Set the bits of every valid k-mer; ``words`` int64[4 * shards]."""
    base = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = base < kmers
    live = live & (tl.load(valid + base, mask=live, other=0) != 0)
    kmer = _window(packed, base, K, live)
    reverse = _reverse_complement(kmer, K)
    shard = _shard(kmer, reverse, constants, shards, K, M, CANONICAL)
    for sector in tl.static_range(4):
        bits = _sector_bits(kmer, reverse, constants, sector, K, S, GROUPS, CANONICAL)
        bits = bits.to(tl.int64, bitcast=True)
        at = words + shard * 4 + sector
        missing = (tl.load(at, mask=live, other=0) & bits) != bits
        tl.atomic_or(at, bits, mask=live & missing)


@triton.jit
def contains_kernel(
    words,
    packed,
    valid,
    constants,
    found,
    kmers,
    shards,
    K: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    GROUPS: tl.constexpr,
    CANONICAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Say of every window whether all its bits are set; ``found`` uint8[kmers]."""
    base = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = base < kmers
    live = inside & (tl.load(valid + base, mask=inside, other=0) != 0)
    kmer = _window(packed, base, K, live)
    reverse = _reverse_complement(kmer, K)
    shard = _shard(kmer, reverse, constants, shards, K, M, CANONICAL)
    hit = live
    for sector in tl.static_range(4):
        bits = _sector_bits(kmer, reverse, constants, sector, K, S, GROUPS, CANONICAL)
        bits = bits.to(tl.int64, bitcast=True)
        stored = tl.load(words + shard * 4 + sector, mask=live, other=0)
        hit = hit & ((stored & bits) == bits)
    tl.store(found + base, hit.to(tl.uint8), mask=inside)
