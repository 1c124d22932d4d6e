"""What the Super Bloom filter races against, each at its best and all on one footing.

A contender's filter and answer buffer are allocated on huge pages and touched before a clock runs;
its input lies in memory; one call does all the work. The keyed filters are handed canonical k-mers
ready packed, rbloom ready-made strings: what it costs to make those is not held against them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

import numpy as np

from tidemill.bench.wording import figure
from tidemill.errors import MissingCapability
from tidemill.systems.cusbf import kernels, storage
from tidemill.systems.cusbf.config import SHARD_BITS, CuSBFConfig
from tidemill.systems.cusbf.kernels import U8, U64


@dataclass(frozen=True, slots=True)
class Contender:
    """A filter with its input in memory; ``query`` gives how many of the ``kmers`` were found."""

    name: str
    kmers: int
    insert: Callable[[], object]
    query: Callable[[], int]
    clear: Callable[[], object]
    words: U64


REFERENCE = {"insert": 30.5, "query": 18.3}
"""Million k-mers a second of the CPU reference implementation: constants, see `REFERENCE_IS`.

Its licence (AGPL-3.0) and vendored crates keep it out of a test run. An older EPYC at 2.45 GHz gave
12.0 and 12.6, from a FASTA file; a ratio to those would flatter.
"""
REFERENCE_IS = (
    "CPU Super Bloom reference (Rust, commit 53162b9), a figure recorded once and NOT measured in "
    "this run: 256 MiB filter, one thread, 32 million random bases in memory, median CPU time of 8 "
    "runs, built for the native CPU, an AMD EPYC of family 26 (Zen 5)"
)


def super_bloom(config: CuSBFConfig, bits: int, bases: U8, *, threads: int = 1) -> Contender:
    """The subject: the batch pipeline."""
    code = kernels.load()
    layout = _layout(config, bits, s=config.s, m=config.m, hashes=config.hashes)
    return _contender(
        _sized("Super Bloom", bits, threads),
        bits,
        len(bases) - config.k + 1,
        lambda words: code.super_insert(layout, words, bases, threads, False),
        lambda words, found: code.super_contains(layout, words, bases, found, threads)[1],
    )


def blocked_bloom(config: CuSBFConfig, bits: int, bases: U8, *, threads: int = 1) -> Contender:
    """A block per k-mer, hashed in batches and prefetched; 4 bits per k-mer, the fastest choice."""
    code = kernels.load()
    layout = _layout(config, bits, s=config.k, m=config.k, hashes=4)
    return _contender(
        _sized("blocked Bloom", bits, threads),
        bits,
        len(bases) - config.k + 1,
        lambda words: code.blocked_insert(layout, words, bases, threads, False),
        lambda words, found: code.blocked_contains(layout, words, bases, found, threads)[1],
    )


def scalar_super_bloom(config: CuSBFConfig, bits: int, bases: U8) -> Contender:
    """The subject's filter, bit for bit, by one k-mer and one shard access at a time."""
    code = kernels.load()
    layout = _layout(config, bits, s=config.s, m=config.m, hashes=config.hashes)
    return _contender(
        "scalar Super Bloom",
        bits,
        len(bases) - config.k + 1,
        lambda words: code.scalar_insert(layout, words, bases),
        lambda words, found: code.scalar_contains(layout, words, bases, found)[1],
    )


def keyed_bloom(bits: int, mers: U64) -> Contender:
    """CuCollections' blocked Bloom policy: packed keys, xxHash64, 8 bits in 256, no prefetch."""
    code = kernels.load()
    return _contender(
        "blocked Bloom as in cuCollections",
        bits,
        len(mers),
        lambda words: code.keyed_insert(words, mers),
        lambda words, found: code.keyed_contains(words, mers, found),
    )


def cuckoo_filter(bits: int, mers: U64) -> Contender:
    """A dynamic filter: buckets of four 16-bit fingerprints; ``bits`` a power of two."""
    code = kernels.load()
    return _contender(
        "cuckoo filter",
        bits,
        len(mers),
        lambda words: code.cuckoo_insert(words.view(np.uint16), mers),
        lambda words, found: code.cuckoo_contains(words.view(np.uint16), mers, found),
    )


def rbloom_filter(bits: int, kmers: list[str], *, bits_per_kmer: float) -> Contender:
    """The rbloom package through its bulk calls, as many hashes as suit ``bits_per_kmer``.

    Raises:
        MissingCapability: It is not installed.
    """
    try:
        import rbloom
    except ImportError as error:
        raise MissingCapability(
            "rbloom — this Python package is not installed; it is a peer to measure against, no "
            "dependency; pip install rbloom."
        ) from error
    lowest_fpr = exp(-bits_per_kmer * log(2) ** 2)
    bloom = rbloom.Bloom(round(bits / bits_per_kmer), lowest_fpr)
    return Contender(
        "rbloom",
        len(kmers),
        lambda: bloom.update(kmers),  # pyright: ignore[reportUnknownMemberType]
        lambda: sum(map(bloom.__contains__, kmers)),
        bloom.clear,
        np.empty(0, dtype=np.uint64),
    )


def _contender(
    name: str,
    bits: int,
    kmers: int,
    insert: Callable[[U64], object],
    query: Callable[[U64, U8], int],
) -> Contender:
    words = np.frombuffer(storage.anonymous(bits // SHARD_BITS * 32), dtype=np.uint64)
    words.fill(0)
    found = np.ones(kmers, dtype=np.uint8)
    return Contender(
        name,
        kmers,
        lambda: insert(words),
        lambda: query(words, found),
        lambda: words.fill(0),
        words,
    )


def _layout(config: CuSBFConfig, bits: int, *, s: int, m: int, hashes: int) -> kernels.Layout:
    shards = bits // SHARD_BITS
    return kernels.load().Layout(config.k, s, m, hashes, shards, config.canonical, config.seed)


def _sized(name: str, bits: int, threads: int) -> str:
    return f"{name}, {figure(bits / 2**23)} MiB" + (f", {threads} threads" if threads > 1 else "")
