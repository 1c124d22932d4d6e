"""The warden: a small process between a session and a trial that answers for the trial's family.

It forks the trial, keeps the last lines of its output, holds it to its limits of time and memory,
and does not end before every process of the family has. When the session closes the warden's
standard input, on purpose or by dying, the warden ends the trial; when the warden dies, the kernel
kills the trial.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tidemill.bench import family
from tidemill.bench.claim import Json

Reason: TypeAlias = Literal["", "cancelled", "timeout", "out of memory"]

TERM_GRACE_S = 2.0
"""Between SIGTERM and SIGKILL."""
_LEAVE_GRACE_S = 1.0  # multiprocessing's own helpers end this soon after their owner
_GIVE_UP_S = 10.0  # a process that outlives SIGKILL hangs in the kernel
_POLL_S = 0.1
_POLL_SHARE = 0.02  # of the time that weighing the family may take
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a trial's family may use together."""

    wall_s: float
    memory_bytes: int


class Warden:
    """Watches one forked trial until nothing of it is left.

    Args:
        trial_pid: The forked process.
        output: Read end of the pipe that is its standard output and error.
        mark: Value of `family.MARK` in its environment.
        limits: When to end it.
    """

    def __init__(self, trial_pid: int, output: int, mark: str, limits: Limits) -> None:
        self._trial_pid = trial_pid
        self._output = output
        self._mark = mark
        self._limits = limits
        self._reason: Reason = ""
        self._status: int | None = None
        self._peak_bytes = 0
        self._began = time.monotonic()
        self._seconds = 0.0
        self._tail = b""
        self._next_weighing = 0.0
        self._term_at: float | None = None
        self._was_told = False
        self._forced: set[int] = set()
        self._parent = os.getppid()
        self._oom_kills = oom_kills()

    def watch(self, control: int) -> dict[str, Json]:
        """Block until the family is gone; tells how it went."""
        wake = _wake_on_children()
        with selectors.DefaultSelector() as selector:
            for source in (control, wake, self._output):
                selector.register(source, selectors.EVENT_READ)
            while not self._usher_out():
                for key, _ in selector.select(_POLL_S if self._term_at is None else _POLL_S / 2):
                    if self._receive(key.fd, wake, control):
                        selector.unregister(key.fd)
                self._reap()
                self._enforce_limits()
        self._drain()
        return {
            "status": self._status,
            "reason": self._reason,
            "seconds": self._seconds or time.monotonic() - self._began,
            "peak_rss_bytes": self._peak_bytes,
            "oom_killed": oom_kills() > self._oom_kills,
            "output": self._tail.decode(errors="backslashreplace"),
            "forced": len(self._forced - {self._trial_pid}),
        }

    def _receive(self, source: int, wake: int, control: int) -> bool:
        """Handle what ``source`` brings; whether it has ended."""
        data = os.read(source, 65536)
        if source == self._output:
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
            return not data
        if source == wake:
            if {signal.SIGTERM, signal.SIGINT} & {signal.Signals(number) for number in data}:
                self._end("cancelled")
            return False
        if source == control and not data:
            self._end("cancelled")
        return not data

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._trial_pid:
                    self._status = status
                    self._seconds = time.monotonic() - self._began
                    self._peak_bytes = max(self._peak_bytes, usage.ru_maxrss * 1024)
                    if self._term_at is None:
                        self._term_at = time.monotonic() + _LEAVE_GRACE_S

    def _enforce_limits(self) -> None:
        now = time.monotonic()
        if self._term_at is not None:
            return
        if os.getppid() != self._parent:
            self._end("cancelled")
        elif now - self._began > self._limits.wall_s:
            self._end("timeout")
        elif now >= self._next_weighing:
            weight = family.memory_bytes(family.descendants(os.getpid()))
            self._peak_bytes = max(self._peak_bytes, weight)
            cost = time.monotonic() - now
            self._next_weighing = now + max(_POLL_S, cost / _POLL_SHARE)
            if weight > self._limits.memory_bytes:
                self._end("out of memory")

    def _end(self, reason: Reason) -> None:
        if self._status is None and not self._reason:
            self._reason = reason
        self._term_at = min(self._term_at or time.monotonic(), time.monotonic())

    def _usher_out(self) -> bool:
        """End what is left of the family once its time has come; whether nothing is left."""
        now = time.monotonic()
        if self._term_at is None:
            return False
        left = family.descendants(os.getpid()) | family.marked(self._mark)
        left.discard(os.getpid())
        if not left or now > self._term_at + TERM_GRACE_S + _GIVE_UP_S:
            return True
        if now >= self._term_at + TERM_GRACE_S or self._reason == "out of memory":
            self._forced |= left
            family.send(left, signal.SIGKILL)
        elif now >= self._term_at and not self._was_told:
            self._was_told = True
            self._forced |= left
            family.send(left, signal.SIGTERM)
        return False

    def _drain(self) -> None:
        os.set_blocking(self._output, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output, 65536):
                self._tail = (self._tail + data)[-_TAIL_BYTES:]


def _wake_on_children() -> int:
    """A descriptor that becomes readable when a signal arrives, SIGCHLD above all."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)
    return wake


def _note(number: int, frame: object) -> None:
    """Do nothing but let the signal reach the descriptor."""


def oom_kills() -> int:
    """How often the kernel has killed for want of memory: on this machine and in this cgroup."""
    kills = 0
    files = [Path("/proc/vmstat")]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = Path("/sys/fs/cgroup") / controllers
            files += [
                root / path.lstrip("/") / name for name in ("memory.events", "memory.oom_control")
            ]
    for file in files:
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                kills += int(value) if name == "oom_kill" else 0
    return kills
