"""The one way to compare: interleaved repeats in one process, a ratio with an interval.

Sides take turns, round after round, so that a drift of the machine hits all of them alike; who
begins changes from round to round. Intervals come from resampling whole rounds. This module knows
nothing about claims' targets, and never reads a clock but the one it is given.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple

from tidemill.bench.claim import Json, Measurement
from tidemill.bench.trial import Progress
from tidemill.errors import ClaimError, ConfigError, MissingCapability, TidemillError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_REPEATS = 5
"""With fewer the interval is too narrow: simulated, "95 %" covers 93-95 % at 5, but 74 % at 3."""

_RESAMPLES = 2000
_SEED = 20260623
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""By name: wall-clock time, or CPU time of the calling thread (blind to threads a side starts)."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared.

    Args:
        name: As tables and charts print it.
        run: Does all of ``work`` once; what it returns is dropped outside the timed part.
        work: How much one run does, in any unit that all sides share (k-mers, bytes, tokens).
        unit: Of a rate, for readings and charts ("k-mers/s").
        prepare: Called before each run, outside its time: empties what the last run filled.
    """

    name: str
    run: Callable[[], object]
    work: float = 1.0
    unit: str = "1/s"
    prepare: Callable[[], object] | None = None


class Ratio(NamedTuple):
    """How many times faster the subject is, with a 95 % interval."""

    value: float
    low: float
    high: float


class Rate(NamedTuple):
    """Work per second, with a 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Timing:
    """What was seen of one side.

    Args:
        name: Of the side.
        work: Per run.
        seconds: Of each repeat, in order.
        peak_bytes: Most resident memory of this process during any of its runs, everything else
            the process holds included; None where the kernel does not let it be reset.
        extra_bytes: Most that a run added to what was resident when it began; None likewise.
        unit: Of the rate, work per second.
    """

    name: str
    work: float
    seconds: tuple[float, ...]
    peak_bytes: int | None = None
    extra_bytes: int | None = None
    unit: str = "1/s"

    @property
    def median_s(self) -> float:
        """Median time of a run."""
        return median(self.seconds)

    @property
    def best_s(self) -> float:
        """Shortest time of a run: what the machine can do when nobody disturbs it."""
        return min(self.seconds)

    def to_json(self) -> dict[str, Json]:
        """All fields, and the two figures most asked for."""
        return {
            "name": self.name,
            "work": self.work,
            "unit": self.unit,
            "seconds": list(self.seconds),
            "median_s": self.median_s,
            "best_s": self.best_s,
            "peak_bytes": self.peak_bytes,
            "extra_bytes": self.extra_bytes,
        }


@dataclass(frozen=True)
class Comparison:
    """Timings of a subject (the first) and its baselines, round by round."""

    timings: tuple[Timing, ...]
    clock: str = "wall"

    def __post_init__(self) -> None:
        if len({len(timing.seconds) for timing in self.timings}) != 1:
            raise ClaimError("comparison — its sides differ in repeats; they share every round.")

    @property
    def subject(self) -> Timing:
        """The side that the ratios are about."""
        return self.timings[0]

    @property
    def repeats(self) -> int:
        """How many rounds there were."""
        return len(self.subject.seconds)

    def timing(self, name: str) -> Timing:
        """What was seen of the side called ``name``.

        Raises:
            ConfigError: There is none.
        """
        return self.timings[self._index(name)]

    def ratio(self, baseline: str) -> Ratio:
        """How many times the baseline's rate the subject reaches: the ratio of the medians.

        Raises:
            ConfigError: There is no side called ``baseline``.
        """
        mine, other = self.subject, self.timing(baseline)
        scale = mine.work / other.work
        value = scale * other.median_s / mine.median_s
        medians = self._resampled
        low, high = self._interval(medians[self._index(baseline)] - medians[0])
        return Ratio(value, *_around(value, scale * low, scale * high))

    def rate(self, name: str) -> Rate:
        """Work per second of one side, from its median time.

        Raises:
            ConfigError: There is no side called ``name``.
        """
        timing = self.timing(name)
        value = timing.work / timing.median_s
        low, high = self._interval(-self._resampled[self._index(name)])
        return Rate(value, *_around(value, timing.work * low, timing.work * high))

    def measurement(self, claim: str, baseline: str) -> Measurement:
        """The ratio to ``baseline`` as the measurement of a claim, all timings in its detail."""
        value, low, high = self.ratio(baseline)
        return Measurement(
            claim=claim,
            value=value,
            low=low,
            high=high,
            repeats=self.repeats,
            subject=self.subject.name,
            baseline=baseline,
            detail={"comparison": self.to_json()},
        )

    def to_json(self) -> dict[str, Json]:
        """Everything measured, with the rates and the ratio to each baseline."""
        sides: list[Json] = []
        for timing in self.timings:
            entry = timing.to_json()
            entry["rate"] = list(self.rate(timing.name))
            if timing is not self.subject:
                entry["ratio"] = list(self.ratio(timing.name))
            sides.append(entry)
        return {"clock": self.clock, "repeats": self.repeats, "sides": sides}

    def _index(self, name: str) -> int:
        names = [timing.name for timing in self.timings]
        if name not in names:
            raise ConfigError.of("side", name, f"one of {', '.join(names)}")
        return names.index(name)

    @cached_property
    def _resampled(self) -> NDArray[np.float64]:
        """Logarithms of the median times, sides x resamples; one draw of rounds for all sides."""
        import numpy as np

        seconds = np.array([timing.seconds for timing in self.timings])
        rounds = np.random.default_rng(_SEED).integers(
            0, self.repeats, size=(_RESAMPLES, self.repeats)
        )
        medians: NDArray[np.float64] = np.log(np.median(seconds[:, rounds], axis=2))
        return medians

    def _interval(self, logarithms: NDArray[np.float64]) -> tuple[float, float]:
        import numpy as np

        # on logarithms the quantiles of 1/x are exactly those of x turned over
        low, high = np.exp(np.quantile(logarithms, [0.025, 0.975]))
        return float(low), float(high)


def compare(
    subject: Side,
    *baselines: Side,
    repeats: int = 7,
    warmup: int = 1,
    clock: Literal["wall", "cpu"] | Callable[[], float] = "wall",
    pin: Collection[int] | None = None,
    collect_garbage: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Run the sides in turn, ``repeats`` times, and give their timings.

    Args:
        subject: What the comparison is about.
        *baselines: What it is compared with; may be none, for a rate alone.
        repeats: Rounds that count, at least `MIN_REPEATS`.
        warmup: Rounds before them that do not.
        clock: ``"wall"``, ``"cpu"`` (see `CLOCKS`) or a function that gives seconds.
        pin: Cores to stay on meanwhile; the calling thread is set back afterwards, threads that a
            side started keep them.
        collect_garbage: Leave Python's cyclic collector on while a side runs; otherwise it runs
            between the runs only.
        progress: Told of each run: how many are done, and its rate as a reading.

    Raises:
        ConfigError: Too few repeats, two sides of one name, work that is not positive, or cores
            that this process may not use.
        ClaimError: A side raised (the text names it), or took no time by this clock.
    """
    sides = (subject, *baselines)
    _check(sides, repeats, warmup)
    read_clock = CLOCKS[clock] if isinstance(clock, str) else clock
    seconds: list[list[float]] = [[] for _ in sides]
    memory: list[list[tuple[int, int]]] = [[] for _ in sides]
    done, total = 0, (warmup + repeats) * len(sides)
    with _pinned(pin):
        for turn in range(warmup + repeats):
            for offset in range(len(sides)):
                index = (turn + offset) % len(sides)
                side = sides[index]
                with _named(side), _garbage(collect_garbage):
                    if side.prepare is not None:
                        side.prepare()
                    took, used = _timed(side, read_clock)
                if turn >= warmup:
                    seconds[index].append(took)
                    memory[index].extend([used] if used else [])
                done += 1
                if progress is not None:
                    progress.advance(done, total, "runs")
                    progress.metric(side.name, side.work / took, side.unit)
    timings = tuple(_timing(*each) for each in zip(sides, seconds, memory, strict=True))
    return Comparison(timings, clock if isinstance(clock, str) else "given")


