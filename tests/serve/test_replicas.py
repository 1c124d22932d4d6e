"""Several engines behind one server: who gets what, and what the death of one changes."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal

import httpx
import pytest
from api_server import NAME, Told, counting, running, streamed, until, wait_for
from counting_model import CONTEXT, Words, counted, text_of
from test_engine_process import engines, many

from tidemill.serve.messages import EngineSpec
from tidemill.serve.server import ServedModel, ServerConfig


def prompt(first: int, length: int) -> list[int]:
    return [first, *range(length - 1)]


def body(ids: list[int], length: int = 10, **fields: object) -> dict[str, object]:
    return {"model": NAME, "prompt": ids, "max_tokens": length, "stream": True, **fields}


def served_by(address: str) -> list[int]:
    """Requests that each engine has ended."""
    text = httpx.get(f"{address}/metrics").text
    found = re.findall(r'request_success_total{engine="(\d)".*?} ([\d.]+)', text)
    counts = dict.fromkeys(("0", "1"), 0)
    for engine, count in found:
        counts[engine] += int(float(count))
    return list(counts.values())


async def one_after_the_other(address: str, documents: list[dict[str, object]]) -> list[Told]:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        return [await streamed(client, document) for document in documents]


def test_requests_of_one_beginning_go_to_one_engine_and_others_elsewhere() -> None:
    with counting(step="0.001", replicas=2) as found:
        wait_for(lambda: all(engine.cache.blocks for engine in found.server.engines.engines))
        conversation = [body(prompt(5, 200 + 40 * turn)) for turn in range(6)]
        told = asyncio.run(one_after_the_other(found.address, conversation))
        assert all(one.text == text_of(counted(5, 10)) for one in told)
        assert sorted(served_by(found.address)) == [0, 6]
        crowd = [body(prompt(first, 100), 80) for first in range(20)]
        asyncio.run(many(found.address, crowd))
        counts = served_by(found.address)
        assert sum(counts) == 26
        assert min(counts) >= 8


def test_a_crowd_with_one_beginning_does_not_wait_at_one_engine() -> None:
    with counting(step="0.002", replicas=2) as found:
        wait_for(lambda: all(engine.cache.blocks for engine in found.server.engines.engines))
        asyncio.run(many(found.address, [body(prompt(5, 300), 60) for _ in range(40)]))
        assert min(served_by(found.address)) >= 10


def test_when_one_dies_the_others_go_on() -> None:
    with counting(step="0.005", replicas=2) as found:
        wait_for(lambda: len(engines()) == 2)
        wait_for(lambda: all(engine.cache.blocks for engine in found.server.engines.engines))

        async def scene() -> list[Told]:
            texts = asyncio.create_task(
                many(found.address, [body([first], 300) for first in range(12)])
            )
            await until(lambda: min(found.load) >= 3)
            os.kill(min(engines()), signal.SIGKILL)
            after = await many(found.address, [body([first], 20) for first in range(12)])
            assert all(one.text == text_of(counted(i, 20)) for i, one in enumerate(after))
            return await texts

        told = asyncio.run(scene())
        health = httpx.get(f"{found.address}/health")
    assert health.status_code == 200
    failed = [one for one in told if one.error]
    assert 0 < len(failed) < 12
    assert all(one.done for one in told if not one.error)


@pytest.mark.ray
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs pip install 'tidemill[ray]'"
)
def test_engines_on_ray_serve_and_are_replaced() -> None:
    from tidemill.bench.ray_runner import connected, import_ray
    from tidemill.serve.ray_engines import launch_ray

    ray = import_ray()
    with connected(ray, "local"):
        spec = EngineSpec("0.002", threads=1)
        model = ServedModel(NAME, Words(), None, CONTEXT)  # pyright: ignore[reportArgumentType]
        launch = launch_ray(spec, ray, "counting_model:counting_core")
        with running(model, [launch], ServerConfig(port=0, grace_s=5)) as found:
            told = asyncio.run(many(found.address, [body([i], 50) for i in range(8)]))
            assert all(one.text == text_of(counted(i, 50)) for i, one in enumerate(told))
            (actor,) = ray.util.list_named_actors()
            ray.kill(ray.get_actor(actor))
            wait_for(lambda: httpx.get(f"{found.address}/health").status_code == 503)
            wait_for(lambda: httpx.get(f"{found.address}/health").status_code == 200)
            (again,) = asyncio.run(many(found.address, [body([4], 9)]))
            assert again.text == text_of(counted(4, 9))
