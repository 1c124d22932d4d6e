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


class LoadGenerator:
    """Sends token ids, so that prompts have exactly the lengths that a trace asks for."""

    def __init__(
        self, url: str, model: str, *, key: str = "none", vocab_size: int = 32_000
    ) -> None:
        """For the server at ``url``, the part before ``/v1``.

        ``vocab_size`` bounds the random ids that prompts are made of; the first 256 are left out,
        as control tokens often are among them.
        """
        self._url, self._model, self._vocab = url.rstrip("/"), model, vocab_size
        self._headers = {"Authorization": f"Bearer {key}"}
        self.log = EventLog()

    async def run(
        self, arrivals: Sequence[Arrival], tell: Callable[[int], None] = lambda done: None
    ) -> EventLog:
        """Replay ``arrivals``; ``tell`` hears how many have ended.

        Raises:
            ProtocolError: nobody answers at that address.
        """
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        async with httpx.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=TIMEOUT_S, limits=limits
        ) as client:
            await self._check(client)
            begin, done = time.monotonic(), 0

            async def one(index: int, arrival: Arrival) -> None:
                nonlocal done
                await asyncio.sleep(begin + arrival.arrival_s - time.monotonic())
                await self._send(client, index, arrival, begin)
                done += 1
                tell(done)

            await asyncio.gather(*(one(i, arrival) for i, arrival in enumerate(arrivals)))
        return self.log

    async def _check(self, client: httpx.AsyncClient) -> None:
        try:
            answer = await client.get("/v1/models")
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise ProtocolError(
                f"{self._url} — gives no list of models ({error}); start a server there, as "
                "`tidemill serve MODEL`, or name another with --url."
            ) from error

    async def _send(
        self, client: httpx.AsyncClient, index: int, arrival: Arrival, begin: float
    ) -> None:
        draw = random.Random(index)
        prompt = [draw.randrange(256, self._vocab) for _ in range(arrival.prompt_tokens)]
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": arrival.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        log = self.log.arrived(str(index), time.monotonic() - begin, arrival.prompt_tokens)
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
