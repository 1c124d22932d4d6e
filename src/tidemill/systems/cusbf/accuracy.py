"""How often wrong: false positives on several kinds of negatives, and that nothing is ever missed.

False positives are counted over isolated k-mers drawn independently: neighbours in a sequence share
a shard and s-mers, so their errors come in clusters and would make an interval too narrow. K-mers
that are in the genome after all are known exactly and taken out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.counts import Count
from tidemill.bench.wording import figure
from tidemill.systems.cusbf.blocked import BlockedBloom
from tidemill.systems.cusbf.config import GENOMES, CuSBFConfig
from tidemill.systems.cusbf.kernels import U8, U64
from tidemill.systems.cusbf.kmer_filter import KmerFilter, pack
from tidemill.systems.cusbf.superbloom import SuperBloom
from tidemill.systems.cusbf.theory import super_fpr
from tidemill.systems.cusbf.workloads import genome, random_genome, reverse_complement

MATCHED_LOADS = {"21": 21.4, "86": 85.7}
"""Bits per k-mer at which filters of equal memory are compared, by the end of a claim's id."""
_SERIES_LOADS = (10.7, 21.4, 42.8, 85.7, 171.0)
_CHUNK = 1 << 21


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is counted.

    Args:
        queries: Random k-mers asked of each filter.
        loads: Bits per k-mer at which theory is checked.
        seeds: Hash functions drawn for what is a fixed set of k-mers.
        layouts: Further k, s, m and hashes with which nothing may be missed.
    """

    queries: int
    loads: tuple[float, ...]
    seeds: int = 5
    layouts: tuple[tuple[int, int, int, int], ...] = ()


SCALES = {
    Budget.QUICK: Scale(10_000_000, (10.7, 21.4, 42.8)),
    Budget.FULL: Scale(
        100_000_000,
        (10.7, 21.4, 42.8, 85.7),
        seeds=9,
        layouts=((21, 18, 11, 4), (32, 28, 20, 8), (15, 15, 9, 12), (25, 20, 16, 16)),
    ),
}


class Present:
    """The exact set of a sequence's k-mers, as either strand packs them."""

    def __init__(self, sequence: U8, config: CuSBFConfig) -> None:
        self.forward = _packed(sequence, config.k)
        strands = [self.forward]
        if config.canonical:
            strands.append(_packed(reverse_complement(sequence), config.k))
        self._mers = np.sort(np.concatenate(strands))  # np.unique: 7x slower, by hashing
        own = np.sort(_packed(sequence, config.k, config.canonical))
        self.distinct = 1 + int(np.count_nonzero(np.diff(own)))

    def holds(self, mers: U64) -> NDArray[np.bool_]:
        """For each packed k-mer whether it is in the set."""
        order = np.argsort(mers)  # looked up in order, neighbours share cache lines
        held = np.empty(len(mers), dtype=np.bool_)
        at = np.minimum(np.searchsorted(self._mers, mers[order]), len(self._mers) - 1)
        held[order] = self._mers[at] == mers[order]
        return held

    def count(self, kmer_filter: KmerFilter, mers: U64) -> Count:
        """False positives of ``kmer_filter`` among those of ``mers`` that are not in the set."""
        found = mers[kmer_filter.contains_packed(mers)]
        true = int(self.holds(found).sum())  # what is in the set is always found
        return Count(len(found) - true, len(mers) - true)


