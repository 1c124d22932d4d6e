"""Run one trial, or one system, in a child process and tell how it went."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from tidemill.bench.child import RUN
from tidemill.bench.claim import Claim, Json
from tidemill.bench.environment import Environment
from tidemill.bench.process import Ended, Listener, Terms, Work, perform
from tidemill.bench.records import TrialOutcome
from tidemill.bench.settings import from_json, to_json
from tidemill.bench.sources import sources_of
from tidemill.bench.system import System, find
from tidemill.bench.trial import Budget, Progress, Trial
from tidemill.errors import ConfigError

RUN_WALL_S = 3600.0
"""Limit of time for a system's ``run``."""
RUN_MEMORY_SHARE = 0.75
"""Limit on the memory of a system's ``run``, as a share of the machine's."""


def run_trial(
    system: System | str,
    trial: Trial | str,
    *,
    config: Mapping[str, Json] | None = None,
    budget: Budget = Budget.QUICK,
    progress: Progress | Listener | None = None,
    terms: Terms | None = None,
) -> TrialOutcome:
    """Measure one trial in a child process. Blocks until its whole family has ended.

    Args:
        system: A system, its name, or ``module:ATTRIBUTE``.
        trial: One of its trials.
        config: Settings that differ from the defaults.
        budget: How much time to spend.
        progress: Told of everything the trial reports.
        terms: Threads, niceness, cancellation.

    Raises:
        ConfigError: There is no such system or trial, no such setting, or no such budget for it.
        OutOfPool: There is no disk space or no process to be had for the child.
    """
    terms = terms or Terms()
    reference, found = resolve(system)
    name = trial if isinstance(trial, str) else trial.name
    known = {item.name: item for item in found.trials}
    if name not in known:
        raise ConfigError.of("trial", name, f"one of {', '.join(known)}")
    if (wall_s := known[name].limit_s(budget)) is None:
        raise ConfigError.of("budget", str(budget), "full", f"trial {name} has no quick form")
    full_config = to_json(from_json(found.config, config or {}))
    environment = replace(Environment.here(), sources=sources_of(found))
    started = datetime.now(UTC)
    work = Work(reference, name, full_config, budget, wall_s, known[name].memory_mib * 2**20)
    ended = perform(work, listener(progress), terms)
    own = [claim for claim in found.claims if claim.trial.name == name]
    _check_complete(ended, name, own)
    return TrialOutcome(
        system=found.name,
        trial=name,
        budget=budget,
        outcome=ended.outcome,
        error=ended.error,
        measurements=tuple(ended.measurements.values()),
        peak_rss_bytes=ended.peak_rss_bytes,
        seconds=ended.seconds,
        started=started,
        environment=environment,
        command=command(reference, found, full_config, budget=budget, claim=own[0].id),
        config=full_config,
        disturbed=ended.disturbed,
    )


def run_system(
    system: System | str,
    *,
    config: Mapping[str, Json] | None = None,
    progress: Progress | Listener | None = None,
    terms: Terms | None = None,
) -> Ended:
    """Run a system once in a child process; as `run_trial`, with the report in place of figures."""
    reference, found = resolve(system)
    full_config = to_json(from_json(found.config, config or {}))
    memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * RUN_MEMORY_SHARE)
    work = Work(reference, RUN, full_config, Budget.QUICK, RUN_WALL_S, memory)
    return perform(work, listener(progress), terms or Terms())


def resolve(system: System | str) -> tuple[str, System]:
    """The word by which a child process finds the system, and the system."""
    if isinstance(system, str):
        return system, find(system)
    return system.name, system


def command(
    reference: str, system: System, config: Mapping[str, Json], *, budget: Budget, claim: str
) -> str:
    """The command line that repeats a trial: only settings that differ from the defaults."""
    defaults = to_json(system.config())
    words = ["tidemill", "claims", reference, "--budget", str(budget), "--only", claim]
    for name, value in config.items():
        if value != defaults[name]:
            words += ["--set", f"{name}={'' if value is None else value}"]
    return shlex.join(words)


def _check_complete(ended: Ended, trial: str, claims: list[Claim]) -> None:
    """A trial that comes to its end without a figure for each of its claims has failed."""
    absent = [claim.id for claim in claims if claim.id not in ended.measurements]
    if ended.outcome == "ok" and absent:
        ended.outcome = "failed"
        ended.error = f"trial {trial} — ended without a figure for {', '.join(absent)}."


def listener(progress: Progress | Listener | None) -> Listener:
    """A function that is told of events, from what a caller gave to be told."""
    if progress is None:
        return lambda kind, data: None
    if not isinstance(progress, Progress):
        return progress
    target = progress

    def listen(kind: str, data: Mapping[str, Json]) -> None:
        fields = cast(dict[str, Any], data)
        if kind == "stage":
            target.stage(fields["name"])
        elif kind == "progress":
            target.advance(fields["done"], fields["total"], fields["unit"])
        elif kind == "metric":
            target.metric(fields["name"], fields["value"], fields["unit"])
        elif kind == "log":
            target.log(fields["text"])

    return listen