def _check(sides: tuple[Side, ...], repeats: int, warmup: int) -> None:
    if repeats < MIN_REPEATS:
        allowed = f"at least {MIN_REPEATS}"
        raise ConfigError.of("repeats", repeats, allowed, "fewer give no honest interval")
    if warmup < 0:
        raise ConfigError.of("warmup", warmup, "at least 0")
    names = [side.name for side in sides]
    for side in sides:
        if names.count(side.name) > 1:
            raise ConfigError.of("side", side.name, "a name that no other side has")
        if not (math.isfinite(side.work) and side.work > 0):
            raise ConfigError.of(f"work of side {side.name}", side.work, "positive and finite")


def _timed(side: Side, clock: Callable[[], float]) -> tuple[float, tuple[int, int] | None]:
    before = _reset_peak()
    begin = clock()
    result = side.run()
    took = clock() - begin
    peak = _status_bytes("VmHWM") if before is not None else None
    del result
    if not took > 0:
        raise ClaimError(f"took {took} s by this clock; give it more work per run.")
    return took, None if before is None or peak is None else (peak, max(0, peak - before))


def _timing(side: Side, seconds: list[float], memory: list[tuple[int, int]]) -> Timing:
    peak = max((peak for peak, _ in memory), default=None)
    extra = max((extra for _, extra in memory), default=None)
    return Timing(side.name, side.work, tuple(seconds), peak, extra, side.unit)


@contextmanager
def _named(side: Side) -> Generator[None]:
    try:
        yield
    except TidemillError as error:
        error.args = (f"side {side.name!r}: {error}", *error.args[1:])
        raise
    except Exception as error:
        raise ClaimError(f"side {side.name!r}: {type(error).__name__}: {error}") from error


@contextmanager
def _garbage(collect: bool) -> Generator[None]:
    was_on = gc.isenabled()
    gc.collect()
    if not collect:
        gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _pinned(cores: Collection[int] | None) -> Generator[None]:
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise MissingCapability(
            f"pin={set(cores)} — this system cannot pin threads; only Linux can; leave pin out."
        )
    before = os.sched_getaffinity(0)
    if not cores or not set(cores) <= before:
        raise ConfigError.of("pin", set(cores), f"some of the cores {before}")
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _reset_peak() -> int | None:
    """Set the kernel's peak of this process to what is resident now, and give that."""
    try:
        _RESET_PEAK.write_text("5")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    return min(low, value), max(high, value)
