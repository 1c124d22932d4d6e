"""The event file of a run: one JSON line per event, written by its session, read by any number.

Every line is ``{"id": n, "t": "2026-06-23T08:00:00.123456+00:00", "event": KIND, …}``; ids count
from 1. The kinds and what else their lines hold:

    stage        name, trial                    a new phase has begun; trial "" is the run itself
    progress     done, total, unit              of the current stage
    metric       name, value, unit              one live reading, a point of a curve
    log          text                           one line for the reader
    measurement  trial, claim, value, low, high, repeats, subject, baseline, stand_ins, detail,
                 unit, status, verdict          one figure for one claim
    report       headline, facts, timings, tables, charts    what the system's run tells
    trial        name, state "started", pid, limit_s         its process has begun; "" is the run
                 name, state "ended", outcome, error, seconds, peak_rss_bytes, disturbed
    end          state, error                   the last line; state as in `RunState`
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from tidemill.bench.claim import Json
from tidemill.bench.settings import dumps
from tidemill.errors import ResourceError

CHATTER = frozenset({"progress", "metric", "log"})
"""Kinds that are dropped when a file has reached its limit; all others are results."""
CHATTER_LIMIT_BYTES = 4 * 2**20
"""Where the chatter of one file ends; results are few and go on."""
LINE_LIMIT_BYTES = 2**20
"""No event is longer: of a longer one the largest field is cut, a text to `CUT_CHARACTERS`."""
CUT_CHARACTERS = 4000
_SYNC_EVERY_S = 1.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an event file; ``data`` is all but id, time and kind."""

    id: int
    t: str
    kind: str
    data: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """The event as its line holds it."""
        return {"id": self.id, "t": self.t, "event": self.kind, **self.data}


class EventLog:
    """Appends events to one file; only one process writes a file, any number reads it.

    Each line is handed to the kernel at once. Results are on the disk when `append` returns;
    chatter is synced at most once a second, since a sync per reading would disturb what is being
    measured. A full disk does not raise: the event is lost, `failure` says so, and the next result
    is tried again.

    Args:
        path: The file; it is made, or continued after its last whole line.
        chatter_limit_bytes: Size from which `CHATTER` is dropped.

    Raises:
        ResourceError: The file cannot be made or opened.
    """

    def __init__(self, path: str | Path, *, chatter_limit_bytes: int = CHATTER_LIMIT_BYTES) -> None:
        self.path = Path(path)
        self.failure = ""
        self._limit = chatter_limit_bytes
        self._lock = threading.Lock()
        self._synced = 0.0
        self._is_full = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResourceError(
                f"events — {self.path} cannot be opened: {error.strerror}; it must be a file in a "
                "folder that can be written."
            ) from error
        self._size, self._last_id = _end_of_whole_lines(self.path)
        os.ftruncate(self._file, self._size)

    def append(self, kind: str, data: Mapping[str, Json]) -> Event | None:
        """Write one event; None if it was dropped (chatter over the limit) or the disk is full.

        Raises:
            ValueError: ``data`` holds NaN, infinity or what JSON cannot express.
        """
        with self._lock:
            if kind in CHATTER and self._size >= self._limit:
                if not self._is_full:
                    self._is_full = True
                    text = f"event file over {self._limit} bytes: no more progress, metrics, logs"
                    self._write("log", {"text": text})
                return None
            return self._write(kind, data)

    def close(self) -> None:
        """Close the file; what was appended is on the disk unless `failure` says otherwise."""
        with self._lock:
            if self._file < 0:
                return
            try:
                os.fsync(self._file)
            except OSError as error:
                self._fail(error)
            os.close(self._file)
            self._file = -1

    def _write(self, kind: str, data: Mapping[str, Json]) -> Event | None:
        event = Event(self._last_id + 1, datetime.now(UTC).isoformat(), kind, data)
        line = _line(event)
        try:
            written = os.pwrite(self._file, line, self._size)
            if written < len(line):
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            now = time.monotonic()
            if kind not in CHATTER or now - self._synced > _SYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = now
        except OSError as error:
            self._fail(error)
            return None
        self._size += len(line)
        self._last_id = event.id
        return event

    def _fail(self, error: OSError) -> None:
        self.failure = (
            f"events of this run — {self.path} cannot be written: {error.strerror}; what it holds "
            "so far is intact; free space on that disk."
        )


def _line(event: Event) -> bytes:
    line = (dumps(event.to_json()) + "\n").encode(errors="replace")  # half a character is no UTF-8
    if len(line) <= LINE_LIMIT_BYTES:
        return line
    largest = max(event.data, key=lambda name: len(dumps(event.data[name])))
    held = event.data[largest]
    rest = f"{held[:CUT_CHARACTERS]} …" if isinstance(held, str) else None
    cut = {**event.data, largest: rest, "cut": largest}
    return _line(Event(event.id, event.t, event.kind, cut))


def _end_of_whole_lines(path: Path) -> tuple[int, int]:
    """Size of the file up to its last whole line, and the id of the last event."""
    text = path.read_bytes()
    size = text.rfind(b"\n") + 1
    ids = [event.id for line in text[:size].splitlines() if (event := _parse(line))]
    return size, max(ids, default=0)


class EventTail:
    """Reads an event file bit by bit: `new` gives what was appended since the last call.

    Costs one `stat` when nothing was. A missing file is an empty one; a line cut off at the end
    is left for the next call; a line that is no event is skipped.
    """

    def __init__(self, path: str | Path, after: int = 0) -> None:
        self._path = Path(path)
        self._after = after
        self._offset = 0

    def new(self) -> list[Event]:
        """The events with an id above ``after`` that no call has given yet."""
        try:
            if self._path.stat().st_size <= self._offset:
                return []
            with self._path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [event for line in whole.splitlines() if (event := _parse(line))]
        return [event for event in events if event.id > self._after]


def _parse(line: bytes) -> Event | None:
    try:
        fields: object = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict):
        return None
    data = cast(dict[str, Json], fields)
    number, moment, kind = (data.pop(name, None) for name in ("id", "t", "event"))
    if not (isinstance(number, int) and isinstance(moment, str) and isinstance(kind, str)):
        return None
    return Event(number, moment, kind, data)


def read_events(path: str | Path, after: int = 0) -> list[Event]:
    """All events of the file with an id above ``after``; none if there is no such file."""
    return EventTail(path, after).new()


def follow(path: str | Path, after: int, stop: threading.Event) -> Iterator[Event]:
    """The events above ``after`` as they are written, until the ``end`` event or ``stop``.

    Blocks the calling thread; looks at the file ten times a second.
    """
    tail = EventTail(path, after)
    while True:
        is_last_look = stop.is_set()
        for event in tail.new():
            yield event
            if event.kind == "end":
                return
        if is_last_look:
            return
        stop.wait(_POLL_S)
