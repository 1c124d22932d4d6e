"""From the start of a restore to the answer: every function, every way to restore, interleaved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.compare import Comparison, Side, compare
from tidemill.errors import ClaimError
from tidemill.systems.aquifer.aqs.snapshot_file import census
from tidemill.systems.aquifer.baselines import Strategy, strategies
from tidemill.systems.aquifer.pod import STAND_INS, Pod, Tenant
from tidemill.systems.aquifer.restore import Restored, RestoreStats, hot_pages
from tidemill.systems.aquifer.snapshot import PAGE
from tidemill.systems.aquifer.workloads import FUNCTIONS, Function

OURS = "aquifer"
ALTERNATIVES = ("reap-pool", "pool-map", "faasnap", "reap", "uffd-remote")
_RESAMPLES, _SEED = 2000, 24079


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work the trials are.

    Attributes:
        functions: those measured.
        repeats: rounds in which all ways take turns.
    """

    functions: tuple[Function, ...]
    repeats: int


SCALES = {Budget.QUICK: Scale(FUNCTIONS, 5), Budget.FULL: Scale(FUNCTIONS, 11)}


@dataclass(frozen=True, slots=True)
class Raced:
    """What was seen of one function."""

    name: str
    comparison: Comparison
    stats: tuple[RestoreStats, ...]
    hot_bytes: int


class Runner:
    """One way to restore one function, as a side of a comparison; checks every answer."""

    def __init__(self, name: str, way: Strategy, tenant: Tenant) -> None:
        self._name, self._way, self._tenant = name, way, tenant
        self.stats: list[RestoreStats] = []
        self._last: Restored | None = None

    def prepare(self) -> None:
        """End the clone of the last round; then what the way itself prepares."""
        self.close()
        self._way.prepare()

    def run(self) -> None:
        """Restore, ask, and have the answer."""
        self._last = self._way.restore()
        answer = self._last.invoke(self._tenant.function.measured())
        if answer != self._tenant.answer:
            raise ClaimError(f"{self._name} — another answer than a guest that never stopped gave")

    def close(self) -> None:
        """End the clone."""
        if self._last is not None:
            self.stats.append(self._last.stats)
            self._last.close()
            self._last = None


def restores(context: Context, pod: Pod, scale: Scale | None = None) -> Iterator[Measurement]:
    """All ways raced on all functions; geometric means, the worst function, what was copied."""
    scale = scale or SCALES[context.budget]
    raced = [_race(context, pod, one, scale.repeats) for one in scale.functions]
    detail: dict[str, Json] = {one.name: one.comparison.to_json() for one in raced}
    yield _geomean("over-firecracker", raced, "firecracker", {"functions": detail})
    yield _worst("over-firecracker-worst", raced, "firecracker")
    yield _geomean("over-firecracker-warm", raced, "firecracker-warm")
    best = max(ALTERNATIVES, key=lambda name: 1 / _mean(raced, name))
    others: dict[str, Json] = {name: _mean(raced, name) for name in ALTERNATIVES}
    yield _geomean("over-next-best", raced, best, {"alternatives": others})
    yield _worst("over-next-best-worst", raced, best)
    yield _installed_before(raced)


def _race(context: Context, pod: Pod, function: Function, repeats: int) -> Raced:
    context.progress.stage(f"boot, record and publish {function.name}")
    tenant = pod.admit(function)
    context.progress.stage(f"restore {function.name}")
    runners = {
        name: Runner(name, set_up(), tenant)
        for name, set_up in strategies(tenant.published).items()
    }
    sides = [Side(name, one.run, 1.0, "1/s", one.prepare) for name, one in runners.items()]
    try:
        comparison = compare(*sides, repeats=repeats, progress=context.progress)
    finally:
        for runner in runners.values():
            runner.close()
        pod.dismiss(tenant)
    return Raced(function.name, comparison, tuple(runners[OURS].stats), len(tenant.maps.hot))


def _mean(raced: list[Raced], baseline: str) -> float:
    logs = [math.log(one.comparison.ratio(baseline).value) for one in raced]
    return math.exp(sum(logs) / len(logs))


def _geomean(
    claim: str, raced: list[Raced], baseline: str, detail: dict[str, Json] | None = None
) -> Measurement:
    """Geometric mean over functions; the interval resamples the rounds of each."""
    rng = np.random.default_rng(_SEED)
    logs = np.zeros(_RESAMPLES)
    for one in raced:
        ours = np.array(one.comparison.subject.seconds)
        theirs = np.array(one.comparison.timing(baseline).seconds)
        rounds = rng.integers(0, ours.size, (_RESAMPLES, ours.size))
        logs += np.log(np.median(theirs[rounds], 1) / np.median(ours[rounds], 1))
    low, high = np.exp(np.quantile(logs / len(raced), [0.025, 0.975])).tolist()
    value = _mean(raced, baseline)
    by_function: dict[str, Json] = {one.name: list(one.comparison.ratio(baseline)) for one in raced}
    return Measurement(
        claim=claim,
        value=value,
        low=min(low, value),
        high=max(high, value),
        repeats=raced[0].comparison.repeats,
        subject=f"{OURS}: median {_median_ms(raced, OURS):.1f} ms",
        baseline=f"{baseline}: median {_median_ms(raced, baseline):.1f} ms",
        stand_ins=STAND_INS,
        detail={"ratios": by_function, **(detail or {})},
    )


