"""Load on any OpenAI server: requests leave when the trace says, whatever became of the others."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence

import httpx

from tidemill.errors import ProtocolError
from tidemill.serve.events import EventLog, RequestLog
from tidemill.serve.traces import Arrival

TIMEOUT_S = 600.0
_COMMON = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an
they which one you were all her she there would their we him been has when who will no more if out
so up said what its about than into them can only other time new some could these two may first then
do any like my now over such our man me even most made after also well water through back years
where much your way down should because long each just those people
"""
_WORDS = tuple(_COMMON.split())
"""Each is one token of any common vocabulary, with the blank before it."""


def words(count: int, seed: int) -> str:
    """A text of ``count`` random short words, which is as many tokens to nearly all models."""
    draw = random.Random(seed)
    return " ".join(draw.choice(_WORDS) for _ in range(count))


class LoadGenerator:
    """Sends prompts of the lengths that a trace asks for, no two of them alike."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "none",
        vocab_size: int = 32_000,
        in_words: bool = False,
    ) -> None:
        """For the server at ``url``, the part before ``/v1``.

        Prompts are random token ids, below ``vocab_size``; the first 256 are left out, as control
        tokens often are among them. ``in_words``: they are texts, for servers that take no ids.
        """
        self._url, self._model, self._vocab = url.rstrip("/"), model, vocab_size
        self._headers = {"Authorization": f"Bearer {key}"}
        self._in_words = in_words
        self._prompts = 0

    async def run(
        self, arrivals: Sequence[Arrival], tell: Callable[[int], None] = lambda done: None
    ) -> EventLog:
        """Replay ``arrivals``; ``tell`` hears how many have ended.

        Raises:
            ProtocolError: nobody answers at that address.
        """
        log = EventLog()
        async with self._client() as client:
            await self._check(client)
            begin, done = time.monotonic(), 0

            async def one(index: int, arrival: Arrival, body: dict[str, object]) -> None:
                nonlocal done
                await asyncio.sleep(begin + arrival.arrival_s - time.monotonic())
                entry = log.arrived(str(index), time.monotonic() - begin, arrival.prompt_tokens)
                await _send(client, body, entry, begin)
                done += 1
                tell(done)

            bodies = [self._body(arrival) for arrival in arrivals]
            pairs = zip(arrivals, bodies, strict=True)
            await asyncio.gather(
                *(one(i, arrival, body) for i, (arrival, body) in enumerate(pairs))
            )
        return log

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    def _body(self, arrival: Arrival) -> dict[str, object]:
        return {
            "model": self._model,
            "prompt": self._prompt(arrival.prompt_tokens),
            "max_tokens": arrival.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }

    def _prompt(self, tokens: int) -> str | list[int]:
        self._prompts += 1
        if self._in_words:
            return words(tokens, self._prompts)
        draw = random.Random(self._prompts)
        return [draw.randrange(256, self._vocab) for _ in range(tokens)]

    async def _check(self, client: httpx.AsyncClient) -> None:
        try:
            answer = await client.get("/v1/models")
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise ProtocolError(
                f"{self._url} — gives no list of models ({error}); start a server there, as "
                "`tidemill serve MODEL`, or name another with --url."
            ) from error


def serve_all(side: LoadGenerator, arrivals: Sequence[Arrival]) -> EventLog:
    """Send ``arrivals`` to a server that must serve all of them.

    Raises:
        ProtocolError: it did not.
    """
    log = asyncio.run(side.run(arrivals))
    failed = next((item for item in log if not item.served), None)
    if failed is not None:
        raise ProtocolError(
            f"request {failed.id} — was not served ({failed.finish_reason}): {failed.error}"
        )
    return log


async def _send(
    client: httpx.AsyncClient, body: dict[str, object], log: RequestLog, begin: float
) -> None:
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode("utf-8", "replace")
                refused = answer.status_code in {429, 503}
                log.finish_reason, log.error = ("refused" if refused else "error"), text[:500]
            else:
                await _read(answer, log, begin)
    except httpx.HTTPError as error:
        log.finish_reason, log.error = "error", f"{type(error).__name__}: {error}"
    log.end_s = time.monotonic() - begin


async def _read(answer: httpx.Response, log: RequestLog, begin: float) -> None:
    async for line in answer.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        now, event = time.monotonic() - begin, json.loads(line[6:])
        if "error" in event:
            log.finish_reason, log.error = "error", str(event["error"])
            return
        for choice in event["choices"]:
            if choice["finish_reason"] is None or choice["text"]:
                log.token_s.append(now)
            if choice["finish_reason"] is not None:
                log.finish_reason = choice["finish_reason"]
