"""What the store keeps, as plain values: the outcome of a trial, one measurement of it, a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias, get_args

from tidemill.bench.claim import Json, Measurement
from tidemill.bench.environment import Environment
from tidemill.bench.trial import Budget
from tidemill.errors import ConfigError

OutcomeKind: TypeAlias = Literal[
    "ok", "failed", "crashed", "timeout", "out of memory", "cancelled", "missing"
]
"""How a trial ended: "failed" raised an error, "missing" lacks a capability of the machine."""

RunKind: TypeAlias = Literal["run", "claims", "run+claims"]


class RunState(StrEnum):
    """Where a run is; the last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its process vanished without saying how it ended."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more will come."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How one trial ended and what it measured until then.

    Args:
        system: Name of the system.
        trial: Name of the trial within it.
        budget: How much time it was given.
        outcome: How it ended.
        error: Why it did not end well; "" if it did.
        measurements: All it yielded before it ended.
        peak_rss_bytes: Most resident memory of the trial and its children together.
        seconds: Wall-clock time it took.
        started: When, with a time zone.
        environment: What it ran on.
        command: The exact command that repeats it.
        config: The system's configuration as JSON.
        disturbed: "", or by what foreign load.
    """

    system: str
    trial: str
    budget: Budget
    outcome: OutcomeKind
    started: datetime
    seconds: float
    environment: Environment
    measurements: tuple[Measurement, ...] = ()
    error: str = ""
    peak_rss_bytes: int = 0
    command: str = ""
    config: Mapping[str, Json] = field(default_factory=dict[str, Json])
    disturbed: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in get_args(OutcomeKind):
            allowed = f"one of {', '.join(get_args(OutcomeKind))}"
            raise ConfigError.of("outcome", self.outcome, allowed)
        if self.started.tzinfo is None:
            raise ConfigError.of("started", self.started, "a time with a time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored measurement with what is known of the trial it came from.

    Status follows from ``measurement.status``, the verdict from ``claim.verdict(measurement)``;
    neither is stored.
    """

    measurement: Measurement
    system: str
    trial: str
    budget: Budget
    outcome: OutcomeKind
    started: datetime
    seconds: float
    environment: Environment
    machine_id: str
    code: str
    command: str
    config: Mapping[str, Json]
    disturbed: str

    @property
    def machine(self) -> dict[str, Json]:
        """What a reader wants to know of the machine (`Environment.machine`)."""
        return self.environment.machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that somebody asked for, whether it has begun or not.

    Args:
        id: 32 hex digits.
        system: Name of the system.
        kind: Run the system, measure its claims, or both.
        budget: For the claims; None if they are not measured.
        config: The system's configuration as JSON.
        state: Where it is.
        progress: From 0 to 1.
        events_path: The file its events go to.
        created: When it was asked for.
        started: When its process began; None before.
        ended: When it ended; None before.
        error: Why it did not end well; "" if it did or has not ended.
        pid: Its process, with ``pid_started`` (seconds since the epoch) against reuse of the id.
        report: What the system's run told, as JSON.
    """

    id: str
    system: str
    kind: RunKind
    budget: Budget | None
    config: Mapping[str, Json]
    state: RunState
    progress: float
    events_path: str
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    error: str = ""
    pid: int | None = None
    pid_started: float | None = None
    report: dict[str, Json] | None = None
