"""How fast: races between contenders in one run, in and out of cache, on one and several threads.

Measures only; what is claimed of the figures is in `claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tidemill.bench import Budget, Context, Measurement, StandIn, Status
from tidemill.bench.claim import Json
from tidemill.bench.compare import Comparison, Side, Timing, compare
from tidemill.bench.wording import figure
from tidemill.errors import ClaimError, MissingCapability
from tidemill.systems.cusbf import baselines
from tidemill.systems.cusbf.accuracy import empty_super
from tidemill.systems.cusbf.baselines import REFERENCE, REFERENCE_IS, Contender
from tidemill.systems.cusbf.kmer_filter import pack
from tidemill.systems.cusbf.workloads import genome, random_genome

_MIB = 1 << 23
IN_CACHE_BITS = 13_107 * 256
"""0.4 MiB, inside the L2 cache of any server core."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a race is.

    Args:
        bases: Length of the random genome; its shards must not fit into the cache.
        slow_bases: The same where one side takes k-mers one at a time.
        repeats: Rounds.
        large_bits: The filter out of cache.
        between_bits: Further sizes for the chart.
        strings: K-mers handed to rbloom.
    """

    bases: int
    slow_bases: int
    repeats: int
    large_bits: int = 256 * _MIB
    between_bits: tuple[int, ...] = ()
    strings: int = 500_000


SCALES = {
    Budget.QUICK: Scale(32_000_000, 12_000_000, 5, between_bits=(16 * _MIB,)),
    Budget.FULL: Scale(
        64_000_000,
        32_000_000,
        9,
        between_bits=tuple(size * _MIB for size in (2, 8, 32, 128, 1024)),
        strings=2_000_000,
    ),
}


def sizes(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Super against blocked Bloom from 0.4 MiB up, and how much of their rate each keeps."""
    scale = scale or SCALES[context.budget]
    genome(context.config.genome)  # a file that cannot be read is told before the races
    bases = random_genome(scale.bases, context.config.seed).sequence
    makers = (baselines.super_bloom, baselines.blocked_bloom)
    pairs = {
        bits: [make(context.config, bits, bases) for make in makers]
        for bits in (IN_CACHE_BITS, scale.large_bits)
    }
    races = run_race(context, [*pairs[IN_CACHE_BITS], *pairs[scale.large_bits]], scale.repeats)
    series: dict[str, list[Json]] = {verb: [] for verb in races}
    names = {bits: [contender.name for contender in pair] for bits, pair in pairs.items()}
    for verb, race in races.items():
        series[verb] += [_at(race, bits, *names[bits]) for bits in pairs]
    for bits in scale.between_bits:
        pair = [make(context.config, bits, bases) for make in makers]
        for verb, race in run_race(context, pair, scale.repeats).items():
            series[verb].append(_at(race, bits, *(contender.name for contender in pair)))
    for verb, race in races.items():
        yield _versus(f"{verb}-out-of-cache", race, *names[scale.large_bits], rates=series[verb])
        yield _versus(f"{verb}-in-cache", race, *names[IN_CACHE_BITS])
    both = _summed(races)
    for claim, index in (("kept-super", 0), ("kept-blocked", 1)):
        yield _versus(claim, both, names[scale.large_bits][index], names[IN_CACHE_BITS][index])
    yield _baseline_health(races, names[IN_CACHE_BITS][1])
    yield _shard_loads(context)


