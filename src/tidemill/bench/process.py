"""A child process that does one trial or one run, and how it ended.

Whatever it does, crash, leak, loop or fork, becomes an `Ended`, and nothing of its family is left
when `perform` returns or raises.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from tidemill.bench import family
from tidemill.bench.child import Job
from tidemill.bench.claim import Json, Measurement
from tidemill.bench.environment import CpuMeter
from tidemill.bench.records import OutcomeKind
from tidemill.bench.trial import Budget
from tidemill.bench.warden import TERM_GRACE_S
from tidemill.bench.wire import measurement_of
from tidemill.errors import OutOfPool, TidemillError

Listener: TypeAlias = Callable[[str, Mapping[str, Json]], None]
"""Called with kind and data of each event, as `tidemill.bench.events` lists them."""

DISTURBED_SHARE = 0.25
"""Share of the machine that others may use before a figure is called disturbed."""
_PATIENCE_S = 30.0  # for a warden to start and to end its family
_POLL_S = 0.1
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How children are run, whatever they do.

    Args:
        threads: How many each may use; 0 stands for all this process may use.
        nice: Added to their niceness.
        cancel: When set, the child is ended at once.
        run_id: The `Run` they belong to, if any.
        ray: Address of the Ray cluster that trials go to, or "local"; "" for this process.
    """

    threads: int = 0
    nice: int = 0
    cancel: threading.Event = field(default_factory=threading.Event)
    run_id: str = ""
    ray: str = ""


