"""What a server of ours must keep to by itself: idle latency, prefix cache, a flood of clients."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, cast

import httpx
import numpy as np

from tidemill.bench.claim import Json, Measurement
from tidemill.bench.trial import Progress
from tidemill.errors import ProtocolError
from tidemill.serve.load_generator import TIMEOUT_S, LoadGenerator, serve_all, words
from tidemill.serve.server_process import RunningServer
from tidemill.serve.traces import Arrival

TURN_TOKENS = 2000
FLOOD_TOKENS = 8
_TEXTS = 20
"""Different ones, so that a token of another's text is seen."""


def idle(server: RunningServer, requests: int) -> list[Measurement]:
    """TTFT of a prompt of one token by the length of a step, one request after the other."""
    side = LoadGenerator(server.url, server.name, in_words=True)
    ttft: list[float] = []
    steps: list[float] = []
    for turn in range(requests + 1):
        (item,) = serve_all(side, [Arrival(0, 1, 16)])
        if turn and item.ttft_s is not None and item.itl_s:  # the first warms up
            ttft.append(item.ttft_s)
            steps.append(float(np.median(item.itl_s)))
    if not steps:
        raise ProtocolError(f"{server.url} — streamed no text of two tokens or more.")
    ratios = np.array(ttft) / np.median(steps)
    detail: dict[str, Json] = {"ttft_s": cast("Json", ttft), "step_s": cast("Json", steps)}
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return [
        Measurement(
            claim="idle-ttft", value=float(np.median(ratios)), low=float(low), high=float(high),
            repeats=len(ratios), detail=detail,
        )
    ]  # fmt: skip


def prefix(server: RunningServer) -> list[Measurement]:
    """A chat of 2,000 tokens is gone on with; what of its second turn is not in the cache."""
    text = words(TURN_TOKENS, 7)
    first = _completed(server, text, 32)
    second = _completed(server, f"{text}{first['choices'][0]['text']} {words(16, 8)}", 32)
    usage = second["usage"]
    computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    share = 100 * computed / first["usage"]["prompt_tokens"]
    detail: dict[str, Json] = {
        "first_turn": first["usage"],
        "second_turn": usage,
        "seconds": [first["seconds"], second["seconds"]],
    }
    return [
        Measurement(claim="prefix", value=share, low=share, high=share, repeats=1, detail=detail)
    ]


def _completed(server: RunningServer, prompt: str, tokens: int) -> dict[str, Any]:
    body = {
        "model": server.name,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    begin = perf_counter()
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=TIMEOUT_S)
    if answer.status_code != 200:
        raise ProtocolError(f"{server.url} — answered {answer.status_code}: {answer.text[:300]}")
    return {**answer.json(), "seconds": perf_counter() - begin}


async def _streamed(client: httpx.AsyncClient, model: str, prompt: str) -> str:
    """A text that came piece by piece; the last piece must say that it ended at its limit."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": FLOOD_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    text, reasons = "", list[str]()
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            raise ProtocolError(f"status {answer.status_code}")
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                text += choice["text"]
                if choice["finish_reason"] is not None:
                    reasons.append(choice["finish_reason"])
    if reasons != ["length"]:
        raise ProtocolError(f"ended as {reasons}")
    return text


async def _client(
    server: RunningServer, prompts: Sequence[str], ended: Callable[[str, str], None]
) -> None:
    """One client: all its requests at once, each a stream."""
    limits = httpx.Limits(max_connections=None)

    async def one(prompt: str) -> None:
        try:
            ended(prompt, await _streamed(client, server.name, prompt))
        except (httpx.HTTPError, ProtocolError) as error:
            ended(prompt, f"{type(error).__name__}: {error}")

    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S, limits=limits) as client:
        await asyncio.gather(*(one(prompt) for prompt in prompts))


def flood(
    server: RunningServer, *, clients: int, requests: int, progress: Progress
) -> list[Measurement]:
    """All requests at once; every text must be what its prompt gets when nobody else is there."""
    prompts = [words(8, 100 + index) for index in range(_TEXTS)]

    async def alone() -> dict[str, str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
            return {prompt: await _streamed(client, server.name, prompt) for prompt in prompts}

    expected = asyncio.run(alone())
    outcomes = Counter[str]()

    def ended(prompt: str, text: str) -> None:
        right = text == expected[prompt]
        outcomes["right" if right else f"wrong: {text[:80]}"] += 1
        progress.advance(outcomes.total(), requests, "texts")

    async def together() -> None:
        each = [prompts[index % _TEXTS] for index in range(requests)]
        shares = (each[index::clients] for index in range(clients))
        await asyncio.gather(*(_client(server, share, ended) for share in shares))

    before = server.resident_bytes()
    begin = perf_counter()
    asyncio.run(together())
    grown = (server.resident_bytes() - before) / 2**20
    detail: dict[str, Json] = {
        "outcomes": dict(outcomes),
        "clients": clients,
        "requests": requests,
        "seconds": perf_counter() - begin,
        "resident_bytes_before": before,
    }
    bad = float(requests - outcomes["right"])
    return [
        Measurement(claim=claim, value=value, low=value, high=value, repeats=1, detail=detail)
        for claim, value in (("flood", bad), ("flood-memory", max(grown, 0.0)))
    ]