def peers(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Against filters that take k-mers one at a time, live, and the reference, recorded."""
    scale = scale or SCALES[context.budget]
    config, bits = context.config, scale.large_bits
    bases = random_genome(scale.slow_bases, config.seed).sequence
    mers, _ = pack(bases, config.k, canonical=config.canonical)
    subject = baselines.super_bloom(config, bits, bases)
    scalar = baselines.scalar_super_bloom(config, bits, bases)
    others = {
        "keyed": baselines.keyed_bloom(bits, mers),
        "scalar": scalar,
        "cuckoo": baselines.cuckoo_filter(bits, mers),
    }
    races = run_race(context, [subject, *others.values()], scale.repeats)
    if not np.array_equal(subject.words, scalar.words):
        raise ClaimError("peers — batch and scalar filter differ in bits; they must be the same.")
    for verb, race in races.items():
        for name, other in others.items():
            yield _versus(f"{verb}-{name}", race, subject.name, other.name)
        yield _versus_recorded(f"{verb}-reference", race, REFERENCE[verb])


def threads(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Super against blocked Bloom on two threads, out of cache and in it, wall-clock time."""
    if context.threads < 2:
        raise MissingCapability(
            f"threads={context.threads} — two threads are raced; allow at least 2 (--threads 2)."
        )
    scale = scale or SCALES[context.budget]
    config = context.config
    bases = random_genome(scale.bases, config.seed).sequence
    for place, bits in (("threads", scale.large_bits), ("threads-in-cache", IN_CACHE_BITS)):
        pair = [
            baselines.super_bloom(config, bits, bases, threads=2),
            baselines.blocked_bloom(config, bits, bases, threads=2),
        ]
        alone = baselines.super_bloom(config, bits, bases)
        for verb, race in run_race(context, [*pair, alone], scale.repeats, clock="wall").items():
            scaling: Json = [*race.ratio(alone.name)]
            yield _versus(f"{verb}-{place}", race, pair[0].name, pair[1].name, from_1_to_2=scaling)


def ready_made(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Against the rbloom package, which is given its k-mers as strings."""
    scale = scale or SCALES[context.budget]
    config, bits = context.config, scale.large_bits
    bases = random_genome(scale.bases, config.seed).sequence
    text = bases[: scale.strings + config.k - 1].tobytes().decode("ascii")
    strings = [text[i : i + config.k] for i in range(len(text) - config.k + 1)]
    other = baselines.rbloom_filter(bits, strings, bits_per_kmer=21.4)
    subject = baselines.super_bloom(config, bits, bases)
    for verb, race in run_race(context, [subject, other], scale.repeats).items():
        yield _versus(f"{verb}-rbloom", race, subject.name, other.name)


def run_race(
    context: Context,
    contenders: list[Contender],
    repeats: int,
    clock: Literal["cpu", "wall"] = "cpu",
) -> dict[str, Comparison]:
    """Insertion into emptied filters, then lookup of what was inserted, checked to be found."""
    names = ", ".join(contender.name for contender in contenders)

    def run(verb: str, action: Callable[[Contender], Side]) -> Comparison:
        context.progress.stage(f"{verb}: {names}")
        sides = [action(contender) for contender in contenders]
        return compare(*sides, repeats=repeats, clock=clock, progress=context.progress)

    inserts = run("insert", lambda c: Side(c.name, c.insert, c.kmers / 1e6, "Mk-mers/s", c.clear))
    queries = run("query", lambda c: Side(c.name, c.query, c.kmers / 1e6, "Mk-mers/s"))
    for contender in contenders:
        if (found := contender.query()) != contender.kmers:
            raise ClaimError(
                f"race — {contender.name} found {found:,} of the {contender.kmers:,} k-mers it "
                "holds; what loses k-mers is not fast."
            )
    return {"insert": inserts, "query": queries}


def _versus(
    claim: str, race: Comparison, subject: str, baseline: str, **detail: Json
) -> Measurement:
    pair = Comparison((race.timing(subject), race.timing(baseline)), race.clock)
    return replace(
        pair.measurement(claim, baseline),
        subject=f"{subject}: {figure(race.rate(subject).median)} Mk-mers/s",
        baseline=f"{baseline}: {figure(race.rate(baseline).median)} Mk-mers/s",
        detail={"comparison": pair.to_json(), **detail},
    )


def _versus_recorded(claim: str, race: Comparison, recorded: float) -> Measurement:
    constant = Timing(REFERENCE_IS, recorded, (1.0,) * race.repeats, unit=race.subject.unit)
    against = Comparison((race.subject, constant), race.clock)
    made = _versus(claim, against, race.subject.name, REFERENCE_IS)
    stand_in = StandIn("the reference, in the same run", Status.MODELLED, REFERENCE_IS)
    return replace(made, stand_ins=(stand_in,))


def _at(race: Comparison, bits: int, ours: str, theirs: str) -> Json:
    return {"mib": bits / _MIB, "super": [*race.rate(ours)], "blocked": [*race.rate(theirs)]}


def _summed(races: dict[str, Comparison]) -> Comparison:
    """Insertion and lookup as one run each, round by round."""
    timings = zip(*(race.timings for race in races.values()), strict=True)
    return Comparison(
        tuple(
            Timing(
                one.name,
                one.work + two.work,
                tuple(np.add(one.seconds, two.seconds).tolist()),
                unit=one.unit,
            )
            for one, two in timings
        ),
        "cpu",
    )


def _baseline_health(races: dict[str, Comparison], name: str) -> Measurement:
    verb = min(races, key=lambda verb: races[verb].rate(name).median)
    value, low, high = races[verb].rate(name)
    return Measurement(
        claim="baseline-in-cache",
        value=value,
        low=low,
        high=high,
        repeats=races[verb].repeats,
        subject=f"{name}, {verb}",
        detail={verb: list(race.rate(name)) for verb, race in races.items()},
    )


def _shard_loads(context: Context) -> Measurement:
    config = context.config
    report = empty_super(config, config.bits).insert(genome(config.genome).sequence)
    loads = report.shard_loads_per_kmer
    return Measurement(
        claim="shard-loads",
        value=loads,
        low=loads,
        high=loads,
        repeats=1,
        subject=f"{report.shard_loads:,} shard loads for {report.kmers:,} k-mers, counted",
    )
