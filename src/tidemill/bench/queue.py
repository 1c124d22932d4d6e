"""The queue of runs: a server asks for a run, a session process of its own does it.

Sessions do not depend on the server: it may stop, crash and start again while they run. The
database is the only memory, so several servers can share it. A run belongs to the machine that has
its event file; other machines' servers leave it alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import platformdirs
import sqlalchemy as sa

from tidemill.bench import family, tables
from tidemill.bench.claim import Json
from tidemill.bench.events import EventLog, read_events
from tidemill.bench.records import Run, RunKind, RunState
from tidemill.bench.settings import dumps, from_json, to_json
from tidemill.bench.store import Store, writing
from tidemill.bench.system import find
from tidemill.bench.trial import Budget
from tidemill.errors import InputError, OutOfPool, ResourceError, TidemillError

QUEUE_LIMIT = 100
"""Runs that may wait; more are refused."""
KEEP_FILES = 200
"""Event files of finished runs that are kept, newest first…"""
KEEP_BYTES = 256 * 2**20
"""…and how large they may be together."""
NICE = 10
"""Niceness of a session, so that pages stay quick while it measures."""
_TICK_S = 0.5
_KILL_AFTER_S = 20.0  # SIGTERM to SIGKILL, more than a session needs to end a trial's family
_CLAIM_LOCK = 0x7469646E  # any number, the same in every tidemill: Postgres's advisory lock
_UNFINISHED = (RunState.QUEUED, RunState.RUNNING)
_log = logging.getLogger(__name__)


def runs_directory() -> Path:
    """Where event files go unless told otherwise: ``runs`` in the user's data folder."""
    return Path(platformdirs.user_data_dir("tidemill")) / "runs"