def matched(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Filters of equal memory over one genome, asked random k-mers, near misses and a relative."""
    scale = scale or SCALES[context.budget]
    config: CuSBFConfig = context.config
    sequence = genome(config.genome).sequence
    context.progress.stage("exact set of the genome's k-mers")
    present = Present(sequence, config)
    series: list[Json] = [_expected(load, present, sequence, config) for load in _SERIES_LOADS]
    mers, valid = pack(genome(config.relative).sequence, config.k)
    relatives_own = valid & ~present.holds(mers)
    for label, load in MATCHED_LOADS.items():
        filters = _trio(load * present.distinct, sequence, config)
        random = np.random.default_rng(config.seed)
        context.progress.stage(f"random k-mers, {load} bits per k-mer")
        draw = partial(random_mers, config.k, random)
        counts = _ask(context, filters, present, scale.queries, draw)
        yield _below(f"fpr-random-{label}", counts, "blocked4", by_bits_per_kmer=series)
        yield _below(f"fpr-tuned-{label}", counts, "blocked8")
        context.progress.stage(f"k-mers with one base replaced, {load} bits per k-mer")
        draw = partial(_substituted, present.forward, config.k, random)
        counts = _ask(context, filters, present, scale.queries // 4, draw)
        yield _below(f"fpr-substituted-{label}", counts, "blocked4")
        context.progress.stage(f"k-mers of {config.relative} only, {load} bits per k-mer")
        yield _strain(
            f"fpr-strain-{label}", load * present.distinct, relatives_own, config, scale.seeds
        )


def theory(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Measured against predicted false positives of a filter over a random genome."""
    scale = scale or SCALES[context.budget]
    config: CuSBFConfig = context.config
    sequence = random_genome(len(genome(config.genome).sequence), config.seed).sequence
    context.progress.stage("exact set of a random genome's k-mers")
    present = Present(sequence, config)
    random = np.random.default_rng(config.seed)
    points: list[Json] = []
    ends: list[tuple[float, float, float]] = []
    for load in scale.loads:
        context.progress.stage(f"random k-mers, {load} bits per k-mer")
        made = empty_super(config, load * present.distinct)
        made.insert(sequence)
        draw = partial(random_mers, config.k, random)
        count = _ask(context, {"super": made}, present, scale.queries, draw)["super"]
        law = _law(config, present.distinct, made.shards)
        low, high = (end / law for end in count.interval())
        value = max(count.hits, 1) / count.queries / law
        crossing = 1.0 if low <= 1 <= high else min(_apart(low), _apart(high))
        ends.append((_apart(value), crossing, max(_apart(low), _apart(high))))
        points.append({"bits_per_kmer": load, "theory": law, **count.to_json()})
    value, low, high = (max(column) for column in zip(*ends, strict=True))
    yield Measurement(
        claim="fpr-theory",
        value=value,
        low=low,
        high=high,
        repeats=scale.queries,
        subject=f"the worst of {', '.join(map(str, scale.loads))} bits per k-mer",
        detail={"points": points},
    )


def misses(
    context: Context, scale: Scale | None = None, kind: type[SuperBloom] = SuperBloom
) -> Iterator[Measurement]:
    """Every k-mer of three genomes, both strands, in filters that came about in five ways."""
    scale = scale or SCALES[context.budget]
    config: CuSBFConfig = context.config
    own = (config.k, config.s, config.m, config.hashes)
    asked, missed = 0, Counter[str]()
    for k, s, m, hashes in (own, *scale.layouts):
        layout = replace(config, k=k, s=s, m=m, hashes=hashes)
        for name in GENOMES:
            context.progress.stage(f"{name}, k={k} s={s} m={m} H={hashes}")
            sequence = genome(name).sequence
            strands = [sequence, reverse_complement(sequence)][: 1 + config.canonical]
            valid = [pack(strand, k)[1] for strand in strands]
            for way, made in _ways(layout, sequence, kind):
                for threads in (1, context.threads):
                    for strand, asks in zip(strands, valid, strict=True):
                        found = made.contains(strand, threads=threads)
                        missed[way] += int(np.count_nonzero(asks & ~found))
                        asked += int(np.count_nonzero(asks))
                context.progress.metric("lookups", float(asked), "k-mers")
    yield Measurement(
        claim="no-false-negatives",
        value=missed.total(),
        low=missed.total(),
        high=missed.total(),
        repeats=asked,
        subject=f"{asked:,} lookups of k-mers that were inserted",
        detail={"missed_by_way": {**missed}},
    )


def _ways(
    config: CuSBFConfig, sequence: U8, kind: type[SuperBloom]
) -> Iterator[tuple[str, SuperBloom]]:
    """The filter of ``sequence``, made in each way in which one can come about."""
    bits = 21.4 * len(sequence)
    made = empty_super(config, bits, kind)
    made.insert(sequence)
    yield "one thread", made
    with TemporaryDirectory() as folder:
        path = Path(folder) / "filter.sbf"
        made.save(path)
        yield "saved and loaded", kind.load(path)
        yield "saved and mapped", kind.load(path, mmap=True)
    made = empty_super(config, bits, kind)
    made.insert(sequence, threads=4)
    yield "four threads", made
    made, other = empty_super(config, bits, kind), empty_super(config, bits, kind)
    middle = len(sequence) // 2
    made.insert(sequence[: middle + config.k - 1])
    other.insert(sequence[middle:])
    made |= other
    yield "merged", made


def empty_super(
    config: CuSBFConfig, bits: float, kind: type[SuperBloom] = SuperBloom
) -> SuperBloom:
    """A filter of the configured parameters and this size."""
    names = ("k", "s", "m", "hashes", "canonical", "seed")
    return kind(int(bits), **{name: getattr(config, name) for name in names})


def _trio(bits: float, sequence: U8, config: CuSBFConfig) -> dict[str, KmerFilter]:
    """The filters compared: ours, one with as many bits per item, cuCollections' 8."""
    trio: dict[str, KmerFilter] = {"super": empty_super(config, bits)}
    for hashes in (4, 8):
        trio[f"blocked{hashes}"] = BlockedBloom(
            int(bits), k=config.k, hashes=hashes, canonical=config.canonical, seed=config.seed
        )
    for made in trio.values():
        made.insert(sequence)
    return trio


def _ask(
    context: Context,
    filters: dict[str, KmerFilter],
    present: Present,
    queries: int,
    draw: Callable[[int], U64],
) -> dict[str, Count]:
    """The same negatives for every filter, some millions at a time."""
    counts = dict.fromkeys(filters, Count(0, 0))
    for done in range(0, queries, _CHUNK):
        mers = draw(min(_CHUNK, queries - done))
        for name, made in filters.items():
            counts[name] += present.count(made, mers)
            context.progress.metric(f"false positives, {name}", counts[name].rate)
        context.progress.advance(done + len(mers), queries, "k-mers")
    return counts


def _below(claim: str, counts: dict[str, Count], baseline: str, **detail: Json) -> Measurement:
    value, low, high = counts["super"].times_below(counts[baseline])
    return Measurement(
        claim=claim,
        value=value,
        low=low,
        high=high,
        repeats=counts["super"].queries,
        subject=f"Super Bloom: {figure(counts['super'].rate)}",
        baseline=f"blocked Bloom, {baseline[-1]} bits per k-mer: {figure(counts[baseline].rate)}",
        detail={**{name: count.to_json() for name, count in counts.items()}, **detail},
    )


def _strain(
    claim: str, bits: float, asked: NDArray[np.bool_], config: CuSBFConfig, seeds: int
) -> Measurement:
    """A fixed set of k-mers: what varies, and is repeated, is the draw of the hash functions."""
    sequence, relative = genome(config.genome).sequence, genome(config.relative).sequence
    hits: dict[str, list[int]] = {}
    for seed in range(config.seed, config.seed + seeds):
        for name, made in _trio(bits, sequence, replace(config, seed=seed)).items():
            hits.setdefault(name, []).append(int(made.contains(relative)[asked].sum()))
    mine, its = np.array(hits["super"]), np.array(hits["blocked4"])
    rounds = np.random.default_rng(config.seed).integers(0, seeds, (10_000, seeds))
    ratios = its[rounds].sum(axis=1) / np.maximum(1, mine[rounds].sum(axis=1))
    value = its.sum() / max(1, mine.sum())
    low, high = np.quantile(ratios, [0.025, 0.975])
    negatives = max(1, int(asked.sum()))
    rates = {name: sum(each) / seeds / negatives for name, each in hits.items()}
    return Measurement(
        claim=claim,
        value=float(value),
        low=float(min(low, value)),
        high=float(max(high, value)),
        repeats=seeds,
        subject=f"Super Bloom: {figure(rates['super'])}",
        baseline=f"blocked Bloom, 4 bits per k-mer: {figure(rates['blocked4'])}",
        detail={"negatives": negatives, **rates},
    )


def _expected(load: float, present: Present, sequence: U8, config: CuSBFConfig) -> Json:
    """A point of the chart: the rates that follow from the bits as they are set."""
    trio = _trio(load * present.distinct, sequence, config)
    rates: dict[str, Json] = {name: made.expected_fpr() for name, made in trio.items()}
    law = _law(config, present.distinct, trio["super"].shards)
    return {"bits_per_kmer": load, **rates, "super_random_genome": law}


def _law(config: CuSBFConfig, distinct: int, shards: int) -> float:
    return super_fpr(distinct, shards, k=config.k, s=config.s, m=config.m, hashes=config.hashes)


def _packed(sequence: U8, k: int, canonical: bool = False) -> U64:
    mers, valid = pack(sequence, k, canonical=canonical)
    return mers[valid]


def random_mers(k: int, random: np.random.Generator, count: int) -> U64:
    """Uniform, independent k-mers."""
    return random.integers(0, 1 << 2 * k, count, dtype=np.uint64)


def _substituted(mers: U64, k: int, random: np.random.Generator, count: int) -> U64:
    """K-mers of the genome, each with one base replaced by another."""
    place = 2 * random.integers(0, k, count, dtype=np.uint64)
    other = random.integers(1, 4, count, dtype=np.uint64)
    return mers[random.integers(0, len(mers), count)] ^ (other << place)


def _apart(ratio: float) -> float:
    """How many times apart two rates are; no more than a thousand can follow from no hits."""
    return max(ratio, 1 / max(ratio, 1e-3))