def _median_ms(raced: list[Raced], name: str) -> float:
    return median(one.comparison.timing(name).median_s for one in raced) * 1e3


def _worst(claim: str, raced: list[Raced], baseline: str) -> Measurement:
    worst = min(raced, key=lambda one: one.comparison.ratio(baseline).value)
    ratio = worst.comparison.ratio(baseline)
    return Measurement(
        claim=claim,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        repeats=worst.comparison.repeats,
        subject=f"{OURS} on {worst.name}",
        baseline=baseline,
        stand_ins=STAND_INS,
    )


def _installed_before(raced: list[Raced]) -> Measurement:
    """Page faults on hot pages, over all restores, and whether all hot bytes were copied first."""
    every = [stats for one in raced for stats in one.stats]
    short = [one.name for one in raced for stats in one.stats if stats.hot_bytes != one.hot_bytes]
    if short:
        raise ClaimError(f"restores — {short[0]} ran before all of its hot pages were installed")
    faults = sum(stats.faults["hot"] for stats in every)
    return Measurement(
        claim="hot-faults",
        value=faults,
        low=faults,
        high=faults,
        repeats=len(every),
        subject=f"{len(every)} restores, {sum(one.hot_bytes for one in raced) >> 10} KiB hot",
        stand_ins=STAND_INS,
        detail={
            "restore_ms": {one.name: median(s.restore_ms for s in one.stats) for one in raced},
            "cold_faults": {one.name: median(s.faults["cold"] for s in one.stats) for one in raced},
            "zero_faults": {one.name: median(s.faults["zero"] for s in one.stats) for one in raced},
        },
    )


def characterization(
    context: Context, pod: Pod, scale: Scale | None = None
) -> Iterator[Measurement]:
    """What the snapshots of all functions consist of, and whether clones are exactly them."""
    scale = scale or SCALES[context.budget]
    rows: list[dict[str, object]] = []
    wrong = 0
    for number, function in enumerate(scale.functions):
        context.progress.stage(f"boot, record and pack {function.name}")
        tenant = pod.admit(function)
        rows.append(census(tenant.maps) | {"function": function.name})
        wrong += differing_pages(pod, tenant)
        pod.dismiss(tenant)
        context.progress.advance(number + 1, len(scale.functions), "functions")
    pages = _total(rows, "guest_pages")
    hot, zero = _total(rows, "hot_pages"), _total(rows, "zero_pages")
    cxl, rdma = _total(rows, "cxl_bytes"), _total(rows, "rdma_bytes")
    table: list[Json] = [{key: _plain(value) for key, value in row.items()} for row in rows]
    yield _exact("zero-share", 100 * zero / pages, {"functions": table})
    yield _exact("hot-share", 100 * hot / pages)
    yield _exact("pooled-share", (cxl + rdma) / (pages * PAGE))
    yield _exact("cxl-share", cxl / (pages * PAGE))
    yield _exact("exact-memory", wrong)


def differing_pages(pod: Pod, tenant: Tenant) -> int:
    """Pages of a fresh clone that are not those of its snapshot; every page is looked at."""
    snapshot = tenant.published.snapshot
    with pod.agent.restore(tenant.function.name) as restored:
        view = restored.vm.region.view.reshape(-1, PAGE)
        nonzero = np.flatnonzero(snapshot.nonzero)
        differing = sum(
            not np.array_equal(view[page], snapshot.pages[slot])
            for slot, page in enumerate(nonzero.tolist())
        )
        zero = np.flatnonzero(snapshot.nonzero == 0)
        differing += int(view[zero[:: max(1, zero.size // 4096)]].any())
    if restored.stats.hot_bytes != hot_pages(tenant.maps).size * PAGE:
        raise ClaimError(f"{tenant.function.name} — not all hot pages were copied first")
    return differing


def _total(rows: list[dict[str, object]], key: str) -> int:
    return sum(int(str(row[key])) for row in rows)


def _plain(value: object) -> Json:
    return value if isinstance(value, int | float | str) or value is None else str(value)


def _exact(claim: str, value: float, detail: dict[str, Json] | None = None) -> Measurement:
    return Measurement(
        claim=claim,
        subject="snapshots of all functions",
        repeats=1,
        value=value,
        low=value,
        high=value,
        stand_ins=STAND_INS if claim in ("cxl-share", "exact-memory") else (),
        detail=detail or {},
    )
