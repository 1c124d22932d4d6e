"""Servers in a thread of the test, and clients that read their streams.

``python api_server.py STEP`` serves the counting model until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from counting_model import CONTEXT, Words, counting_core

from tidemill.models import ChatTemplate
from tidemill.serve.links import Launch, launch_process, launch_thread
from tidemill.serve.messages import EngineSpec
from tidemill.serve.server import ServedModel, Server, ServerConfig, make_app

COUNTING = (sys.executable, "-P", str(Path(__file__).with_name("counting_model.py")))
NAME = "counting"
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def wait_for(condition: Callable[[], bool], most_s: float = 60.0) -> None:
    event = threading.Event()
    for _ in range(int(most_s / 0.02)):
        if condition():
            return
        event.wait(0.02)
    raise AssertionError("waited in vain")


async def until(condition: Callable[[], bool], most_s: float = 60.0) -> None:
    """As ``wait_for``, while the clients of the test go on."""
    for _ in range(int(most_s / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited in vain")


class Running:
    """A server that runs."""

    server: Server
    address = ""

    def ready(self, address: str) -> None:
        self.address = address

    def stop(self) -> None:
        self.server.should_exit = True

    @property
    def load(self) -> list[int]:
        """Requests that run in each engine."""
        return [engine.load.running for engine in self.server.engines.engines]


@contextmanager
def running(
    model: ServedModel, launches: Sequence[Launch], config: ServerConfig
) -> Iterator[Running]:
    """A server in a thread, which has ended when the block has."""
    found = Running()
    found.server = server = Server(make_app(model, launches, config), config, found.ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: bool(found.address) or not thread.is_alive())
        yield found
    finally:
        found.stop()
        thread.join()


@contextmanager
def counting(
    *, step: str = "0.002", replicas: int = 1, in_process: bool = False, **settings: Any
) -> Iterator[Running]:
    """A server of the counting model."""
    limits = {
        name: settings.pop(name, default)
        for name, default in (("max_num_seqs", 8), ("max_num_batched_tokens", 256))
    }
    context = settings.pop("context", CONTEXT)
    most = settings.pop("max_queue", None)
    spec = EngineSpec(step, context=context, max_queue=most, **limits)
    config = ServerConfig(port=0, **{"grace_s": 5.0, **settings})
    words: Any = Words()
    model = ServedModel(NAME, words, ChatTemplate(TEMPLATE), context)
    if in_process:
        with counting_core(spec) as core, running(model, [launch_thread(core)], config) as found:
            yield found
        return
    with running(model, [launch_process(spec, COUNTING)] * replicas, config) as found:
        yield found


@dataclass
class Told:
    """What a streaming client was told."""

    status: int = 0
    text: str = ""
    error: str | None = None
    done: bool = False
    reasons: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


def body(first: int, length: int, **fields: object) -> dict[str, object]:
    return {"model": NAME, "prompt": [first], "max_tokens": length, "stream": True, **fields}


async def streamed(client: httpx.AsyncClient, document: dict[str, object]) -> Told:
    """Read a stream of completions to its end."""
    told = Told()
    async with client.stream("POST", "/v1/completions", json=document) as answer:
        told.status, told.headers = answer.status_code, dict(answer.headers)
        if answer.status_code != 200:
            await answer.aread()
            return told
        async for event in events(answer):
            take(told, event)
    return told


async def events(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line:
            assert line.startswith("data: ")
            yield line.removeprefix("data: ")


def take(told: Told, event: str) -> None:
    if event == "[DONE]":
        told.done = True
        return
    found = json.loads(event)
    if "error" in found:
        told.error = found["error"]["message"]
        return
    for choice in found["choices"]:
        told.text += choice["text"]
        if choice["finish_reason"] is not None:
            told.reasons.append(choice["finish_reason"])


if __name__ == "__main__":
    with counting(step=sys.argv[1]) as served:
        sys.stdout.write(f"{served.address}\n")
        sys.stdout.flush()
        sys.stdin.read()
