"""One run of the system: a function from its boot to clones restored from the pool."""

from __future__ import annotations

import hashlib
import time
from statistics import median

from tidemill.bench import Context, Report, Table, Text
from tidemill.bench.claim import Json
from tidemill.systems.aquifer.aqs.snapshot_file import census
from tidemill.systems.aquifer.baselines import strategies
from tidemill.systems.aquifer.config import AquiferConfig
from tidemill.systems.aquifer.pod import Pod, Tenant
from tidemill.systems.aquifer.restores import OURS, Runner
from tidemill.systems.aquifer.workloads import function


def run(context: Context) -> Report:
    """Boot ``function``, record and publish it, and restore it in several ways.

    Raises:
        MissingCapability: no KVM, no userfaultfd, or no Python for the guest.
    """
    config: AquiferConfig = context.config
    context.progress.stage(f"boot, record and publish {config.function}")
    with Pod(config.hot_threshold, config.dense_pages) as pod:
        tenant = pod.admit(function(config.function))
        found, stats = _restore(context, tenant, config)
    return _report(config, tenant, found, stats)


def _restore(
    context: Context, tenant: Tenant, config: AquiferConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of each way, and what ours did."""
    context.progress.stage("restore and ask")
    wanted = {OURS: None, "firecracker": None, config.against: None}
    ways = strategies(tenant.published)
    runners = {name: Runner(name, ways[name](), tenant) for name in wanted}
    took: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for turn in range(config.restores):
            for name, runner in runners.items():
                runner.prepare()
                began = time.perf_counter()
                runner.run()
                took[name].append((time.perf_counter() - began) * 1e3)
                context.progress.metric(name, took[name][-1], "ms")
            context.progress.advance(turn + 1, config.restores, "rounds")
    finally:
        for runner in runners.values():
            runner.close()
    ours = runners[OURS].stats
    stats = {
        "hot_faults_count": sum(one.faults["hot"] for one in ours),
        "cold_faults_count": median(one.faults["cold"] for one in ours),
        "zero_faults_count": median(one.faults["zero"] for one in ours),
        "installed_kib": median(one.hot_bytes for one in ours) / 1024,
        "restore_ms": median(one.restore_ms for one in ours),
    }
    return {name: median(times) for name, times in took.items()}, stats


def _report(
    config: AquiferConfig, tenant: Tenant, found: dict[str, float], stats: dict[str, float]
) -> Report:
    counted = census(tenant.maps)
    zero, hot = (100 * float(str(counted[key])) for key in ("zero_share", "hot_share"))
    ours, cold = found[OURS], found["firecracker"]
    rows = tuple((name, round(took, 2), round(took / ours, 2)) for name, took in found.items())
    facts: dict[str, Json] = {
        "function": config.function,
        "guest_pages": tenant.maps.guest_pages,
        "answer_sha256": hashlib.sha256(tenant.answer).hexdigest(),
        "recordings": len(tenant.recordings),
        "hot_faults": int(stats.pop("hot_faults_count")),
    }
    return Report(
        headline=Text(
            f"{config.function}: {ours:.1f} ms from restore to answer out of the pool, {cold:.1f} "
            f"ms from a file on disk; {zero:.1f}% of its pages are zero, {hot:.1f}% hot.",
            f"{config.function}:从池中恢复到应答 {ours:.1f} 毫秒,从磁盘文件 {cold:.1f} 毫秒;"
            f"零页 {zero:.1f}%,热页 {hot:.1f}%。",
        ),
        facts=facts,
        timings={
            **{f"{name.replace('-', '_')}_ms": took for name, took in found.items()},
            **stats,
            "zero_percent": zero,
            "hot_percent": hot,
        },
        tables=(
            Table(
                title="from the start of a restore to the answer",
                columns=("way", "median ms", "times ours"),
                rows=rows,
            ),
        ),
    )
