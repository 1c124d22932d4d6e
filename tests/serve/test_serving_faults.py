"""What clients and machines do to a server: it answers all of them, and loses no token."""

from __future__ import annotations

import ast
import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from api_server import NAME, Told, body, counting, streamed
from counting_model import counted, text_of

import tidemill.serve

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with counting(step="0", in_process=True, context=256) as found:
        yield found.address


def document(**fields: object) -> bytes:
    return json.dumps({"model": NAME, "prompt": "1", "max_tokens": 2, **fields}).encode()


def chat(**fields: object) -> bytes:
    message = {"role": "user", "content": "1 2"}
    return json.dumps({"model": NAME, "messages": [message], "max_tokens": 2, **fields}).encode()


LONE = "\ud800"
DEEP = b"[" * 100_000 + b"]" * 100_000
BODIES = {
    "half a document": document()[:-5],
    "no UTF-8": document().replace(b'"1"', b'"\xff\xfe"'),
    "UTF-16": document().decode().encode("utf-16"),
    "deep": document().replace(b'"1"', DEEP),
    "deep schema": chat(tools=[{"type": "function"}]).replace(b'"function"', DEEP),
    "an integer of 10,000 digits": document(seed=1).replace(b": 1,", b": " + b"9" * 10_000 + b","),
    "half a character": document(prompt=LONE),
    "half a character in a chat": chat(messages=[{"role": "user", "content": LONE}]),
    "half a character as who speaks": chat(messages=[{"role": LONE, "content": "1"}]),
    "half a character in parts": chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": LONE}]}]
    ),
    "half a character in a stop": document(stop=LONE),
    "half a character as model": document(model=LONE),
    "half a character as salt": document(cache_salt=LONE),
    "half a character in a tool": chat(tools=[{"type": "function", "function": {"name": LONE}}]),
    "half a character in a variable": chat(chat_template_kwargs={"a": LONE}),
    "no texts": document(prompt=[]),
    "no ids": document(prompt=[[]]),
    "NaN": document(temperature=float("nan")),
    "Infinity": document(top_p=float("inf")),
    "1e999": document(temperature=1).replace(b": 1,", b": 1e999,"),
    "NaN as bias": document(logit_bias={"3": float("nan")}),
    "a penalty that overflows every logit": document(repetition_penalty=5e-324),
    "minus nothing": document(temperature=-0.0000001),
    "a text as number": document(max_tokens="many"),
    "a list as body": b"[1]",
    "a list as message": chat(messages=[["user", "1"]]),
    "no messages": chat(messages=[]),
    "more than fits": document(prompt=[1] * 300),
    "two types": document(response_format={"type": "json_schema", "json_schema": 3}),
    "another model": document(model="gpt"),
    "a tool that is none": chat(tools=[{"type": "function"}], tool_choice="required"),
    "too many texts": document(n=10_000),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_is_the_clients_fault(address: str, name: str) -> None:
    for path in ("completions", "chat/completions"):
        answer = httpx.post(f"{address}/v1/{path}", content=BODIES[name], timeout=60)
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("says_so", [True, False])
def test_a_body_without_end_is_not_read_to_its_end(address: str, says_so: bool) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield b" " * (1 << 16)

    headers = {"content-length": str(1 << 30)} if says_so else {}
    try:
        answer = httpx.post(
            f"{address}/v1/completions", content=endless(), headers=headers, timeout=60
        )
    except httpx.TransportError:  # it hung up while we were sending
        pass
    else:
        assert answer.status_code == 413
    assert sent < 64 << 20
    assert httpx.get(f"{address}/health").status_code == 200


def test_clients_that_leave_in_the_middle_leave_nothing() -> None:
    whole = (
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    sent = json.dumps(body(1, 200)).encode()
    request = whole % len(sent) + sent
    with counting(step="0.002", in_process=True, max_queue=400) as found:
        host, port = found.address.removeprefix("http://").split(":")
        for end in range(1, len(request) + 1, 3):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(request[:end])
        (told,) = asyncio.run(flood(found.address, [body(7, 20)]))
        (engine,) = found.server.engines.engines
    assert told.text == text_of(counted(7, 20))
    assert (engine.streams, engine.load.running, engine.load.waiting) == (0, 0, 0)


async def flood(address: str, documents: list[dict[str, object]]) -> list[Told]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        return await asyncio.gather(*(streamed(client, document) for document in documents))


def test_a_flood_loses_no_token_and_grows_no_memory() -> None:
    """A fifth of what the server is made for: 200 texts at once, and 1,000 that wait."""
    documents = [body(index % 900, 10 + index % 7) for index in range(240)]
    process = psutil.Process()
    limits = {"max_num_seqs": 40, "max_num_batched_tokens": 64, "max_queue": 200}
    with counting(step="0.001", **limits) as found:
        asyncio.run(flood(found.address, documents[:20]))
        (child,) = (each for each in process.children() if "counting_model" in str(each.cmdline()))
        before = child.memory_info().rss
        told = asyncio.run(flood(found.address, documents))
        after = child.memory_info().rss
        (engine,) = found.server.engines.engines
        assert engine.streams == 0
    for one, asked in zip(told, documents, strict=True):
        prompt, length = asked["prompt"], asked["max_tokens"]
        assert one.text == text_of(counted(prompt[0], length))  # pyright: ignore
        assert (one.status, one.done) == (200, True)
    assert after - before < 30 << 20


def test_more_than_may_wait_are_told_to_come_back_and_the_others_served() -> None:
    documents = [body(index, 30) for index in range(120)]
    with counting(step="0.005", max_num_seqs=4, max_queue=20) as found:
        told = asyncio.run(flood(found.address, documents))
    served = [(index, one) for index, one in enumerate(told) if one.status == 200]
    assert len(served) >= 24
    assert all(one.text == text_of(counted(index, 30)) for index, one in served)
    refused = [one for one in told if one.status != 200]
    assert refused
    assert all(one.status == 429 and int(one.headers["retry-after"]) >= 1 for one in refused)


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    """Standard error of the server and of its engine is full; every fifth step is logged."""
    command = [sys.executable, str(Path(__file__).with_name("api_server.py")), "0.001e"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            command, stderr=full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        told = [asyncio.run(flood(address, [body(3, 50)]))[0] for _ in range(3)]
        health = httpx.get(f"{address}/health").json()
        process.communicate()
    assert [one.error for one in told] == ["RuntimeError"] * 3
    assert health == {"status": "ok", "engines": [{"state": "ready", "restarts": 0}]}
    assert process.returncode == 0


def test_no_step_looks_at_the_date() -> None:
    """A clock that is set back or forth changes nothing: only ``created`` tells the date."""
    folder = Path(tidemill.serve.__file__).parent
    found = {
        (path.name, node.attr)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"time", "now", "today", "utcnow"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"time", "datetime", "date"}
    }
    assert found == {("answers.py", "time"), ("server.py", "time")}


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="needs pip install schemathesis")
def test_nothing_that_the_openapi_document_allows_or_forbids_is_a_server_error(
    address: str, tmp_path: Path
) -> None:
    """A few seconds of what ``make fuzz`` does for ten minutes."""
    options = "--max-examples 4 --max-time 12 --seed 5 --phases coverage,fuzzing --no-shrink"
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    result = subprocess.run(
        [SCHEMATHESIS, "run", f"{address}/openapi.json", *options.split(), "--checks", checks],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    assert "7 passed" in result.stdout
