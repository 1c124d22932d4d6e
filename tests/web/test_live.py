"""Many viewers of one run, each from where it was, until the run ends or the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidemill.bench.events import Event, EventLog
from tidemill.bench.store import Run, RunState, Store
from tidemill.web.live import LiveRuns, frame


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path / 'runs.db'}")
    store.migrate()
    return store


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Run:
    events = str(tmp_path / "run.jsonl")
    return store.create_run(
        system="waterwheel", config={}, kind="run", budget=None, events_path=events
    )


async def ids_of(stream: AsyncIterator[bytes], until: int | None = None) -> list[int]:
    """Ids of the events that come, to the end of the stream or to event ``until``."""
    ids: list[int] = []
    async for chunk in stream:
        lines = chunk.decode().splitlines()
        ids += [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]
        if until is not None and ids and ids[-1] >= until:
            break
    return ids


def test_an_event_goes_out_with_its_id_kind_and_data_on_one_line() -> None:
    event = Event(7, "2026-06-23T08:00:00+00:00", "log", {"text": "a\nb 水"})
    assert frame(event).decode() == (
        'id: 7\nevent: log\ndata: {"t":"2026-06-23T08:00:00+00:00","text":"a\\nb 水"}\n\n'
    )


def test_a_finished_run_is_replayed_from_where_the_viewer_was(store: Store, run: Run) -> None:
    log = EventLog(run.events_path)
    for text in ("one", "two", "three"):
        log.append("log", {"text": text})
    log.append("end", {"state": "done", "error": ""})

    async def watch(after: int) -> list[int]:
        return await asyncio.wait_for(ids_of(LiveRuns(store).stream(run, after)), 10)

    assert asyncio.run(watch(0)) == [1, 2, 3, 4]
    assert asyncio.run(watch(2)) == [3, 4]
    assert asyncio.run(watch(4)) == []
    assert asyncio.run(watch(99)) == []


def test_two_hundred_viewers_see_every_event_of_a_growing_file(store: Store, run: Run) -> None:
    async def watch() -> list[list[int]]:
        live = LiveRuns(store)
        viewers = [asyncio.create_task(ids_of(live.stream(run, 0))) for _ in range(200)]
        log = EventLog(run.events_path)
        for number in range(50):
            log.append("progress", {"done": number, "total": 50, "unit": ""})
            await asyncio.sleep(0)
        log.append("end", {"state": "done", "error": ""})
        return await asyncio.wait_for(asyncio.gather(*viewers), 30)

    assert asyncio.run(watch()) == [list(range(1, 52))] * 200


def test_a_viewer_who_leaves_takes_nothing_from_the_others(store: Store, run: Run) -> None:
    async def watch() -> list[int]:
        live = LiveRuns(store)
        log = EventLog(run.events_path)
        staying = asyncio.create_task(ids_of(live.stream(run, 0)))
        log.append("log", {"text": "one"})
        leaving = live.stream(run, 0)
        await asyncio.wait_for(ids_of(leaving, until=1), 10)
        await leaving.aclose()  # type: ignore[attr-defined]
        log.append("end", {"state": "done", "error": ""})
        return await asyncio.wait_for(staying, 10)

    assert asyncio.run(watch()) == [1, 2]


def test_a_run_that_vanished_without_a_word_ends_its_streams(store: Store, run: Run) -> None:
    EventLog(run.events_path).append("log", {"text": "the last word"})
    store.update_run(run.id, state=RunState.LOST, ended=datetime.now(UTC), error="no process")

    async def watch() -> bytes:
        return b"".join([chunk async for chunk in LiveRuns(store).stream(run, 0)])

    told = asyncio.run(asyncio.wait_for(watch(), 10)).decode()
    assert "id: 2\nevent: end\n" in told
    assert '"state":"lost"' in told


def test_a_silent_run_is_kept_open_by_heartbeats(store: Store, run: Run) -> None:
    async def first_heartbeat() -> bytes:
        stream = LiveRuns(store, heartbeat_s=0.01).stream(run, 0)
        chunks = [await anext(stream), await anext(stream)]
        await stream.aclose()  # type: ignore[attr-defined]
        return chunks[1]

    beat = asyncio.run(asyncio.wait_for(first_heartbeat(), 10))
    assert beat.startswith(b":")
    assert beat.endswith(b"\n\n")


def test_a_file_that_cannot_be_read_ends_the_stream_so_that_viewers_try_again(
    store: Store, tmp_path: Path
) -> None:
    run = store.create_run(
        system="waterwheel", config={}, kind="run", budget=None, events_path=str(tmp_path)
    )

    async def watch() -> list[int]:
        return await asyncio.wait_for(ids_of(LiveRuns(store).stream(run, 0)), 10)

    assert asyncio.run(watch()) == []


def test_closing_ends_all_streams_and_leaves_no_task(store: Store, run: Run) -> None:
    async def watch() -> tuple[list[list[int]], int]:
        live = LiveRuns(store)
        viewers = [asyncio.create_task(ids_of(live.stream(run, 0))) for _ in range(3)]
        await asyncio.sleep(0)
        live.close()
        seen = await asyncio.wait_for(asyncio.gather(*viewers), 10)
        late = await asyncio.wait_for(ids_of(live.stream(run, 0)), 10)
        await asyncio.sleep(0)
        return [*seen, late], len(asyncio.all_tasks()) - 1

    assert asyncio.run(watch()) == ([[], [], [], []], 0)
