"""A real server: streams, signals, restarts, and ports that are taken."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import httpx
import psutil
import pytest
from site_process import SiteProcess

from tidemill.bench.queue import RunQueue
from tidemill.bench.store import Run, RunState, Store
from tidemill.errors import ResourceError
from tidemill.web import create_app, serve


def press(site: SiteProcess, **fields: str) -> str:
    """Press Run on the waterwheel's page; gives the run's id."""
    with httpx.Client(base_url=site.url, timeout=60) as client:
        page = client.get("/en/s/waterwheel").text
        token = page.partition('name="csrf" value="')[2].partition('"')[0]
        answer = client.post("/en/s/waterwheel/runs", data={"csrf": token, **fields})
    assert answer.status_code == 303
    return answer.headers["location"].removeprefix("/en/r/")


def client_of(site: SiteProcess) -> httpx.AsyncClient:
    unlimited = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=site.url, timeout=60, limits=unlimited)


async def watch(
    client: httpx.AsyncClient, run_id: str, *, after: int = 0, until: int | None = None
) -> list[int]:
    """The ids of a run's events, to the end of the stream or to event ``until``."""
    ids: list[int] = []
    headers = {"Last-Event-ID": str(after)} if after else {}
    async with client.stream("GET", f"/r/{run_id}/events", headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                ids.append(int(line.removeprefix("id: ")))
                if ids[-1] == until:
                    break
    return ids


def watched(
    site: SiteProcess, run_id: str, *, after: int = 0, until: int | None = None
) -> list[int]:
    """`watch` by one viewer."""

    async def one() -> list[int]:
        async with client_of(site) as client:
            return await watch(client, run_id, after=after, until=until)

    return asyncio.run(one())


def stored(site: SiteProcess, run_id: str) -> Run:
    store = Store(site.database)
    run = store.run(run_id)
    store.close()
    assert run is not None
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_though_somebody_watches(
    site: SiteProcess, number: signal.Signals, tmp_path: Path
) -> None:
    run_id = press(site, turns="1000", gate=str(tmp_path / "never"))

    async def watch_to_the_end() -> int:
        async with client_of(site) as client:
            viewer = asyncio.create_task(watch(client, run_id))
            await watch(client, run_id, until=3)  # the stream is being served by now
            code = await asyncio.to_thread(site.stop, number)
            await viewer
        return code

    assert asyncio.run(watch_to_the_end()) == 0
    run = stored(site, run_id)
    assert run.state is RunState.RUNNING
    assert psutil.Process(run.pid).is_running()


def test_a_run_and_its_viewers_outlive_a_restart(site: SiteProcess, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run_id = press(site, turns="20", what="quick", gate=str(gate))
    seen = watched(site, run_id, until=4)
    before = stored(site, run_id)
    site.stop()
    site.start()
    gate.touch()
    seen += watched(site, run_id, after=seen[-1])
    assert seen == list(range(1, seen[-1] + 1))
    after = stored(site, run_id)
    assert (after.state, after.pid) == (RunState.DONE, before.pid)


def test_two_hundred_viewers_cost_no_threads_and_little_memory(
    site: SiteProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run_id = press(site, turns="40", gate=str(gate))
    assert site.process is not None
    server = psutil.Process(site.process.pid)

    async def watch_all() -> tuple[list[list[int]], int, int]:
        async with client_of(site) as client:
            viewers = [asyncio.create_task(watch(client, run_id)) for _ in range(200)]
            await asyncio.gather(*(watch(client, run_id, until=4) for _ in range(5)))
            threads, memory_bytes = server.num_threads(), server.memory_info().rss
            gate.touch()
            return await asyncio.gather(*viewers), threads, memory_bytes

    seen, threads, memory_bytes = asyncio.run(watch_all())
    assert len(seen) == 200
    assert all(ids == seen[0] for ids in seen)
    assert seen[0] == list(range(1, len(seen[0]) + 1))
    assert threads < 60
    assert memory_bytes < 250 * 2**20


def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    from tidemill.feed.library import Library

    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    store.migrate()
    library = Library(store)
    library.migrate()
    app = create_app(store, library, RunQueue(store, tmp_path / "runs"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} — cannot be listened on"):
            serve(app, "127.0.0.1", port)
    store.close()
