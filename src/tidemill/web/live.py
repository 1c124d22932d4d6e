"""Runs as server-sent events: one follower per watched run, any number of viewers on it.

A viewer costs one coroutine and an index into the follower's list, no thread and no file handle.
A follower lives as long as it has viewers; what it tells comes from the run's event file alone,
so a restarted server continues where a viewer's ``Last-Event-ID`` says.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tidemill.bench.events import Event, EventTail
from tidemill.bench.settings import dumps
from tidemill.bench.store import Run, Store
from tidemill.errors import TidemillError

_LOG = logging.getLogger(__name__)
POLL_S = 0.1
HEARTBEAT_S = 15.0
_STATE_EVERY_S = 1.0
_PREAMBLE = b"retry: 1000\n\n"
_HEARTBEAT = b": still here\n\n"


class LiveRuns:
    """Follows event files for viewers; used from the event loop's thread only.

    Args:
        store: Asked once a second whether a run ended without saying so in its file.
        heartbeat_s: How long a stream may be silent.
    """

    def __init__(self, store: Store, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._store = store
        self._heartbeat_s = heartbeat_s
        self._followers: dict[str, _Follower] = {}
        self._is_closed = False

    def close(self) -> None:
        """End all streams, so that a server can stop; later viewers get an empty stream."""
        self._is_closed = True
        for follower in self._followers.values():
            follower.wake()

    async def stream(self, run: Run, after: int) -> AsyncIterator[bytes]:
        """Frames of the events above ``after``, then new ones until ``end`` or `close`."""
        follower = self._followers.get(run.id)
        if follower is None:
            follower = self._followers[run.id] = _Follower(run, self._store)
        follower.viewers += 1
        try:
            yield _PREAMBLE
            while not self._is_closed:
                changed = follower.changed
                frames = follower.above(after)
                if frames:
                    after = follower.ids[-1]
                    yield b"".join(frames)
                elif follower.is_done:
                    return
                elif not await _wait(changed, self._heartbeat_s):
                    yield _HEARTBEAT
        finally:
            follower.viewers -= 1
            if follower.viewers == 0:
                follower.cancel()
                self._followers.pop(run.id, None)


class _Follower:
    """Reads one event file as it grows and keeps its events as ready frames."""

    def __init__(self, run: Run, store: Store) -> None:
        self.ids: list[int] = []
        self.changed = asyncio.Event()
        self.viewers = 0
        self.is_done = False
        self._frames: list[bytes] = []
        self._run = run
        self._store = store
        self._task = asyncio.create_task(self._follow())

    def above(self, after: int) -> list[bytes]:
        return self._frames[bisect_right(self.ids, after) :]

    def wake(self) -> None:
        """Let all viewers look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def cancel(self) -> None:
        self._task.cancel()

    async def _follow(self) -> None:
        try:
            await self._read_to_the_end()
        except (OSError, TidemillError) as error:  # viewers come back in a second and try again
            _LOG.warning("run %s cannot be followed: %s", self._run.id, error)
        finally:
            self.is_done = True
            self.wake()

    async def _read_to_the_end(self) -> None:
        tail = EventTail(self._run.events_path)
        until_state_s = 0.0
        while not self.is_done:
            until_state_s -= POLL_S
            ended = await asyncio.to_thread(self._ended) if until_state_s <= 0 else None
            until_state_s = _STATE_EVERY_S if until_state_s <= 0 else until_state_s
            # After the state: a file that ended before the state was read is whole by now.
            events = await asyncio.to_thread(tail.new)
            if ended and not any(event.kind == "end" for event in events):
                last = events[-1].id if events else self.ids[-1] if self.ids else 0
                events.append(_end_of(ended, last + 1))
            self._add(events)
            if not self.is_done:
                await asyncio.sleep(POLL_S)

    def _ended(self) -> Run | None:
        run = self._store.run(self._run.id)
        return run if run is not None and run.state.is_final else None

    def _add(self, events: list[Event]) -> None:
        for event in events:
            self.ids.append(event.id)
            self._frames.append(frame(event))
            self.is_done = self.is_done or event.kind == "end"
        if events:
            self.wake()


def frame(event: Event) -> bytes:
    """One event as server-sent: its id for ``Last-Event-ID``, its kind, its data as JSON."""
    data = dumps({"t": event.t, **event.data})
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode()


def follow(request: Request, live: LiveRuns, run: Run) -> Response:
    """Answer with the events of ``run`` after ``Last-Event-ID``, else after ``?after=``."""
    asked = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    after = int(asked) if asked.isdecimal() and len(asked) < 12 else 0
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        live.stream(run, after), headers=headers, media_type="text/event-stream"
    )


def _end_of(run: Run, event_id: int) -> Event:
    moment = (run.ended or run.created).isoformat()
    return Event(event_id, moment, "end", {"state": str(run.state), "error": run.error})


async def _wait(changed: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(changed.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
