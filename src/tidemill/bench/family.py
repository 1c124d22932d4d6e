"""A process family: everything one trial started, found, weighed and ended to the last process.

Two nets catch them: the tree below a process (`descendants`; with `become_subreaper` also those
whose parent ended) and a mark in the environment that children inherit (`marked`), for what left
the tree. Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "TIDEMILL_RUN_ID"
"""Environment variable that all processes of a trial inherit: ids of run and trial, with dots."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CLOCK_SLACK_S = 5.0


def become_subreaper() -> None:
    """Let orphans among the descendants of this process become its children, not those of init."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def descendants(pid: int) -> set[int]:
    """All living processes below ``pid``, zombies included, without itself."""
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        for child in _children(unseen.pop()):
            if child not in found:
                found.add(child)
                unseen.append(child)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):  # it ended while we looked
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def marked(mark: str) -> set[int]:
    """All living processes of this user whose `MARK` begins with ``mark``.

    Where a process stands in the environment it was started with, not in what it set later, so a
    session that sets its own run id for its children is not among them.
    """
    wanted = f"\0{MARK}={mark}".encode()
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended, or is another user's
                if wanted in b"\0" + (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


def memory_bytes(pids: set[int]) -> int:
    """Resident memory of the processes together; 0 when none is left.

    One process: its resident set, as `top` shows it. Several share pages, so each counts its
    proportional part; that costs the kernel a walk of the page tables, about 5 ms per GiB.
    """
    parts = [_resident(pid) for pid in pids]
    if len([part for part in parts if part]) < 2:
        return sum(parts)
    return sum(_proportional(pid) or part for pid, part in zip(pids, parts, strict=True))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not ours to look into, or a kernel before 4.14
        pass
    return 0


def send(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to all of them; those already gone do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def sweep(find: Callable[[], set[int]], *, patience_s: float = 10.0) -> set[int]:
    """Kill what ``find`` gives until it gives none; what is still there after ``patience_s``.

    Blocks until then. The caller's own process is spared.
    """
    deadline = time.monotonic() + patience_s
    while left := find() - {os.getpid()}:
        if time.monotonic() > deadline:
            return left
        send(left, signal.SIGKILL)
        time.sleep(0.01)
    return set()


def start_time(pid: int) -> float | None:
    """When process ``pid`` began, in seconds since the epoch; None if it does not run any more."""
    import psutil  # here, so that the small warden does not load it

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(pid: int | None, started: float | None, word: str) -> bool:
    """Whether ``pid`` is still the process that began at ``started``, not a later one.

    The system clock may be set in between, so a process with ``word`` in its command counts too.
    """
    if pid is None or (found := start_time(pid)) is None:
        return False
    if started is not None and abs(found - started) < _CLOCK_SLACK_S:
        return True
    return has_word(pid, word)


def has_word(pid: int, word: str) -> bool:
    """Whether ``word`` is among the arguments of process ``pid``; False if there is none."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
