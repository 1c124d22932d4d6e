"""Engines in processes of their own: what is said survives the way, and engines that die."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_server import COUNTING, Told, body, counting, events, streamed, take, until, wait_for
from counting_model import CONTEXT, Words, counted, text_of
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench import family
from tidemill.errors import ConfigError, ProtocolError, ResourceError
from tidemill.models import SamplingParams
from tidemill.models.generation import FinishReason
from tidemill.models.sampling import TokenLogprobs
from tidemill.serve.async_engine import AsyncEngine, EngineState, Restarts
from tidemill.serve.engine_process import Outbox
from tidemill.serve.links import launch_process
from tidemill.serve.messages import (
    Abort,
    Add,
    Batch,
    Delta,
    EngineSpec,
    FrameReader,
    Load,
    Refusal,
    frame,
)
from tidemill.serve.scheduler import QueueFull
from tidemill.serve.server import ServedModel, ServerConfig, make_app, run_server
from tidemill.serve.types import Request, Usage

LIMITS = httpx.Limits(max_connections=None)


def engines() -> set[int]:
    """Processes of engines below this one."""
    return {
        pid
        for pid in family.descendants(os.getpid())
        if b"counting_model" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


def delta(text: str, *ids: int, reason: FinishReason | None = None) -> Delta:
    return Delta(text, ids, Usage(3, len(ids), 0), tuple(None for _ in ids), reason)


MESSAGES = (
    Add(
        Request(
            "a-0",
            (1, 2, 3),
            SamplingParams(stop=("\n", "世"), logit_bias={7: -math.inf}, seed=1 << 63),
            frozenset({1}),
            grammar="{}",
        )
    ),
    Abort("a-0"),
    Refusal.of(QueueFull("queue — full.")),
    Batch(
        {"a-0": None, "b": Refusal.of(ConfigError("x — y."))},
        {"a-0": Delta("é", (5,), Usage(1, 2, 0), (TokenLogprobs(-1.5, ((2, -math.inf),)),))},
        Load(running=3, kv_usage=0.25),
    ),
)


@given(st.lists(st.sampled_from(MESSAGES), max_size=6), st.integers(1, 400))
def test_messages_come_as_they_were_sent_whatever_the_pieces(sent: list, size: int) -> None:
    data = b"".join(frame(message) for message in sent)
    reader = FrameReader()
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert [message for piece in pieces for message in reader.feed(piece)] == sent


def test_a_refusal_is_the_same_error_on_the_other_side() -> None:
    again = Refusal.of(QueueFull("queue — full.")).as_error()
    assert (type(again), str(again)) == (QueueFull, "queue — full.")
    hidden = Refusal.of(KeyError("secret")).as_error()
    assert type(hidden) is ResourceError
    assert "secret" not in str(hidden)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x02\x00\x00\x00{}",
        b"\x02\x00\x00\x00[[",
        frame(Abort("a")).replace(b"abort", b"abor\xff"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(data))


def test_a_reader_that_is_slow_gets_all_of_it_in_fewer_messages() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = Outbox(theirs)
        for index in range(20_000):
            outbox.put(Batch(deltas={"a": delta(f"{index} ", index)}, load=Load(steps=index)))
        closing = threading.Thread(target=outbox.close)
        closing.start()
        reader, got = FrameReader(), list[Batch]()
        while not got or got[-1].load.steps < 19_999:
            got.extend(m for m in reader.feed(ours.recv(1 << 20)) if isinstance(m, Batch))
        closing.join()
    assert len(got) < 10_000
    ids = [token for batch in got for token in batch.deltas["a"].token_ids]
    assert ids == list(range(20_000))
    assert "".join(batch.deltas["a"].text for batch in got).split() == [str(i) for i in ids]


async def many(address: str, documents: list[dict[str, object]]) -> list[Told]:
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=LIMITS) as client:
        return await asyncio.gather(*(streamed(client, document) for document in documents))


def test_texts_come_through_whole_and_in_order() -> None:
    with counting() as found:
        told = asyncio.run(many(found.address, [body(i, 40 + i) for i in range(24)]))
        health = httpx.get(f"{found.address}/health").json()
    for index, one in enumerate(told):
        assert one.text == text_of(counted(index, 40 + index))
        assert (one.done, one.reasons) == (True, ["length"])
    assert health == {"status": "ok", "engines": [{"state": "ready", "restarts": 0}]}
    assert engines() == set()


def test_a_killed_engine_ends_its_requests_and_is_replaced() -> None:
    """kill -9 under load: each client gets an end, new ones are told to come back, then served."""
    with counting(step="0.01", max_num_seqs=16, restarts=Restarts(first_s=2)) as found:

        async def scene() -> tuple[list[Told], list[httpx.Response]]:
            async with httpx.AsyncClient(
                base_url=found.address, timeout=60, limits=LIMITS
            ) as client:
                long = [streamed(client, body(i, 5000)) for i in range(40)]
                whole = [
                    client.post("/v1/completions", json=body(i, 5000, stream=False))
                    for i in range(3)
                ]
                tasks = [asyncio.create_task(one) for one in (*long, *whole)]
                await until(lambda: found.load == [16])
                await asyncio.sleep(0.2)
                (pid,) = engines()
                os.kill(pid, signal.SIGKILL)
                ended = await asyncio.wait_for(asyncio.gather(*tasks), 20)
                down = [
                    await client.get("/health"),
                    await client.post("/v1/completions", json=body(1, 5)),
                ]
                return ended[: len(long)], [*ended[len(long) :], *down]  # pyright: ignore

        told, answers = asyncio.run(scene())
        assert all(not one.done and "signal 9" in (one.error or "") for one in told)
        running = [one for one in told if one.text]
        assert len(running) >= 10
        for index, one in enumerate(told):
            assert text_of(counted(index, 5000)).startswith(one.text)
        assert [answer.status_code for answer in answers] == [500, 500, 500, 503, 503]
        assert answers[3].json()["status"] == "restarting"
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers[3:])

        wait_for(lambda: httpx.get(f"{found.address}/health").status_code == 200)
        (again,) = asyncio.run(many(found.address, [body(3, 20)]))
        metrics = httpx.get(f"{found.address}/metrics").text
    assert (again.text, again.done) == (text_of(counted(3, 20)), True)
    label = '{engine="0",model_name="counting"}'
    assert f"tidemill:engine_restarts_total{label} 1.0" in metrics
    assert f"tidemill:num_requests_running{label} 0.0" in metrics


def test_told_to_stop_running_texts_are_finished_and_new_ones_refused() -> None:
    with counting(step="0.01", grace_s=20.0) as found:

        async def scene() -> Told:
            async with httpx.AsyncClient(base_url=found.address, timeout=60) as client:
                text = asyncio.create_task(streamed(client, body(5, 150)))
                await client.get("/health")  # a connection that stays
                await until(lambda: found.load == [1])
                found.stop()
                await asyncio.sleep(0.3)
                with pytest.raises(httpx.ConnectError):
                    await httpx.AsyncClient().get(found.address)
                return await text

        told = asyncio.run(scene())
    assert (told.text, told.done) == (text_of(counted(5, 150)), True)
    assert engines() == set()


def test_after_the_grace_texts_end_with_an_error() -> None:
    with counting(step="0.01", grace_s=0.5) as found:

        async def scene() -> Told:
            async with httpx.AsyncClient(base_url=found.address, timeout=60) as client:
                text = asyncio.create_task(streamed(client, body(5, 50_000)))
                await until(lambda: found.load == [1])
                found.stop()
                return await asyncio.wait_for(text, 20)

        told = asyncio.run(scene())
    assert (told.done, told.error) == (False, "the request was ended by the server")
    assert text_of(counted(5, 500)).startswith(told.text)
    assert told.text


@pytest.mark.parametrize("in_process", [True, False])
def test_a_client_that_goes_away_ends_its_request_within_a_step(in_process: bool) -> None:
    with counting(step="0.02", in_process=in_process) as found:

        async def leave() -> None:
            async with (
                httpx.AsyncClient(base_url=found.address, timeout=60) as client,
                client.stream("POST", "/v1/completions", json=body(1, 50_000)) as answer,
            ):
                told = Told()
                async for event in events(answer):
                    take(told, event)
                    if len(told.text) > 10:
                        break

        asyncio.run(leave())
        (engine,) = found.server.engines.engines
        steps = engine.load.steps
        wait_for(lambda: engine.load.running == 0, 5)
        assert engine.load.steps - steps < 100  # of 50,000
        assert engine.load.kv_usage == 0


def test_a_reader_that_stalls_has_its_request_ended() -> None:
    with counting(step="0.001", stall_s=0.3) as found, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = found.address.removeprefix("http://").split(":")
        slow.connect((host, int(port)))
        wide = b'{"model":"counting","prompt":[1000],"max_tokens":90000,"stream":true}'
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(wide)}\r\n"
        kind = "Content-Type: application/json\r\n\r\n"
        slow.sendall(f"{head}{kind}".encode() + wide)
        (engine,) = found.server.engines.engines
        wait_for(lambda: engine.load.running == 1, 10)
        (beside,) = asyncio.run(many(found.address, [body(2, 50)]))
        assert beside.text == text_of(counted(2, 50))
        wait_for(lambda: engine.load.running == 0, 30)
        assert engine.load.steps < 90_000


def run_engine(spec: EngineSpec, restarts: Restarts) -> AsyncEngine:
    async def scene() -> AsyncEngine:
        engine = AsyncEngine(launch_process(spec, COUNTING), restarts=restarts)
        await asyncio.wait_for(engine.ended(), 60)
        return engine

    return asyncio.run(scene())


def test_an_engine_that_ends_again_and_again_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> AsyncEngine:
        spec = EngineSpec("0.005d")
        engine = AsyncEngine(
            launch_process(spec, COUNTING), restarts=Restarts(most=1, first_s=0.01)
        )
        for number in range(2):
            await engine.ready.wait()
            request = Request(str(number), (1,), SamplingParams(max_tokens=100))
            deltas = [delta async for delta in await engine.submit(request)]
            assert deltas[-1].finish_reason is FinishReason.ERROR
        await asyncio.wait_for(engine.ended(), 60)
        return engine

    engine = asyncio.run(scene())
    assert engine.state is EngineState.FAILED
    assert "ended with code 7; it ended 2 times" in str(engine.failure)
    assert caplog.text.count("another one is started") == 1


def test_an_engine_that_cannot_start_says_why_once() -> None:
    engine = run_engine(EngineSpec("0s"), Restarts())
    assert "ended while it started: ended with code 3" in str(engine.failure)


def test_a_port_that_is_taken_is_named_and_no_engine_is_left() -> None:
    words: Any = Words()
    model = ServedModel("counting", words, None, CONTEXT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServerConfig(port=taken.getsockname()[1])
        app = make_app(model, [launch_process(EngineSpec("0"), COUNTING)], config)
        with pytest.raises(ResourceError, match="cannot be listened on"):
            run_server(app, config)
    assert engines() == set()


def command(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", "serve", *words], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def model_file(model_path: Callable[[str], Path]) -> str:
    return str(model_path("gemma-3-270m"))


@pytest.fixture
def served(model_file: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = ("--port", "0", "--name", "gemma", "--context", "512", "--max-num-seqs", "2")
    with command(model_file, *words) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " is served at http" in line
        yield process, line.split(" at ")[1].split("/v1")[0]
        process.kill()


def ask(address: str, most: int) -> httpx.Response:
    document = {"model": "gemma", "prompt": "1, 2, 3,", "max_tokens": most, "temperature": 0}
    return httpx.post(f"{address}/v1/completions", json=document, timeout=60)


def test_the_command_replaces_a_killed_engine_and_none_outlives_it(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = served
    first = ask(address, 8)
    (engine,) = family.descendants(process.pid)
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: httpx.get(f"{address}/health").status_code == 503)
    wait_for(lambda: httpx.get(f"{address}/health").status_code == 200)
    assert ask(address, 8).json()["choices"] == first.json()["choices"]
    (engine,) = family.descendants(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{engine}").exists(), 10)


def test_the_command_ends_in_peace_at_sigterm(served: tuple[subprocess.Popen[str], str]) -> None:
    process, address = served
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(address, 100)))
    asking.start()
    label = '{engine="0",model_name="gemma"}'
    wait_for(lambda: f"requests_running{label} 1.0" in httpx.get(f"{address}/metrics").text)
    (engine,) = family.descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    asking.join()
    process.wait(30)
    assert answers[0].json()["usage"]["completion_tokens"] == 100
    assert not Path(f"/proc/{engine}").exists()


def test_the_command_says_what_the_engine_refuses(model_file: str) -> None:
    with command(model_file, "--port", "0", "--weights", "nonsense") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "nonsense" in said
    assert "Traceback" not in said
