"""The engine for asyncio: texts as asynchronous iterators that never hold up a step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tidemill.serve.engine import Delta, EngineThread
from tidemill.serve.types import Request

STALL_TIMEOUT_S = 60.0


@dataclass(slots=True)
class _Buffer:
    """What has not been read yet, as one delta."""

    delta: Delta | None = None
    since: float = 0.0
    """When the oldest of it came."""

    def add(self, delta: Delta, now: float) -> None:
        if self.delta is None:
            self.delta, self.since = delta, now
            return
        before = self.delta
        self.delta = Delta(
            before.text + delta.text,
            before.token_ids + delta.token_ids,
            delta.usage,
            before.logprobs + delta.logprobs,
            delta.finish_reason,
            delta.error,
        )


class TokenStream(AsyncIterator[Delta]):
    """One text on its way. Deltas that are not read in time are merged; the engine never waits.

    Close it when nobody reads any more: that ends the request within a step.
    """

    def __init__(self, engine: AsyncEngine, request: Request) -> None:
        self.request = request
        self._engine = engine
        self._buffer = _Buffer()
        self._ready = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        await self._ready.wait()
        self._ready.clear()
        delta, self._buffer.delta = self._buffer.delta, None
        assert delta is not None, "woken for nothing"
        self._ended = delta.finish_reason is not None
        return delta

    def close(self) -> None:
        """End the request if it has not ended."""
        if not self._ended:
            self._ended = True
            self._engine.abort(self.request.id)

    def arrive(self, delta: Delta, now: float) -> None:
        """Take in what is new; in the event loop's thread."""
        stalled = self._buffer.delta is not None and now - self._buffer.since > self._engine.stall_s
        self._buffer.add(delta, now)
        self._ready.set()
        if stalled and delta.finish_reason is None:
            self._engine.abort(self.request.id)


class AsyncEngine:
    """Requests from one event loop to an engine in a thread."""

    def __init__(self, thread: EngineThread, *, stall_s: float = STALL_TIMEOUT_S) -> None:
        self.thread, self.stall_s = thread, stall_s
        self._loop = asyncio.get_running_loop()

    async def submit(self, request: Request) -> TokenStream:
        """Give a request to the engine; its text begins at once, or when others are done.

        Raises:
            InputError: it can never be served.
            QueueFull: too many wait already.
            EngineStopped: the engine is shutting down.
        """
        loop, stream = self._loop, TokenStream(self, request)
        accepted: asyncio.Future[None] = loop.create_future()

        def deliver(delta: Delta) -> None:
            loop.call_soon_threadsafe(stream.arrive, delta, loop.time())

        def add() -> None:
            try:
                self.thread.core.add(request, deliver)
            except Exception as error:
                loop.call_soon_threadsafe(_fail, accepted, error)
            else:
                loop.call_soon_threadsafe(_succeed, accepted)

        self.thread.call(add)
        try:
            await accepted
        except asyncio.CancelledError:
            self.abort(request.id)
            raise
        return stream

    def abort(self, request_id: str) -> None:
        """End a request, unless it, or the engine, has ended."""
        if not self.thread.closed:
            self.thread.call(lambda: self.thread.core.abort(request_id))


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
