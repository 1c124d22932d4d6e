from __future__ import annotations

import gc
import mmap
import os
import time
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.bench import plots
from tidemill.bench.compare import MIN_REPEATS, Comparison, Side, Timing, compare
from tidemill.bench.trial import Progress
from tidemill.errors import ClaimError, ConfigError, MissingCapability

times = st.floats(1e-6, 1e6)


@st.composite
def comparisons(draw: st.DrawFn, sides: int = 2) -> Comparison:
    repeats = draw(st.integers(MIN_REPEATS, 12))
    return Comparison(
        tuple(
            Timing(
                f"side {index}",
                draw(st.floats(1e-3, 1e6)),
                tuple(draw(st.lists(times, min_size=repeats, max_size=repeats))),
            )
            for index in range(sides)
        )
    )


def changed(comparison: Comparison, index: int, work: float = 1.0, time: float = 1.0) -> Comparison:
    timings = list(comparison.timings)
    old = timings[index]
    timings[index] = Timing(old.name, old.work * work, tuple(s * time for s in old.seconds))
    return Comparison(tuple(timings))


@settings(max_examples=50)
@given(comparisons())
def test_the_interval_holds_the_value(comparison: Comparison) -> None:
    value, low, high = comparison.ratio("side 1")
    assert 0 < low <= value <= high
    for timing in comparison.timings:
        median, low, high = comparison.rate(timing.name)
        assert 0 < low <= median <= high
        assert timing.best_s <= timing.median_s


@settings(max_examples=50)
@given(comparisons())
def test_the_ratio_of_two_sides_turned_over_is_its_inverse(comparison: Comparison) -> None:
    one, other = comparison.timings
    ratio = comparison.ratio(other.name)
    inverse = Comparison((other, one)).ratio(one.name)
    assert inverse == pytest.approx((1 / ratio.value, 1 / ratio.high, 1 / ratio.low), rel=1e-9)


@settings(max_examples=50)
@given(comparisons(), st.floats(0.01, 100))
def test_scaling_laws(comparison: Comparison, factor: float) -> None:
    ratio = comparison.ratio("side 1")
    rate = comparison.rate("side 0")

    def scaled(by: float, figures: tuple[float, ...]) -> object:
        return pytest.approx([by * figure for figure in figures], rel=1e-9)

    more_work = changed(comparison, 0, work=factor)
    assert list(more_work.rate("side 0")) == scaled(factor, rate)
    assert list(more_work.ratio("side 1")) == scaled(factor, ratio)
    slower_clock = changed(changed(comparison, 0, time=factor), 1, time=factor)
    assert list(slower_clock.ratio("side 1")) == scaled(1, ratio)
    assert list(slower_clock.rate("side 0")) == scaled(1 / factor, rate)


