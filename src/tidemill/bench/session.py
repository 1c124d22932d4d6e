"""A session: run a system, measure its claims, keep each result as soon as it is there.

One session is what ``tidemill run`` and ``tidemill claims`` do in the foreground and what the Run
button starts as a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from tidemill.bench import family
from tidemill.bench.child import RUN
from tidemill.bench.claim import Json, Measurement
from tidemill.bench.events import EventLog
from tidemill.bench.process import Ended, Listener, Terms
from tidemill.bench.records import OutcomeKind, RunKind, RunState, TrialOutcome
from tidemill.bench.runner import listener, resolve, run_system, run_trial
from tidemill.bench.settings import from_json, to_json
from tidemill.bench.system import System
from tidemill.bench.trial import Budget, Progress, Trial
from tidemill.bench.wire import measurement_of
from tidemill.errors import ConfigError, MissingCapability, TidemillError

if TYPE_CHECKING:
    from tidemill.bench.store import Store

_ROW_EVERY_S = 3.0  # a commit syncs the disk, which a measurement may feel


@dataclass(slots=True, kw_only=True)
class SessionResult:
    """What a session brought.

    Args:
        system: The system.
        state: Done, failed (the run or a trial did not end well) or cancelled.
        outcomes: Of the trials that began, in the order they ended.
        report: What the run told, as JSON; None if it was not asked for or did not end well.
        error: Why the state is not done, or what could not be written although it is.
        exit_code: For the command line; claims that do not hold are not looked at here.
    """

    system: System
    state: RunState = RunState.DONE
    outcomes: list[TrialOutcome] = field(default_factory=list[TrialOutcome])
    report: dict[str, Json] | None = None
    error: str = ""
    exit_code: int = 0

    def fail(self, outcome: OutcomeKind, error: str) -> None:
        """Take note of a run or trial that did not end well; the first one gives the error."""
        self.error = self.error or error
        if outcome == "cancelled":
            self.state, self.exit_code = RunState.CANCELLED, 128 + signal.SIGINT
            return
        self.state = RunState.FAILED
        if self.exit_code != 1:
            self.exit_code = MissingCapability.exit_code if outcome == "missing" else 1


def run_session(  # noqa: PLR0913 - one call says the whole session; all but the system by keyword
    system: System | str,
    *,
    kind: RunKind,
    config: Mapping[str, Json] | None = None,
    budget: Budget = Budget.QUICK,
    store: Store | None = None,
    events: EventLog | None = None,
    trials: Collection[str] | None = None,
    progress: Progress | Listener | None = None,
    terms: Terms | None = None,
) -> SessionResult:
    """Run the system, measure its trials, or both; blocks until all has ended.

    Each outcome is in the store before the next trial begins. What goes wrong inside a trial is in
    its outcome; what goes wrong around it, such as a full disk, ends the session and is in
    `SessionResult.error`.

    Args:
        system: A system, its name, or ``module:ATTRIBUTE``.
        kind: What to do.
        config: Settings that differ from the defaults.
        budget: For the trials.
        store: Where outcomes go, and the row of `Terms.run_id`.
        events: Where events go; left open.
        trials: Only these; default all that have a form for the budget.
        progress: Told of every event.
        terms: Threads, niceness, cancellation, run id, Ray.

    Raises:
        ConfigError: The system, a trial or a setting does not exist or is out of range.
    """
    reference, found = resolve(system)
    settings = to_json(from_json(found.config, config or {}))
    chosen = choose_trials(found, budget, trials) if kind != "run" else []
    session = _Session(
        reference,
        settings,
        budget,
        store,
        _Diary(found, store, events, listener(progress), terms.run_id if terms else ""),
        terms or Terms(),
        SessionResult(system=found),
    )
    session.do(kind, chosen)
    return session.result


def choose_trials(
    system: System, budget: Budget, names: Collection[str] | None = None
) -> list[Trial]:
    """The trials called ``names``, or all that have a form for ``budget``.

    Raises:
        ConfigError: There is no such trial, or it has no quick form.
    """
    known = {trial.name: trial for trial in system.trials}
    for name in names or ():
        if name not in known:
            raise ConfigError.of("trial", name, f"one of {', '.join(known)}")
        if known[name].limit_s(budget) is None:
            raise ConfigError.of("budget", str(budget), "full", f"trial {name} has no quick form")
    return [
        trial
        for trial in system.trials
        if (trial.name in names if names is not None else trial.limit_s(budget) is not None)
    ]


@contextlib.contextmanager
def cancelled_by_signals(cancel: threading.Event) -> Generator[list[int]]:
    """While the block runs, SIGINT, SIGTERM and SIGHUP set ``cancel``; a second one interrupts.

    Gives the list of signals that came. Main thread only. An ignored signal stays ignored (nohup).
    """
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        cancel.set()
        if len(came) > 1:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class _Session:
    """What the steps of a session share."""

    reference: str
    settings: Mapping[str, Json]
    budget: Budget
    store: Store | None
    diary: _Diary
    terms: Terms
    result: SessionResult

    def do(self, kind: RunKind, trials: list[Trial]) -> None:
        """All steps; whatever happens, the diary gets its last words."""
        result, cancel = self.result, self.terms.cancel
        self.diary.phases = len(trials) + (kind != "claims")
        try:
            if not self.diary.begin():
                cancel.set()
            if kind != "claims" and not cancel.is_set():
                self._run()
            for outcome in self._outcomes(trials):
                self._keep(outcome)
            if cancel.is_set() and result.state is not RunState.CANCELLED:
                result.fail("cancelled", "cancelled by the user")
        except TidemillError as error:
            result.state, result.error = RunState.FAILED, f"{type(error).__name__}: {error}"
            result.exit_code = error.exit_code
        except KeyboardInterrupt:  # a second Ctrl-C
            result.fail("cancelled", "cancelled by the user")
            raise
        except BaseException as error:
            result.state, result.error = RunState.FAILED, f"{type(error).__name__}: {error}"
            raise
        finally:
            self.diary.end(result)

    def _run(self) -> None:
        ended = run_system(
            self.reference, config=self.settings, progress=self.diary.tell, terms=self.terms
        )
        self.diary.tell_end(RUN, ended)
        if ended.outcome == "ok":
            self.result.report = ended.report
        else:
            self.result.fail(ended.outcome, ended.error)

    def _outcomes(self, trials: list[Trial]) -> Iterator[TrialOutcome]:
        if self.terms.ray and trials:
            from tidemill.bench.ray_runner import run_trials

            yield from run_trials(
                self.reference,
                [trial.name for trial in trials],
                config=self.settings,
                budget=self.budget,
                listen=self.diary.tell,
                terms=self.terms,
            )
            return
        for trial in trials:
            if not self.terms.cancel.is_set():
                yield run_trial(
                    self.reference,
                    trial,
                    config=self.settings,
                    budget=self.budget,
                    progress=self.diary.tell,
                    terms=self.terms,
                )

    def _keep(self, outcome: TrialOutcome) -> None:
        self.result.outcomes.append(outcome)
        try:
            if self.store is not None:
                self.store.record_trial(outcome)
        finally:  # after the store, so that who sees the event finds the figures
            self.diary.tell_end(outcome.trial, outcome)
        if outcome.outcome != "ok":
            self.result.fail(outcome.outcome, outcome.error)


class _Diary:
    """Where a session's events go: the event file, the listener and the row of the run."""

    def __init__(
        self,
        system: System,
        store: Store | None,
        events: EventLog | None,
        listen: Listener,
        run_id: str,
    ) -> None:
        self._system = system
        self._store = store if run_id else None
        self._events = events
        self._listen = listen
        self._run_id = run_id
        self._done_phases = 0
        self._within = 0.0  # of the current phase; stages are not known before they come
        self._progress = 0.0
        self._row_at = 0.0
        self.phases = 1

    def begin(self) -> bool:
        """Mark the run as running, by this process; False if it was cancelled before."""
        if self._store is None:
            return True
        return self._store.update_run(
            self._run_id,
            only_in=(RunState.QUEUED, RunState.RUNNING),
            state=RunState.RUNNING,
            pid=os.getpid(),
            pid_started=family.start_time(os.getpid()),
            started=datetime.now(UTC),
        )

    def tell(self, kind: str, data: Mapping[str, Json]) -> None:
        """One event of a child."""
        if kind == "measurement":
            data = {**data, **self._judged(measurement_of(data))}
        elif kind == "progress":
            total = float(cast(float, data["total"])) or 1.0
            self._advance(min(1.0, float(cast(float, data["done"])) / total))
        self._write(kind, data)

    def tell_end(self, name: str, ended: Ended | TrialOutcome) -> None:
        """A trial or the run has ended."""
        self._done_phases += 1
        self._within = 0.0
        self._advance(0.0)
        told: dict[str, Json] = {
            "name": name,
            "state": "ended",
            "outcome": ended.outcome,
            "error": ended.error,
            "seconds": ended.seconds,
            "peak_rss_bytes": ended.peak_rss_bytes,
            "disturbed": ended.disturbed,
        }
        self._write("trial", told)

    def end(self, result: SessionResult) -> None:
        """The last words: first the row, then the event, so that who sees the event finds the row.

        What cannot be written any more is said in ``result.error``.
        """
        if self._store is not None:
            self._progress = 1.0 if result.state is RunState.DONE else self._progress
            try:
                self._store.update_run(
                    self._run_id,
                    only_in=(RunState.QUEUED, RunState.RUNNING),
                    state=result.state,
                    ended=datetime.now(UTC),
                    error=result.error,
                    progress=self._progress,
                    report=result.report,
                )
            except TidemillError as error:
                result.error = result.error or str(error)
                result.exit_code = result.exit_code or error.exit_code
        self._write("end", {"state": str(result.state), "error": result.error})
        if self._events is not None and self._events.failure:
            result.error = result.error or self._events.failure
            result.exit_code = result.exit_code or TidemillError.exit_code

    def _judged(self, measurement: Measurement) -> dict[str, Json]:
        claim = self._system.claim(measurement.claim)
        return {
            "unit": claim.unit,
            "status": str(measurement.status),
            "verdict": str(claim.verdict(measurement)),
        }

    def _advance(self, stage_share: float) -> None:
        """A stage counts for half of what is left of its phase, so no later one can be too long."""
        share = self._within + (1 - self._within) * stage_share / 2
        if stage_share >= 1.0:
            self._within = share
        self._progress = max(self._progress, (self._done_phases + share) / max(self.phases, 1))
        now = time.monotonic()
        if self._store is not None and now - self._row_at > _ROW_EVERY_S:
            self._row_at = now
            with contextlib.suppress(TidemillError):  # the next row, or the last, says it too
                self._store.update_run(self._run_id, progress=min(self._progress, 1.0))

    def _write(self, kind: str, data: Mapping[str, Json]) -> None:
        if self._events is not None:
            self._events.append(kind, data)
        self._listen(kind, data)
