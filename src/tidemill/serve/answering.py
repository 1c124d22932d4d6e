"""Texts on their way to a client: whole, or as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request

from tidemill.errors import ResourceError
from tidemill.models.generation import FinishReason
from tidemill.serve.answers import DONE, Answer, error_json, sse, usage_json
from tidemill.serve.async_engine import TokenStream
from tidemill.serve.engine_thread import EngineStopped
from tidemill.serve.messages import Delta


class Unanswered(ResourceError):
    """A request was taken, and ended before it was answered."""


async def whole_texts(
    streams: Sequence[TokenStream], http: Request, spend: Callable[[int], None]
) -> list[list[Delta]]:
    """All texts, unless the client goes away.

    Raises:
        Unanswered: one of them failed.
        EngineStopped: one of them was ended by the server.
    """

    async def read(stream: TokenStream) -> list[Delta]:
        deltas: list[Delta] = []
        async for delta in stream:
            spend(len(delta.token_ids))
            deltas.append(delta)
        return deltas

    async def gone() -> None:
        while not await http.is_disconnected():
            await asyncio.sleep(0.25)

    reading = asyncio.gather(*(read(stream) for stream in streams))
    watching = asyncio.create_task(gone())
    try:
        await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise Unanswered("client — has gone.")
        texts = reading.result()
    finally:
        watching.cancel()
        reading.cancel()
        close_all(streams)
        await asyncio.gather(reading, watching, return_exceptions=True)
    for text in texts:
        if text[-1].finish_reason is FinishReason.ERROR:
            raise Unanswered(text[-1].error or "request — failed; try again.")
        if text[-1].finish_reason is FinishReason.ABORT:
            raise EngineStopped("request — was ended by the server; try again.")
    return texts


@dataclass(slots=True)
class EventStream:
    """The server-sent events of an answer's texts."""

    answer: Answer
    streams: Sequence[TokenStream]
    choices: int
    """Texts of each prompt."""
    wants_logprobs: bool
    with_usage: bool
    spend: Callable[[int], None]
    """Is told of the tokens that come."""

    async def encoded(self) -> AsyncGenerator[bytes]:
        """The events; whoever stops reading ends the request."""
        answer, usages = self.answer, [stream.usage for stream in self.streams]
        try:
            if answer.chat:
                for index in range(len(self.streams)):
                    yield sse(answer.opening(index))
            async with aclosing(_merged(self.streams)) as deltas:
                async for index, delta in deltas:
                    usages[index] = delta.usage
                    self.spend(len(delta.token_ids))
                    if delta.finish_reason in {FinishReason.ERROR, FinishReason.ABORT}:
                        why = delta.error or "the request was ended by the server"
                        yield sse(error_json(why, "server_error"))
                        return
                    yield sse(answer.chunk(index, delta, self.wants_logprobs))
            if self.with_usage:
                yield sse(answer.usage_chunk(usage_json(usages, self.choices)))
            yield DONE
        finally:
            close_all(self.streams)


async def _merged(streams: Sequence[TokenStream]) -> AsyncGenerator[tuple[int, Delta]]:
    """What comes of several texts, as it comes."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    waiting = {asyncio.ensure_future(anext(stream)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                index, delta = waiting.pop(task), task.result()
                yield index, delta
                if delta.finish_reason is None:
                    waiting[asyncio.ensure_future(anext(streams[index]))] = index
    finally:
        for task in waiting:
            task.cancel()


def close_all(streams: Sequence[TokenStream]) -> None:
    """End the requests that have not ended."""
    for stream in streams:
        stream.close()
