"""The API through the official client, over a real socket, with a real model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from api_server import TEMPLATE, running, wait_for
from test_engine import PROMPTS

from tidemill.models import ChatTemplate, NativeDecoder, SamplingParams, generate, open_model
from tidemill.models.model_file import ModelFile
from tidemill.serve.api_keys import ApiKey
from tidemill.serve.engine import EngineCore
from tidemill.serve.links import launch_thread
from tidemill.serve.messages import EngineSpec
from tidemill.serve.model_engine import make_core
from tidemill.serve.server import NO_RESTARTS, ServedModel, ServerConfig

NAME = "gemma-3-270m"
Model = tuple[ModelFile, NativeDecoder]


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Iterator[Model]:
    with open_model(model_path(NAME)) as file:
        yield file, NativeDecoder(file, threads=2, context=512, kv_tokens=4096)


@contextmanager
def serving(
    model: Model, max_queue: int | None = None, **settings: object
) -> Iterator[tuple[str, EngineCore]]:
    config = ServerConfig(port=0, restarts=NO_RESTARTS, **{"grace_s": 5.0, **settings})  # pyright: ignore[reportArgumentType]
    file, decoder = model
    core = make_core(decoder, file, EngineSpec(NAME, max_num_seqs=4, max_queue=max_queue))
    served = ServedModel(NAME, file.tokenizer, ChatTemplate(TEMPLATE), decoder.context)
    with running(served, [launch_thread(core)], config) as found:
        yield found.address, core


@pytest.fixture(scope="module")
def address(model: Model) -> Iterator[str]:
    with serving(model) as (address, _):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(model: Model, prompt: str, most: int = 12) -> str:
    file, decoder = model
    params = SamplingParams(temperature=0, max_tokens=most)
    ids = file.tokenizer.encode(prompt)
    return "".join(piece.text for piece in generate(decoder, file.tokenizer, ids, params))


def test_a_completion_is_what_the_decoder_writes(model: Model, client: openai.OpenAI) -> None:
    made = client.completions.create(model=NAME, prompt=PROMPTS[0], max_tokens=12, temperature=0)
    assert made.choices[0].text == expected(model, PROMPTS[0])
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.completion_tokens == 12


def test_a_stream_is_the_same_text_in_pieces(model: Model, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=NAME,
        prompt=PROMPTS[3],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == expected(model, PROMPTS[3])
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_a_chat_is_its_template_continued(model: Model, client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Count: 1, 2, 3,"}]
    made = client.chat.completions.create(
        model=NAME,
        messages=messages,  # pyright: ignore[reportArgumentType]
        max_completion_tokens=12,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].logprobs is not None
    content = made.choices[0].logprobs.content or []
    assert len(content) == 12
    for token in content:
        assert token.logprob == max(top.logprob for top in token.top_logprobs)
    spelled = b"".join(bytes(token.bytes or []) for token in content)
    assert spelled.decode("utf-8", "replace").startswith(made.choices[0].message.content or "-")


def test_a_chat_stream_says_who_speaks_and_ends(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=5,
        temperature=0,
        stream=True,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in {"length", "stop"}


def test_several_texts_differ_by_seed_and_are_the_same_again(client: openai.OpenAI) -> None:
    def texts() -> list[str]:
        made = client.completions.create(
            model=NAME, prompt="Once", max_tokens=8, n=3, seed=5, temperature=1.0
        )
        assert [choice.index for choice in made.choices] == [0, 1, 2]
        return [choice.text for choice in made.choices]

    first = texts()
    assert len(set(first)) > 1
    assert texts() == first


def test_several_streams_come_together(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=NAME, prompt="Once", max_tokens=6, n=2, temperature=0, stream=True
    )
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == texts[1] != ""


def test_a_client_that_goes_away_ends_its_request(model: Model) -> None:
    with serving(model) as (address, core):
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
            stream = client.completions.create(
                model=NAME,
                prompt="Once",
                max_tokens=490,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            next(iter(stream))
            stream.close()
        wait_for(lambda: not core.scheduler.busy)
        assert core.scheduler.pool.held == 0
        assert core.steps < 400


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [found.id for found in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_an_unknown_model_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' — is not served here") as caught:
        client.completions.create(model="gpt-9", prompt="a")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": ""}, None),
        ({"prompt": [999_999_999]}, "ids are from 0 to"),
        ({"prompt": [-1]}, "prompt — must be a text, token ids"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "n": 1000}, "n — "),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 100_000}, "exceeds the context of 512"),
        ({"prompt": "a " * 3000}, "leaves no room in a context of 512"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({}, "prompt"),
    ],
)
def test_bad_values_are_refused_by_name(
    address: str, fields: dict[str, object], says: str | None
) -> None:
    body = {"model": NAME, "max_tokens": 2, **fields}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=60)
    if says is None:  # a prompt of the beginning-of-text token alone
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "\xff"}', b"null", b'{"a": NaN}'])
def test_what_is_no_json_is_refused(address: str, body: bytes) -> None:
    answer = httpx.post(f"{address}/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused(address: str) -> None:
    answer = httpx.post(f"{address}/v1/completions", content=b"x" * (5 << 20))
    assert answer.status_code == 413


def test_tokenize_gives_the_ids(model: Model, address: str) -> None:
    answer = httpx.post(f"{address}/tokenize", json={"prompt": "Grüße 世界"}).json()
    assert answer["tokens"] == model[0].tokenizer.encode("Grüße 世界")


def test_metrics_count_what_was_served(model: Model) -> None:
    with serving(model) as (address, _):
        body = {"model": NAME, "prompt": "a b c", "max_tokens": 7, "ignore_eos": True}
        usage = httpx.post(f"{address}/v1/completions", json=body, timeout=60).json()["usage"]
        text = httpx.get(f"{address}/metrics").text
    label = f'{{engine="0",model_name="{NAME}"}}'
    assert f"tidemill:generation_tokens_total{label} 7.0" in text
    assert f"tidemill:prompt_tokens_total{label} {float(usage['prompt_tokens'])}" in text
    assert f"tidemill:inter_token_latency_seconds_count{label} 6.0" in text
    assert f"tidemill:num_requests_running{label} 0.0" in text


def test_a_flood_is_told_to_come_back(model: Model) -> None:
    with serving(model, max_queue=1) as (address, core):

        async def flood() -> list[httpx.Response]:
            body = {"model": NAME, "prompt": "a", "max_tokens": 30, "ignore_eos": True}
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
                return await asyncio.gather(
                    *(client.post("/v1/completions", json=body) for _ in range(40))
                )

        answers = asyncio.run(flood())
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429}
        assert all("retry-after" in a.headers for a in answers if a.status_code == 429)
        assert core.scheduler.pool.held == 0


def test_keys_are_asked_for(model: Model) -> None:
    with serving(model, api_keys=(ApiKey("secret"),)) as (address, _):
        assert httpx.get(f"{address}/health").status_code == 200
        assert httpx.get(f"{address}/v1/models").status_code == 401
        wrong = {"Authorization": "Bearer secreT"}
        assert httpx.get(f"{address}/v1/models", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert httpx.get(f"{address}/v1/models", headers=right).status_code == 200


def test_a_server_that_stops_lets_texts_end(model: Model) -> None:
    with serving(model) as (address, _):
        body = {"model": NAME, "prompt": "a", "max_tokens": 40, "ignore_eos": True}
        answers: list[httpx.Response] = []
        call = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{address}/v1/completions", json=body, timeout=60)
            )
        )
        call.start()
        threading.Event().wait(0.3)
    call.join()
    assert answers[0].status_code == 200
    assert json.loads(answers[0].content)["usage"]["completion_tokens"] == 40


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["city", "size"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_follows_its_schema(client: openai.OpenAI, temperature: float) -> None:
    made = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "A city?"}],
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},  # pyright: ignore[reportArgumentType]
        temperature=temperature,
        seed=1,
        logprobs=True,
    )
    found = json.loads(made.choices[0].message.content or "")
    assert made.choices[0].finish_reason == "stop"
    assert sorted(found) == ["city", "size"]
    assert isinstance(found["size"], int)


def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}
    for streamed in (False, True):
        made = client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": "How large is Rome?"}],
            tools=[tool],  # pyright: ignore[reportArgumentType]
            tool_choice={"type": "function", "function": {"name": "look_up"}},
            temperature=0,
            stream=streamed,
        )
        if isinstance(made, openai.Stream):
            chunks = [chunk.choices[0] for chunk in made]
            calls = [call for c in chunks for call in c.delta.tool_calls or []]
            reason = chunks[-1].finish_reason
        else:
            calls = made.choices[0].message.tool_calls or []
            reason = made.choices[0].finish_reason
        assert reason == "tool_calls"
        assert [call.function.name for call in calls] == ["look_up"]  # pyright: ignore
        assert json.loads(calls[0].function.arguments)["city"]  # pyright: ignore


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema", "json_schema": {"schema": {"type": "thing"}}},
        {"type": "json_schema"},
        {"type": "yaml"},
    ],
)
def test_schemas_that_cannot_be_are_refused(address: str, wanted: dict[str, object]) -> None:
    body = {"model": NAME, "prompt": "a", "response_format": wanted}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "response_format" in answer.json()["error"]["message"]