class RunQueue:
    """Starts queued runs, a few at a time, and keeps the rows true. Thread-safe.

    Args:
        store: Where the runs are.
        directory: Where their event files go.
        slots: How many run at once on this machine; more than one disturb each other's figures.
    """

    def __init__(self, store: Store, directory: str | Path, slots: int = 1) -> None:
        self._store = store
        self._directory = Path(directory).absolute()
        self._slots = slots
        self._thread: threading.Thread | None = None
        self._is_stopping = threading.Event()
        self._wake = threading.Event()
        self._pids: set[int] = set()
        self._kill_at: dict[str, float] = {}
        self._told: set[str] = set()

    def submit(
        self, system: str, config: Mapping[str, Json], kind: RunKind, budget: str | None = None
    ) -> Run:
        """Queue a run; a thread that was started will begin it.

        Raises:
            ConfigError: The system or a setting does not exist or is out of range.
            OutOfPool: Too many runs wait already, or the disk is full.
        """
        found = find(system)
        settings = to_json(from_json(found.config, config))
        budget = None if kind == "run" else budget or Budget.QUICK
        waiting = self._store.runs(states=[RunState.QUEUED], limit=QUEUE_LIMIT)
        if len(waiting) >= QUEUE_LIMIT:
            raise OutOfPool(
                f"run of {system} — {QUEUE_LIMIT} runs wait already, which is the most; "
                "cancel some or come back later."
            )
        path = self._directory / f"{uuid.uuid4().hex}.jsonl"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except OSError as error:
            raise OutOfPool(
                f"run of {system} — its event file cannot be made: {error}; free space in "
                f"{self._directory}."
            ) from error
        try:
            run = self._store.create_run(
                system=system, config=settings, kind=kind, budget=budget, events_path=str(path)
            )
        except BaseException:
            path.unlink()
            raise
        self._wake.set()
        return run

    def cancel(self, run_id: str) -> bool:
        """Have a run end; False if it already had. A running one ends within seconds, not at once.

        Raises:
            InputError: There is no such run.
        """
        now = datetime.now(UTC)
        if self._store.update_run(
            run_id, only_in=[RunState.QUEUED], state=RunState.CANCELLED, ended=now
        ):
            self._write_end(self._run(run_id), RunState.CANCELLED, "")
            return True
        run = self._run(run_id)
        if run.state.is_final:
            return False
        self._kill_at.setdefault(run_id, time.monotonic() + _KILL_AFTER_S)
        self._tell(run)
        self._wake.set()
        return True

    def is_over(self, run_id: str) -> bool:
        """Whether a run has ended, or its process is gone: a full disk may keep the row as it was.

        Raises:
            InputError: There is no such run.
        """
        run = self._run(run_id)
        if run.state is not RunState.RUNNING:
            return run.state.is_final
        return not family.is_alive(run.pid, run.pid_started, run.id)

    def start(self) -> None:
        """Adopt what still runs, then start and watch runs in a thread until `stop`."""
        if self._thread is not None:
            return
        self.adopt()
        self.prune()
        self._is_stopping.clear()
        self._thread = threading.Thread(target=self._supervise, name="tidemill-queue", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; running sessions go on, and the next `start` adopts them."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def adopt(self) -> list[Run]:
        """Settle the runs whose process ended unseen; those that still run."""
        return [run for run in self._running() if not self._settle(run)]

    def prune(self) -> None:
        """Remove the event files of finished runs beyond `KEEP_FILES` and `KEEP_BYTES`."""
        unfinished = {run.events_path for run in self._store.runs(states=_UNFINISHED, limit=1000)}
        files = [path for path in self._directory.glob("*.jsonl") if str(path) not in unfinished]
        size = 0
        for i, path in enumerate(sorted(files, key=_modified, reverse=True)):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
                if i >= KEEP_FILES or size > KEEP_BYTES:
                    path.unlink()
                    path.with_suffix(".log").unlink(missing_ok=True)

    def _run(self, run_id: str) -> Run:
        if (run := self._store.run(run_id)) is None:
            raise InputError(f"run {run_id} — is not in this store; it may belong to another one.")
        return run

    def _running(self) -> list[Run]:
        runs = self._store.runs(states=[RunState.RUNNING], limit=1000)
        return [run for run in runs if Path(run.events_path).exists()]

    def _supervise(self) -> None:
        while not self._is_stopping.is_set():
            self._wake.clear()
            try:
                self._tick()
            except TidemillError as error:  # a locked or full database may be well again later
                _log.warning("queue of runs: %s", error)
            except Exception:
                _log.exception("queue of runs")
            self._wake.wait(_TICK_S)

    def _tick(self) -> None:
        for pid in list(self._pids):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._pids.discard(pid)
        for run in self.adopt():
            self._press(run)
        while (run := self._claim()) is not None:
            self._launch(run)

    def _press(self, run: Run) -> None:
        """Go on with a cancellation that SIGTERM has not brought about yet."""
        if (kill_at := self._kill_at.get(run.id)) is None:
            return
        self._tell(run)
        if time.monotonic() > kill_at and _is_session(run):
            family.send({cast(int, run.pid)}, signal.SIGKILL)
            family.sweep(lambda: family.marked(run.id))
            self._finish(run, RunState.CANCELLED, "its session did not end by itself")

    def _tell(self, run: Run) -> None:
        """SIGTERM, once: a second one makes a session drop everything."""
        if run.id not in self._told and _is_session(run):
            self._told.add(run.id)
            family.send({cast(int, run.pid)}, signal.SIGTERM)

    def _claim(self) -> Run | None:
        """Take the oldest queued run for this server, if a slot is free; no other takes it."""
        this = tables.run
        with writing(self._store.engine) as connection:
            if connection.dialect.name == "postgresql":  # SQLite's writers are alone anyway
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_CLAIM_LOCK})"))
            unfinished = connection.execute(
                sa.select(this.c.id, this.c.state, this.c.events_path)
                .where(this.c.state.in_(_UNFINISHED))
                .order_by(this.c.created)
            ).all()
            own = [row for row in unfinished if Path(row.events_path).exists()]
            queued = [row.id for row in own if row.state == RunState.QUEUED]
            if not queued or len(own) - len(queued) >= self._slots:
                return None
            connection.execute(
                sa.update(this)
                .where(this.c.id == queued[0])
                .values(
                    state=RunState.RUNNING,
                    pid=os.getpid(),
                    pid_started=family.start_time(os.getpid()),
                    started=datetime.now(UTC),
                )
            )
        return self._store.run(queued[0])

    def _launch(self, run: Run) -> None:
        words = [sys.executable, "-P", "-m", "tidemill", "run", run.system]
        words += ["--config", dumps(dict(run.config)), "--events", run.events_path]
        words += ["--run-id", run.id, "--nice", str(NICE)]
        if run.budget is not None and run.kind != "run":
            words += ["--claims", str(run.budget)]
        if run.kind == "claims":
            words += ["--no-run"]
        environment = os.environ | {"TIDEMILL_DB": self._store.url}
        environment.pop(family.MARK, None)
        log = str(Path(run.events_path).with_suffix(".log"))
        try:
            pid = os.posix_spawn(
                sys.executable,
                words,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
                ],
                setsid=True,
            )
        except OSError as error:
            self._finish(run, RunState.FAILED, f"its session could not be started: {error}")
            return
        self._pids.add(pid)
        started = family.start_time(pid)
        self._store.update_run(run.id, only_in=[RunState.RUNNING], pid=pid, pid_started=started)

    def _settle(self, run: Run) -> bool:
        """If the run's process is gone, give the run its final state; whether it has."""
        if family.is_alive(run.pid, run.pid_started, run.id):
            return False
        if (current := self._store.run(run.id)) is None or current.state.is_final:
            return True  # it ended while we looked
        for event in reversed(read_events(run.events_path)):
            if event.kind == "end":
                state = RunState(str(event.data["state"]))
                self._finish(run, state, str(event.data["error"]), has_end=True)
                return True
        family.sweep(lambda: family.marked(run.id))
        state = RunState.CANCELLED if run.id in self._kill_at else RunState.LOST
        self._finish(run, state, f"its process vanished{_last_words(run)}")
        return True

    def _finish(self, run: Run, state: RunState, error: str, *, has_end: bool = False) -> None:
        self._kill_at.pop(run.id, None)
        self._told.discard(run.id)
        if self._store.update_run(
            run.id,
            only_in=[RunState.RUNNING],
            state=state,
            error=error,
            ended=datetime.now(UTC),
            report=_report(run),
        ):
            if not has_end:
                self._write_end(run, state, error)
            self.prune()

    def _write_end(self, run: Run, state: RunState, error: str) -> None:
        """Let those who follow the events know that no more will come."""
        with contextlib.suppress(ResourceError):
            log = EventLog(run.events_path)
            log.append("end", {"state": str(state), "error": error})
            log.close()


def _is_session(run: Run) -> bool:
    """Whether the row names the session already, not the server that claimed the run for it."""
    return run.pid is not None and family.has_word(run.pid, run.id)


def _report(run: Run) -> dict[str, Json] | None:
    for event in read_events(run.events_path):
        if event.kind == "report":
            return dict(event.data)
    return run.report


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last_words(run: Run) -> str:
    """What the session wrote to standard error last, which is nothing when all is well."""
    with contextlib.suppress(OSError):
        text = Path(run.events_path).with_suffix(".log").read_text(errors="replace")
        if lines := text.strip().splitlines():
            return f"; its last line was: {lines[-1][:500]}"
    return " without a word; run it again"
