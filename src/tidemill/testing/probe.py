"""``python -m tidemill.testing.probe``: runs a system three times and tells what each run left.

The second time it is interrupted in the middle, as by Ctrl-C. The job comes as JSON on standard
input, what was seen goes as JSON to the file that the job names.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidemill.bench import family
from tidemill.bench.settings import dumps
from tidemill.bench.system import System, find
from tidemill.bench.trial import Budget, Context, Progress
from tidemill.bench.wire import report_json
from tidemill.errors import MissingCapability

PATIENCE_S = 2.0
"""How long threads and processes that are told to end may take to do so, in all three runs."""
_SHARED_MEMORY = Path("/dev/shm")
_TRACKER = b"multiprocessing.resource_tracker"  # Python's own, one per process until it ends


@dataclass(frozen=True, slots=True)
class Job:
    """What the probe is to do.

    Args:
        reference: ``module:ATTRIBUTE`` of the system.
        threads: How many the system may use.
        temporary: Its folder for temporary files, empty.
        result: Where to write what was seen.
        path: ``sys.path`` of the caller.
    """

    reference: str
    threads: int
    temporary: str
    result: str
    path: list[str]


@dataclass(slots=True)
class Seen:
    """What one run gave and what it left behind.

    Args:
        report: As `wire.report_json`; None if it gave none.
        raised: Type and text of what it raised; "" if nothing.
        told: How often it reported progress.
        stages: The stages it named.
        threads: Names of Python threads still there, but the main one.
        tasks: Kernel threads of the process, those of libraries included.
        processes: Command lines of processes still there.
        descriptors: How many open files of each kind.
        segments: Shared memory made since it began that no other program uses.
        files: What lies in the folders for temporary files and in the working folder.
        handler: Whether Ctrl-C still does what it did before.
    """

    report: dict[str, Any] | None
    raised: str
    told: int
    stages: list[str]
    threads: list[str]
    tasks: int
    processes: list[str]
    descriptors: dict[str, int]
    segments: list[str]
    files: list[str]
    handler: bool


class Interrupter(Progress):
    """Counts what it is told and, at one of these moments, interrupts its own process."""

    def __init__(self, at: int | None = None) -> None:
        self.told = 0
        self.stages: list[str] = []
        self._at = at

    def stage(self, name: str) -> None:
        """See `Progress`."""
        self.stages.append(name)
        self._hear()

    def advance(self, done: float, total: float, unit: str = "") -> None:
        """See `Progress`."""
        self._hear()

    def metric(self, name: str, value: float, unit: str = "") -> None:
        """See `Progress`."""
        self._hear()

    def log(self, text: str) -> None:
        """See `Progress`."""
        self._hear()

    def _hear(self) -> None:
        self.told += 1
        if self.told == self._at:
            os.kill(os.getpid(), signal.SIGINT)


@dataclass(slots=True)
class Patience:
    """What is left of `PATIENCE_S`."""

    left_s: float = PATIENCE_S


_patience = Patience()


def main() -> None:
    """Do the job."""
    job = Job(**json.load(sys.stdin))
    sys.path[:] = job.path
    family.become_subreaper()
    # a parent may have had it ignored, as a shell does for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
    result: dict[str, Any] = {"missing": [], "runs": []}
    system = find(job.reference)
    result["missing"] = system.missing()
    if not result["missing"]:
        first = _run(system, job, Interrupter())
        middle = _run(system, job, Interrupter(at=first.told // 2 + 1))
        last = _run(system, job, Interrupter())
        result["runs"] = [asdict(seen) for seen in (first, middle, last)]
    Path(job.result).write_text(dumps(result), encoding="utf-8")


def _run(system: System, job: Job, progress: Interrupter) -> Seen:
    report: dict[str, Any] | None = None
    raised = ""
    before = _segments()
    try:
        context = Context(system.config(), Budget.QUICK, progress, job.threads)
        report = report_json(system.run(context))
        dumps(report)
    except MissingCapability:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        report = None
        raised = f"{type(error).__name__}: {error}".rstrip(": ")
        error.__traceback__ = None  # frames of the run would keep its files open
    return Seen(
        report=report,
        raised=raised,
        told=progress.told,
        stages=progress.stages,
        threads=_settled(_threads),
        processes=_settled(_processes),
        tasks=len(list(Path("/proc/self/task").iterdir())),
        descriptors=_descriptors(),
        segments=sorted(name for name in _segments() - before if not _is_in_use(name)),
        files=_files(Path(job.temporary)) + _files(Path.cwd()),
        handler=signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    )


def _settled(look: Any) -> list[str]:
    """What is still there when everything has had time to end."""
    while (found := look()) and _patience.left_s > 0:
        _patience.left_s -= 0.02
        time.sleep(0.02)
    return found


def _threads() -> list[str]:
    gc.collect()
    return [
        thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
    ]


def _processes() -> list[str]:
    found: list[str] = []
    for pid in family.descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it ended while we looked
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if _TRACKER not in words:
                found.append(words.replace(b"\0", b" ").decode(errors="replace") or "a zombie")
    return found


def _descriptors() -> dict[str, int]:
    kinds: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            # sockets and pipes have a number in their name, which differs each time
            kinds[re.sub(r"\[\d+\]", "", str(entry.readlink()))] += 1
    return dict(kinds)


def _segments() -> set[str]:
    return {entry.name for entry in _SHARED_MEMORY.glob("*")}


def _is_in_use(name: str) -> bool:
    """Whether a process outside this family maps the segment: then it made it meanwhile."""
    family_pids = {os.getpid(), *family.descendants(os.getpid())}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) not in family_pids:
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if str(_SHARED_MEMORY / name) in (process / "maps").read_text(errors="replace"):
                    return True
    return False


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


if __name__ == "__main__":
    main()
