"""Many clones: how many fit in memory, and what happens when all are wanted at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tidemill.bench import Budget, Context, Measurement
from tidemill.systems.aquifer.baselines import Strategy, strategies
from tidemill.systems.aquifer.pod import STAND_INS, Pod, Tenant
from tidemill.systems.aquifer.restore import Restored
from tidemill.systems.aquifer.workloads import function

FUNCTION = "json_document"
ROOM = 4 << 30
CLONES = {Budget.QUICK: 24, Budget.FULL: 64}
AT_ONCE = 100
_DENSITY = ("aquifer", "aquifer-4k", "firecracker-warm")


def crowd(context: Context, pod: Pod) -> Iterator[Measurement]:
    """Clones that have answered once and wait, then a hundred restores at the same time."""
    context.progress.stage(f"boot, record and publish {FUNCTION}")
    tenant = pod.admit(function(FUNCTION))
    ways = strategies(tenant.published)
    fit: dict[str, int] = {}
    for name in _DENSITY:
        context.progress.stage(f"idle clones: {name}")
        fit[name] = ROOM // _bytes_of_a_clone(ways[name](), tenant, CLONES[context.budget])
    ratio = fit["aquifer"] / fit["firecracker-warm"]
    yield Measurement(
        claim="density",
        value=ratio,
        low=ratio,
        high=ratio,
        repeats=CLONES[context.budget],
        subject=f"aquifer: {fit['aquifer']:,} clones of {FUNCTION} in 4 GiB",
        baseline=f"firecracker-warm: {fit['firecracker-warm']:,}",
        stand_ins=STAND_INS,
        detail={"clones_in_4_GiB": dict(fit)},
    )
    context.progress.stage(f"{AT_ONCE} restores at once")
    took, wrong = _at_once(ways["aquifer"](), tenant)
    middle, last = np.quantile(took, [0.5, 0.99]).tolist() if took else (0.0, 0.0)
    yield Measurement(
        claim="at-once",
        value=len(wrong),
        low=len(wrong),
        high=len(wrong),
        repeats=AT_ONCE,
        subject=f"{AT_ONCE} restores: p50 {middle:.0f} ms, p99 {last:.0f} ms",
        stand_ins=STAND_INS,
        detail={"p50_ms": middle, "p99_ms": last, "errors": list(wrong[:5])},
    )


def _bytes_of_a_clone(way: Strategy, tenant: Tenant, clones: int) -> int:
    """What each of the later clones adds to this process; shared pages count their share."""
    request = tenant.function.measured()
    with ExitStack() as stack:
        seen: list[int] = []
        way.prepare()
        for made in range(clones):
            if made in (clones // 4, clones - 1):
                seen.append(_resident_bytes())
            clone = stack.enter_context(way.restore())
            clone.invoke(request)
        before, after = seen
    return max((after - before) // (clones - 1 - clones // 4), 1)


def _resident_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup has no Pss")


def _at_once(way: Strategy, tenant: Tenant) -> tuple[list[float], list[str]]:
    """Milliseconds of each, and what went wrong."""
    request, took, wrong = tenant.function.measured(), list[float](), list[str]()
    ready = threading.Barrier(AT_ONCE)

    def one() -> None:
        ready.wait()
        began = time.perf_counter()
        try:
            answer = _asked(way.restore, request)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
            return
        took.append((time.perf_counter() - began) * 1e3)
        if answer != tenant.answer:
            wrong.append("another answer")

    threads = [threading.Thread(target=one) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, wrong


def _asked(restore: Callable[[], Restored], request: bytes) -> bytes:
    with restore() as clone:
        return clone.invoke(request)