@given(comparisons(), st.integers(0, 11))
def test_a_drift_that_hits_all_sides_of_a_round_alike_does_not_touch_the_ratio(
    comparison: Comparison, doubled: int
) -> None:
    """Sides are equal here, so any ratio but 1 would come from the drift."""
    seconds = list(comparison.timings[0].seconds)
    seconds[doubled % len(seconds)] *= 100
    same = Comparison((Timing("a", 1, tuple(seconds)), Timing("b", 1, tuple(seconds))))
    assert same.ratio("b") == (1, 1, 1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    import numpy as np

    random = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        seconds = random.lognormal(0.0, 0.1, size=(2, 7))
        comparison = Comparison(
            (Timing("a", 1, tuple(seconds[0])), Timing("b", 1, tuple(3 * seconds[1])))
        )
        _, low, high = comparison.ratio("b")
        hits += low <= 3 <= high
    assert 0.90 <= hits / 300 <= 0.99


class FakeClock:
    """Time passes only by the work that the sides do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def works(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_a_side_that_does_half_the_work_in_the_same_time_is_half_as_fast() -> None:
    clock = FakeClock()
    comparison = compare(
        Side("whole", clock.works("whole", 3.0), work=200),
        Side("half", clock.works("half", 3.0), work=100),
        Side("slow", clock.works("slow", 6.0), work=200),
        clock=clock,
    )
    assert comparison.ratio("half") == pytest.approx((2, 2, 2))
    assert comparison.ratio("slow") == pytest.approx((2, 2, 2))
    assert comparison.rate("whole") == pytest.approx((200 / 3,) * 3)
    assert comparison.measurement("twice", "slow").value == 2


def test_sides_take_turns_and_each_begins_as_often_as_the_others() -> None:
    clock = FakeClock()
    sides = [Side(name, clock.works(name, 1.0)) for name in "abc"]
    compare(*sides, repeats=6, warmup=0, clock=clock)
    rounds = ["".join(clock.order[start : start + 3]) for start in range(0, 18, 3)]
    assert rounds == ["abc", "bca", "cab"] * 2


def test_warm_up_rounds_do_not_count() -> None:
    clock = FakeClock()
    durations = iter([100.0, 100.0, 1, 1, 1, 1, 1])

    def run() -> None:
        clock.now += next(durations)

    comparison = compare(Side("a", run), repeats=5, warmup=2, clock=clock)
    assert comparison.timings[0].seconds == (1.0,) * 5


def test_a_side_is_prepared_before_each_run_outside_its_time() -> None:
    clock = FakeClock()
    side = Side("a", clock.works("run", 1.0), prepare=clock.works("prepare", 9.0))
    assert compare(side, repeats=5, warmup=1, clock=clock).timings[0].seconds == (1.0,) * 5
    assert clock.order == ["prepare", "run"] * 6


def test_what_a_side_returns_is_freed_outside_its_time() -> None:
    clock = FakeClock()

    class Heavy:
        def __del__(self) -> None:
            clock.now += 50.0

    def run() -> Heavy:
        clock.now += 1.0
        return Heavy()

    assert compare(Side("a", run), repeats=5, clock=clock).timings[0].seconds == (1.0,) * 5


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_while_a_side_runs_and_is_set_back(was_on: bool) -> None:
    seen: list[bool] = []
    clock = FakeClock()

    def run() -> None:
        seen.append(gc.isenabled())
        clock.now += 1.0

    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        compare(Side("a", run), repeats=5, warmup=0, clock=clock)
        compare(Side("a", run), repeats=5, warmup=0, clock=clock, collect_garbage=True)
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == [False] * 5 + [was_on] * 5


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads")
def test_a_pinned_comparison_stays_on_its_core_and_leaves_no_trace() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    seen: set[frozenset[int]] = set()
    ticks = count()

    def run() -> None:
        seen.add(frozenset(os.sched_getaffinity(0)))

    compare(Side("a", run), repeats=5, pin={core}, clock=lambda: float(next(ticks)))
    assert seen == {frozenset({core})}
    with pytest.raises(ClaimError):
        compare(Side("a", lambda: 1 / 0), repeats=5, pin={core})
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ConfigError, match=r"pin=.*some of the cores"):
        compare(Side("a", run), pin={max(before) + 1000})


def test_peak_memory_is_that_of_the_side_that_took_it() -> None:
    size = 48 * 2**20

    def large_run() -> None:
        # a mapping of its own: the heap may hand out memory that is resident already
        with mmap.mmap(-1, size) as memory:
            memory.write(b"x" * size)

    comparison = compare(Side("large", large_run), Side("small", list), repeats=5)
    large, small = comparison.timings
    if large.extra_bytes is None or small.extra_bytes is None:
        pytest.skip("the kernel does not let this process reset its peak of memory")
    assert large.extra_bytes >= 0.9 * size
    assert small.extra_bytes < size / 4
    assert large.peak_bytes is not None
    assert large.peak_bytes > large.extra_bytes


def test_a_side_that_raises_is_named_and_keeps_its_class() -> None:
    def lacking() -> None:
        raise MissingCapability("GPU — is not there.")

    with pytest.raises(ClaimError, match=r"side 'bad': ZeroDivisionError: division by zero"):
        compare(Side("good", list), Side("bad", lambda: 1 / 0))
    with pytest.raises(MissingCapability, match=r"side 'bad': GPU — is not there\."):
        compare(Side("good", list), Side("bad", lacking))


def test_an_interrupt_passes_through() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(Side("a", interrupted))


def test_a_side_that_takes_no_time_is_refused() -> None:
    with pytest.raises(ClaimError, match=r"side 'idle': took 0.0 s by this clock; give it more"):
        compare(Side("idle", list), clock=lambda: 1.0)


@pytest.mark.parametrize(
    ("sides", "options", "field"),
    [
        ("ab", {"repeats": MIN_REPEATS - 1}, "repeats=4"),
        ("ab", {"warmup": -1}, "warmup=-1"),
        ("aa", {}, "side='a'"),
    ],
)
def test_settings_without_an_honest_answer_are_refused(
    sides: str, options: dict[str, int], field: str
) -> None:
    with pytest.raises(ConfigError, match=field):
        compare(*[Side(name, list) for name in sides], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("work", [0, -1, float("nan"), float("inf")])
def test_work_is_positive(work: float) -> None:
    with pytest.raises(ConfigError, match="work of side a"):
        compare(Side("a", list, work=work))


def test_an_unknown_side_is_told_with_those_there_are() -> None:
    comparison = Comparison((Timing("a", 1, (1,) * 5), Timing("b", 1, (1,) * 5)))
    with pytest.raises(ConfigError, match=r"side='c' — must be one of a, b"):
        comparison.ratio("c")


def test_sides_with_different_numbers_of_repeats_are_no_comparison() -> None:
    with pytest.raises(ClaimError, match="differ in repeats"):
        Comparison((Timing("a", 1, (1, 1)), Timing("b", 1, (1,))))


def test_progress_is_told_of_each_run() -> None:
    seen: list[tuple[object, ...]] = []

    class Listener(Progress):
        def advance(self, done: float, total: float, unit: str = "") -> None:
            seen.append((done, total, unit))

        def metric(self, name: str, value: float, unit: str = "") -> None:
            seen.append((name, value, unit))

    clock = FakeClock()
    side = Side("a", clock.works("a", 2.0), work=10, unit="k-mers/s")
    compare(side, repeats=5, warmup=1, clock=clock, progress=Listener())
    assert seen[::2] == [(done, 6, "runs") for done in range(1, 7)]
    assert seen[1::2] == [("a", 5.0, "k-mers/s")] * 6


def test_the_cpu_clock_does_not_count_waiting() -> None:
    read, write = os.pipe()
    os.write(write, b"x" * 100)
    try:
        comparison = compare(Side("reads", lambda: os.read(read, 1)), repeats=5, clock="cpu")
    finally:
        os.close(read)
        os.close(write)
    assert comparison.clock == "cpu"
    assert all(seconds > 0 for seconds in comparison.timings[0].seconds)


def test_a_rate_keeps_its_unit_as_far_as_the_chart() -> None:
    sides = [Side(name, lambda: time.sleep(1e-4), 3, "sacks/s") for name in ("a", "b")]
    comparison = compare(*sides, repeats=5)
    chart = plots.bars(comparison.to_json(), title="Milling")
    assert chart["layer"][0]["encoding"]["x"]["title"] == "sacks/s"


def test_a_comparison_as_json_holds_what_charts_need() -> None:
    comparison = Comparison((Timing("a", 2, (1,) * 5, 7, 3), Timing("b", 1, (1,) * 5)))
    sides = comparison.to_json()["sides"]
    assert isinstance(sides, list)
    first, second = sides
    assert first == {
        "name": "a", "work": 2, "seconds": [1] * 5, "median_s": 1, "best_s": 1,
        "peak_bytes": 7, "extra_bytes": 3, "rate": [2, 2, 2], "unit": "1/s",
    }  # fmt: skip
    assert isinstance(second, dict)
    assert second["ratio"] == [2, 2, 2]
