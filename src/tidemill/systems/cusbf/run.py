"""One run of the system: fill a filter with a genome, ask it everything that can go wrong."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from numpy.typing import NDArray

from tidemill.bench import Context, Report, Table, Text
from tidemill.bench.claim import Json
from tidemill.bench.plots import Axis, Series, lines
from tidemill.bench.wording import figure
from tidemill.systems.cusbf.accuracy import Count, Present, empty_super, random_mers
from tidemill.systems.cusbf.config import CuSBFConfig
from tidemill.systems.cusbf.reports import AddReport
from tidemill.systems.cusbf.superbloom import SuperBloom
from tidemill.systems.cusbf.theory import blocked_fpr, super_fpr
from tidemill.systems.cusbf.workloads import Genome, genome, reads

_PIECES = 20
_NEGATIVES = 1 << 20
_TIMED = 7
READ_BASES = 150
_BITS_PER_KMER = (8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)


def run(context: Context) -> Report:
    """Build a filter over ``genome``, query it, its relative, reads of it and random k-mers.

    Raises:
        InputError: ``genome`` or ``relative`` names a file that cannot be read.
    """
    config: CuSBFConfig = context.config
    context.progress.stage("read the genomes")
    source, relative = genome(config.genome), genome(config.relative)
    made = empty_super(config, config.bits)
    made.threads = config.threads
    added = _insert(context, made, source)
    counts = {
        "own": _query(context, made, source, "look every k-mer up again"),
        "relative": _query(context, made, relative, "look the relative up"),
        "reads": _classify(context, made, source),
    }
    counts["random"], distinct = _negatives(context, made, source)
    timings = _timings(context, source)
    return _report(config, made, added, counts=counts, distinct=distinct, timings=timings)


def _pieces(sequence: NDArray[np.uint8], k: int) -> list[NDArray[np.uint8]]:
    """Pieces that overlap by k-1, so that each window is in exactly one."""
    step = max(k, -(-len(sequence) // _PIECES))
    return [sequence[start : start + step + k - 1] for start in range(0, len(sequence), step)]


def _insert(context: Context, made: SuperBloom, source: Genome) -> AddReport:
    context.progress.stage(f"insert {source.name}")
    total = AddReport()
    for piece in _pieces(source.sequence, made.k):
        total += made.insert(piece)
        context.progress.advance(total.kmers, len(source.sequence), "k-mers")
        context.progress.metric("bits set", made.load_factor)
    return total


def _query(context: Context, made: SuperBloom, source: Genome, stage: str) -> Count:
    """Found among the valid windows."""
    context.progress.stage(stage)
    before, done, found, asked = made.counters, 0, 0, 0
    for piece in _pieces(source.sequence, made.k):
        done += len(made.contains(piece))
        context.progress.advance(done, len(source.sequence), "k-mers")
        asked = max(1, made.counters.queried_kmers - before.queried_kmers)
        found = made.counters.hits - before.hits
        context.progress.metric("found", found / asked)
    return Count(
        made.counters.hits - before.hits, made.counters.queried_kmers - before.queried_kmers
    )


def _timings(context: Context, source: Genome) -> dict[str, float]:
    """The median of a few whole insertions and queries, each in one call."""
    config: CuSBFConfig = context.config
    context.progress.stage(f"time it on {config.threads} threads")
    fresh = empty_super(config, config.bits)
    rates: dict[str, float] = {}
    for name, call in (("insert", fresh.insert), ("query", fresh.contains)):
        seconds: list[float] = []
        for done in range(_TIMED):
            if name == "insert":
                fresh.words.fill(0)
            begin = time.perf_counter()
            call(source.sequence, threads=config.threads)
            seconds.append(time.perf_counter() - begin)
            rate = len(source.sequence) / median(seconds) / 1e6
            context.progress.metric(name, rate, "Mk-mers/s")
            context.progress.advance(done + 1, _TIMED, "calls")
            rates[f"{name}_mkmers_per_s"] = rate
    return rates


def _classify(context: Context, made: SuperBloom, source: Genome) -> Count:
    """Reads of which at least half of the k-mers are found."""
    config: CuSBFConfig = context.config
    if config.reads == 0 or len(source.sequence) < READ_BASES:
        return Count(0, 0)
    context.progress.stage("classify simulated reads")
    drawn = reads(
        source,
        config.reads,
        length=READ_BASES,
        error_rate=config.read_error_rate,
        seed=config.seed,
    )
    found = made.contains(b"\n".join(drawn) + b"\n" * made.k)
    per_read = found[: len(drawn) * (READ_BASES + 1)].reshape(len(drawn), READ_BASES + 1)
    hits = per_read[:, : READ_BASES - made.k + 1].sum(axis=1)
    context.progress.advance(len(drawn), len(drawn), "reads")
    return Count(int((2 * hits >= READ_BASES - made.k + 1).sum()), len(drawn))


def _negatives(context: Context, made: SuperBloom, source: Genome) -> tuple[Count, int]:
    """False positives among random k-mers that the genome lacks, and its distinct k-mers."""
    config: CuSBFConfig = context.config
    context.progress.stage("ask for random k-mers")
    present = Present(source.sequence, config)
    random = np.random.default_rng(config.seed)
    count = Count(0, 0)
    for start in range(0, config.negatives, _NEGATIVES):
        wanted = min(_NEGATIVES, config.negatives - start)
        count += present.count(made, random_mers(config.k, random, wanted))
        context.progress.advance(start + wanted, config.negatives, "k-mers")
    return count, present.distinct


def _report(
    config: CuSBFConfig,
    made: SuperBloom,
    added: AddReport,
    *,
    counts: dict[str, Count],
    distinct: int,
    timings: dict[str, float],
) -> Report:
    own, near, classified, false = counts.values()
    measured = false.hits / max(1, false.queries)
    parameters = {"k": config.k, "s": config.s, "m": config.m, "hashes": config.hashes}
    facts: dict[str, Json] = {
        "kmers_inserted": added.kmers,
        "kmers_distinct": distinct,
        "windows_skipped": added.skipped,
        "shard_loads_per_kmer": added.shard_loads_per_kmer,
        "bits_per_kmer": made.bits / max(1, distinct),
        "load_factor": made.load_factor,
        "false_negatives": own.queries - own.hits,
        "fpr_random_measured": measured,
        "fpr_random_from_bits": made.expected_fpr(),
        "fpr_random_theory": super_fpr(distinct, made.shards, **parameters),
        "fpr_blocked_theory": blocked_fpr(distinct, made.shards, hashes=config.hashes),
        "relative_share_found": near.hits / max(1, near.queries),
        "reads_classified": classified.hits,
        "reads": classified.queries,
    }
    rates = tuple(timings.values())
    return Report(
        headline=Text(
            f"{figure(added.kmers)} k-mers of {config.genome} in at {rates[0]:.0f} million a "
            f"second, out at {rates[1]:.0f}; {facts['false_negatives']} missed, "
            f"{figure(measured)} of the random ones wrongly found.",
            f"{config.genome} 的 {figure(added.kmers)} 个 k-mer:每秒插入 {rates[0] / 100:.2f} 亿,"
            f"查询 {rates[1] / 100:.2f} 亿;漏检 {facts['false_negatives']},"
            f"随机 k-mer 假阳性率 {figure(measured)}。",
        ),
        facts=facts,
        timings=timings,
        tables=(_table(config, counts),),
        charts={"fpr": _chart(config, distinct, made, measured)},
    )


def _table(config: CuSBFConfig, counts: dict[str, Count]) -> Table:
    names = (
        config.genome,
        config.relative,
        f"reads of {config.genome}, {config.read_error_rate:.0%} errors",
        "random k-mers it lacks",
    )
    rows = tuple(
        (name, count.queries, count.hits)
        for name, count in zip(names, counts.values(), strict=True)
    )
    return Table(title="asked and found", columns=("what", "asked", "found"), rows=rows)


def _chart(config: CuSBFConfig, distinct: int, made: SuperBloom, measured: float) -> Json:
    """The law for both filters, and where this run stands."""
    parameters = {"k": config.k, "s": config.s, "m": config.m, "hashes": config.hashes}
    shards = [max(8, round(distinct * bits / 256)) for bits in _BITS_PER_KMER]
    ours = [super_fpr(distinct, count, **parameters) for count in shards]
    blocked = [blocked_fpr(distinct, count, hashes=config.hashes) for count in shards]
    series = [
        Series("Super Bloom, theory", _BITS_PER_KMER, ours),
        Series("blocked Bloom, theory", _BITS_PER_KMER, blocked),
    ]
    if measured > 0:
        series.append(Series("this run", [made.bits / distinct], [measured]))
    spec: Json = lines(
        series,
        title="False positives against memory",
        x=Axis("memory", "bits per k-mer", log=True),
        y=Axis("false-positive rate", log=True),
    )
    return spec
