"""``python -m tidemill.bench.child``: one trial, or one run, in a process family of its own.

The first line of standard input is the job as JSON. Events go as JSON lines to the pipe that the
job names; standard output and error belong to the trial's code and are only kept as its last words.
The lines are those of `tidemill.bench.events` without id and time, and four more kinds:

    started  pid of the trial's process
    failed   kind ("missing", "memory" or "error"), error
    done     the trial came to its end
    over     from the warden, the last line: status, reason, peak memory, last lines of output
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from tidemill.bench import family
from tidemill.bench.claim import Json
from tidemill.bench.settings import dumps, from_json
from tidemill.bench.system import System, find
from tidemill.bench.trial import Budget, Context, Progress
from tidemill.bench.warden import Limits, Warden
from tidemill.bench.wire import measurement_json, report_json
from tidemill.errors import ClaimError, MissingCapability

RUN = ""
"""The name in place of a trial's that stands for the system's ``run``."""
MEASUREMENT_LIMIT_BYTES = 8 * 2**20
_LOG_LIMIT_CHARS = 2000
_LOGS_PER_S = 100
_PROGRESS_EVERY_S = 0.1
_METRIC_EVERY_S = 0.02
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the child is to do.

    Args:
        system: Its name, or ``module:ATTRIBUTE``.
        trial: Name of the trial, or `RUN`.
        config: Settings that differ from the defaults.
        budget: A `Budget`.
        threads: How many it may use.
        wall_s: Limit of time.
        memory_bytes: Limit on the family's resident memory.
        nice: Added to its niceness.
        mark: Value of `family.MARK`.
        scratch: Folder for its temporary files; the child removes it.
        events: Descriptor of the pipe for events.
        path: ``sys.path`` of the caller, so that the child finds the same modules.
    """

    system: str
    trial: str
    config: Mapping[str, Json]
    budget: str
    threads: int
    wall_s: float
    memory_bytes: int
    nice: int
    mark: str
    scratch: str
    events: int
    path: list[str]

    def to_json(self) -> str:
        """One line."""
        return dumps(asdict(self)) + "\n"