@dataclass(slots=True)
class Ended:
    """How a child went; `run_trial` makes a `TrialOutcome` of it."""

    outcome: OutcomeKind = "crashed"
    error: str = ""
    measurements: dict[str, Measurement] = field(default_factory=dict[str, Measurement])
    report: dict[str, Json] | None = None
    peak_rss_bytes: int = 0
    seconds: float = 0.0
    disturbed: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a child is to do, and within which limits."""

    system: str
    trial: str
    config: Mapping[str, Json]
    budget: Budget
    wall_s: float
    memory_bytes: int


def perform(work: Work, listen: Listener, terms: Terms) -> Ended:
    """Start the child, pass its events on, and tell how it ended."""
    meter = CpuMeter()
    with _Child(work, terms) as child:
        ended = child.attend(listen, terms.cancel)
    cores = os.cpu_count() or 1
    foreign = meter.foreign_cores()
    if foreign > DISTURBED_SHARE * cores:
        ended.disturbed = (
            f"other processes used {foreign:.1f} of the {cores} CPUs "
            f"({100 * foreign / cores:.0f} %) in the {meter.seconds():.0f} s it ran"
        )
    return ended


class _Child:
    """A warden with its trial, from start to the last process of the family."""

    def __init__(self, work: Work, terms: Terms) -> None:
        self._work = work
        run_id = terms.run_id or os.environ.get(family.MARK, "")
        self._mark = f"{run_id}.{uuid.uuid4().hex}".lstrip(".")
        self._stage = ""
        self._lines = b""
        self._was_cancelled = False
        self._failed: Mapping[str, Json] | None = None
        self._is_done = False
        self._over: Mapping[str, Json] | None = None
        self._ended = Ended()
        with contextlib.ExitStack() as always, contextlib.ExitStack() as on_error:
            try:
                self._events, write = os.pipe()
                always.callback(os.close, write)
                on_error.callback(os.close, self._events)
                self._scratch = tempfile.mkdtemp(prefix="tidemill-")
                on_error.callback(shutil.rmtree, self._scratch, ignore_errors=True)
                self._process = self._start(write, terms)
            except OSError as error:
                raise OutOfPool(
                    f"child process — cannot be started: {error}; it needs a process, pipes and a "
                    f"folder in {tempfile.gettempdir()}; free some or set TMPDIR."
                ) from error
            on_error.pop_all()

    def _start(self, events: int, terms: Terms) -> subprocess.Popen[bytes]:
        work = self._work
        job = Job(
            system=work.system,
            trial=work.trial,
            config=work.config,
            budget=str(work.budget),
            threads=terms.threads or usable_threads(),
            wall_s=work.wall_s,
            memory_bytes=work.memory_bytes,
            nice=terms.nice,
            mark=self._mark,
            scratch=self._scratch,
            events=events,
            path=sys.path,
        )
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tidemill.bench.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(events,),
            env=os.environ | {family.MARK: self._mark},
            start_new_session=True,
        )
        with contextlib.suppress(BrokenPipeError):  # it died at once; attend() will tell
            cast(Any, process.stdin).write(job.to_json().encode())
            cast(Any, process.stdin).flush()
        return process

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the warden, or kill it, and whatever it left; ends also on an exception."""
        self._close_control()
        os.close(self._events)  # what is still being written shall not wait for a reader
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        family.sweep(lambda: family.marked(self._mark))
        shutil.rmtree(self._scratch, ignore_errors=True)
        cast(Any, self._process.stderr).close()

    def _close_control(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            cast(Any, self._process.stdin).close()

    def attend(self, listen: Listener, cancel: threading.Event) -> Ended:
        """Pass events on until the warden says that the family is gone."""
        give_up = time.monotonic() + self._work.wall_s + _PATIENCE_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._events, selectors.EVENT_READ)
            while self._over is None and time.monotonic() < give_up:
                if cancel.is_set() and not self._was_cancelled:
                    self._was_cancelled = True
                    self._close_control()
                    give_up = time.monotonic() + TERM_GRACE_S + _PATIENCE_S
                if selector.select(_POLL_S):
                    if not (data := os.read(self._events, 2**16)):
                        break
                    self._receive(data, listen)
        self._judge()
        return self._ended

    def _receive(self, data: bytes, listen: Listener) -> None:
        *lines, self._lines = (self._lines + data).split(b"\n")
        for line in lines:
            try:
                fields = cast(dict[str, Json], json.loads(line))
                kind = str(fields.pop("event"))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut off by a kill, or written by something that is not ours
            self._take(kind, fields, listen)

    def _take(self, kind: str, fields: dict[str, Json], listen: Listener) -> None:
        if kind == "failed":
            self._failed = fields
        elif kind == "done":
            self._is_done = True
        elif kind == "over":
            self._over = fields
            if fields["forced"] and not fields["reason"]:
                listen("log", {"text": f"ended {fields['forced']} processes that it left behind"})
        elif kind == "measurement":
            try:
                measurement = measurement_of(fields)
            except TidemillError as error:
                self._failed = {"kind": "error", "error": str(error)}
                return
            self._ended.measurements[measurement.claim] = measurement
            listen(kind, fields)
        else:
            if kind == "started":
                kind = "trial"
                fields |= {
                    "name": self._work.trial,
                    "state": "started",
                    "limit_s": self._work.wall_s,
                }
            elif kind == "stage":
                self._stage = str(fields.get("name", ""))
            elif kind == "report":
                self._ended.report = fields
            listen(kind, fields)

    def _judge(self) -> None:
        over = cast(dict[str, Any], self._over or {})
        ended = self._ended
        ended.peak_rss_bytes = int(over.get("peak_rss_bytes", 0))
        ended.seconds = float(over.get("seconds", 0.0))
        ended.outcome, ended.error = self._verdict(over)
        if ended.outcome in ("crashed", "failed") and (tail := _last_lines(over)):
            ended.error += f"\n{tail}"

    def _verdict(self, over: Mapping[str, Any]) -> tuple[OutcomeKind, str]:
        where = f"{self._what()}{f' in stage {self._stage!r}' if self._stage else ''}"
        if self._was_cancelled and not self._is_done:
            return "cancelled", f"{where} — cancelled by the user."
        if self._over is None:
            return "crashed", f"{where} — its supervising process {self._wardens_end()}."
        if over["reason"]:
            return over["reason"], f"{where} — {self._limit_text(over)}; it was ended."
        if self._failed is not None:
            kinds: dict[str, OutcomeKind] = {"missing": "missing", "memory": "out of memory"}
            kind = kinds.get(str(self._failed["kind"]), "failed")
            return kind, f"{where} — {self._failed['error']}"
        return self._exit_verdict(where, over)

    def _wardens_end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, said = self._process.communicate(timeout=_PATIENCE_S)
            if lines := said.decode(errors="replace").strip().splitlines():
                return f"failed: {lines[-1]}"
        return "was killed; run it again"

    def _limit_text(self, over: Mapping[str, Any]) -> str:
        if over["reason"] == "timeout":
            limit = f"{self._work.wall_s:g} s, the limit for budget {self._work.budget}"
            return f"still running after {limit}"
        if over["reason"] == "out of memory":
            return (
                f"reached {over['peak_rss_bytes'] / 2**20:.0f} MiB of memory with its children, "
                f"the limit is {self._work.memory_bytes / 2**20:.0f} MiB"
            )
        return "its supervising process was told to end"  # by a signal from outside

    def _exit_verdict(self, where: str, over: Mapping[str, Any]) -> tuple[OutcomeKind, str]:
        code = os.waitstatus_to_exitcode(int(over["status"] or 0))
        if code == -signal.SIGKILL and over["oom_killed"]:
            return "out of memory", f"{where} — the kernel killed it for want of memory."
        if code < 0:
            return "crashed", f"{where} — killed by {signal.Signals(-code).name}."
        if code or not self._is_done:
            return "crashed", f"{where} — exited with status {code} before it was done."
        return "ok", ""

    def _what(self) -> str:
        return f"trial {self._work.trial}" if self._work.trial else f"run of {self._work.system}"


def _last_lines(over: Mapping[str, Any]) -> str:
    lines = str(over.get("output", "")).rstrip().splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def usable_threads() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))