class PipeProgress(Progress):
    """Writes events as JSON lines to a pipe; usable from several threads and forked workers.

    At most ten progress events, fifty readings per metric and a hundred log lines go out each
    second: the reader cannot see more, and each costs the trial a system call. The last state of a
    stage always goes out.
    """

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()
        self._pending: dict[str, Json] | None = None
        self._progress_at = 0.0
        self._metric_at: dict[str, float] = {}
        self._log_second = 0.0
        self._logs = 0
        self.trial = RUN

    def send(self, event: str, /, **data: Json) -> None:
        """Write one event."""
        line = (dumps({"event": event, **data}) + "\n").encode(errors="replace")
        with self._lock:
            self._write(line)

    def flush(self) -> None:
        """Send the progress that was held back."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self.send("progress", **pending)

    def stage(self, name: str) -> None:
        """See `Progress`."""
        self.flush()
        self.send("stage", name=name, trial=self.trial)
        self._progress_at = 0.0

    def advance(self, done: float, total: float, unit: str = "") -> None:
        """See `Progress`."""
        done, total = float(done), float(total)  # a numpy integer is no JSON
        if not (math.isfinite(done) and math.isfinite(total)):
            return
        self._pending = {"done": done, "total": total, "unit": unit}
        now = time.monotonic()
        if done >= total or now - self._progress_at >= _PROGRESS_EVERY_S:
            self._progress_at = now
            self.flush()

    def metric(self, name: str, value: float, unit: str = "") -> None:
        """See `Progress`."""
        now = time.monotonic()
        if not math.isfinite(value) or now - self._metric_at.get(name, 0.0) < _METRIC_EVERY_S:
            return
        self._metric_at[name] = now
        self.send("metric", name=name, value=float(value), unit=unit)

    def log(self, text: str) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if now - self._log_second >= 1.0:
            self._log_second, self._logs = now, 0
        self._logs += 1
        if self._logs < _LOGS_PER_S:
            self.send("log", text=text[:_LOG_LIMIT_CHARS])
        elif self._logs == _LOGS_PER_S:
            self.send(
                "log", text=f"more than {_LOGS_PER_S} lines a second: the others are left out"
            )

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._pipe, rest) :]


def main() -> NoReturn:
    """Fork the trial, watch it, report how it went, exit 0 whatever it did."""
    job = Job(**json.loads(sys.stdin.buffer.readline()))
    os.set_inheritable(job.events, False)
    family.become_subreaper()
    os.nice(job.nice)
    output, trials_output = os.pipe()
    warden_pid = os.getpid()
    trial_pid = os.fork()
    if trial_pid == 0:
        os.close(output)
        _become_trial(job, warden_pid, trials_output)
        sys.exit(_perform(job))
    os.close(trials_output)
    progress = PipeProgress(job.events)
    progress.send("started", pid=trial_pid)
    limits = Limits(wall_s=job.wall_s, memory_bytes=job.memory_bytes)
    told = Warden(trial_pid, output, job.mark, limits).watch(control=0)
    shutil.rmtree(job.scratch, ignore_errors=True)
    with contextlib.suppress(BrokenPipeError):  # the session has gone, or does not care any more
        os.write(job.events, b"\n")  # the trial may have been killed in the middle of a line
        progress.send("over", **told)
    sys.exit(0)


def _become_trial(job: Job, warden_pid: int, output: int) -> None:
    os.setsid()
    family.die_with_parent()
    if os.getppid() != warden_pid:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # when the machine runs out of memory, the kernel shall take the trial, not the server
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    signal.signal(signal.SIGTERM, _leave)
    os.environ["TMPDIR"] = job.scratch
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(job.threads)
    sys.path[:] = job.path


def _leave(number: int, _: object) -> NoReturn:
    """End by an exception, so that the trial's context managers clean up."""
    sys.exit(128 + number)


def _perform(job: Job) -> int:
    progress = PipeProgress(job.events)
    progress.trial = job.trial
    try:
        system = find(job.system)
        if lacks := system.missing():
            raise MissingCapability(" ".join(lacks))
        config = from_json(system.config, job.config)
        context = Context(config, Budget(job.budget), progress, job.threads)
        if job.trial == RUN:
            progress.send("report", **report_json(system.run(context)))
        else:
            _measure(system, job.trial, context, progress)
    except Exception as error:
        progress.flush()
        traceback.print_exc()
        progress.send(
            "failed",
            kind=_kind(error),
            error=f"{type(error).__name__}: {error}"[:_LOG_LIMIT_CHARS],
        )
        return 1
    progress.flush()
    progress.send("done")
    return 0


def _measure(system: System, name: str, context: Context, progress: PipeProgress) -> None:
    trial = next(trial for trial in system.trials if trial.name == name)
    own = {claim.id for claim in system.claims if claim.trial.name == name}
    for measurement in trial.measure(context):
        if measurement.claim not in own:
            raise ClaimError(
                f"trial {name} — measured claim {measurement.claim!r}, its own are "
                f"{', '.join(sorted(own))}; give the claim this trial or name another."
            )
        fields = measurement_json(measurement)
        if (size := len(dumps(fields))) > MEASUREMENT_LIMIT_BYTES:
            raise ClaimError(
                f"trial {name} — the measurement of {measurement.claim} is {size} bytes of JSON, "
                f"at most {MEASUREMENT_LIMIT_BYTES}; thin out the series in its detail."
            )
        progress.flush()
        progress.send("measurement", trial=name, **fields)


def _kind(error: Exception) -> str:
    if isinstance(error, MissingCapability):
        return "missing"
    return "memory" if isinstance(error, MemoryError) else "error"


if __name__ == "__main__":
    main()
