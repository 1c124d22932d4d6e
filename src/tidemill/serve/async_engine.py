"""The engine for asyncio: texts as asynchronous iterators that never hold up a step.

An engine that ends although nobody told it to is started again, later each time; what it was doing
ends with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import StrEnum

from tidemill.errors import ResourceError, TidemillError
from tidemill.models.generation import FinishReason
from tidemill.serve.engine_thread import EngineStopped
from tidemill.serve.links import Launch, Link
from tidemill.serve.messages import Abort, Add, Batch, Delta, Load, Ready
from tidemill.serve.scheduler import QueueFull
from tidemill.serve.types import Request, Usage

STALL_TIMEOUT_S = 60.0
_log = logging.getLogger("tidemill.serve")


class EngineState(StrEnum):
    """Whether an engine takes requests."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


class EngineDown(ResourceError):
    """The engine is not there, but is expected to be."""

    retry_after_s: int = 1

    @classmethod
    def until(cls, state: EngineState, seconds: float) -> EngineDown:
        """Expected in ``seconds``."""
        error = cls(f"engine — is {state}; try again in a moment.")
        error.retry_after_s = max(1, math.ceil(seconds))
        return error


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often and how fast an engine is started again."""

    most: int = 5
    """Ends within ``within_s`` after which it is given up."""
    within_s: float = 300.0
    first_s: float = 0.1
    """Pause before the first; it doubles with each."""
    longest_s: float = 10.0


NO_RESTARTS = Restarts(most=0)


class TokenStream(AsyncIterator[Delta]):
    """One text on its way. Deltas that are not read in time are merged; the engine never waits.

    Close it when nobody reads any more: that ends the request within a step.
    """

    def __init__(self, engine: AsyncEngine, request: Request, cost: int) -> None:
        self.request = request
        self.cost = cost
        """Prompt tokens that must be computed before its first token."""
        self._engine = engine
        self._unread: Delta | None = None
        self._since = 0.0
        """When the oldest of what is not read came."""
        self.usage = Usage(len(request.prompt_ids), 0, 0)
        """Of what has come."""
        self._ready = asyncio.Event()
        self._ended = False

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        await self._ready.wait()
        self._ready.clear()
        delta, self._unread = self._unread, None
        assert delta is not None, "woken for nothing"
        self._ended = delta.finish_reason is not None
        return delta

    def close(self) -> None:
        """End the request if it has not ended."""
        if not self._ended:
            self._ended = True
            self._engine.abort(self.request.id)

    def arrive(self, delta: Delta, now: float) -> None:
        """Take in what is new."""
        self.cost, self.usage = 0, delta.usage
        stalled = self._unread is not None and now - self._since > self._engine.stall_s
        if self._unread is None:
            self._unread, self._since = delta, now
        else:
            self._unread = self._unread.then(delta)
        self._ready.set()
        if stalled and delta.finish_reason is None:
            self._engine.abort(self.request.id)

    def fail(self, why: str, now: float) -> None:
        """The engine will say no more of it."""
        self.arrive(Delta("", (), self.usage, (), FinishReason.ERROR, why), now)


class AsyncEngine:
    """Requests from one event loop to one engine, which is started again when it dies.

    Args:
        launch: Starts an engine.
        restarts: How often.
        stall_s: After so long a text that is not read is ended.
        on_batch: Is told of every batch, with the time; for metrics.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        restarts: Restarts | None = None,
        stall_s: float = STALL_TIMEOUT_S,
        on_batch: Callable[[Batch, float], None] = lambda batch, now: None,
    ) -> None:
        self.stall_s = stall_s
        self.state = EngineState.STARTING
        self.restarts = 0
        self.load = Load()
        self.failure: TidemillError | None = None
        """Why it is not started any more."""
        self.ready = asyncio.Event()
        """Set while requests are taken, and when they never will be again."""
        self._launch, self._limits, self._on_batch = launch, restarts or Restarts(), on_batch
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._streams: dict[str, TokenStream] = {}
        self._accepting: dict[str, asyncio.Future[None]] = {}
        self._deaths: deque[float] = deque()
        self._start_s = 1.0
        self._closing = asyncio.Event()
        self._life = asyncio.create_task(self._live())

    @property
    def streams(self) -> int:
        """Texts on their way."""
        return len(self._streams)

    @property
    def uncomputed(self) -> int:
        """Prompt tokens to compute for those of them that have not begun."""
        return sum(stream.cost for stream in self._streams.values())

    @property
    def cache(self) -> Ready:
        """The engine's KV cache, as it said last."""
        return self._link.ready if self._link else Ready(0, 0)

    async def submit(self, request: Request, cost: int | None = None) -> TokenStream:
        """Give a request to the engine; its text begins at once, or when others are done.

        Args:
            request: Has an id of its own.
            cost: Prompt tokens that are probably not in the engine's cache; None: all.

        Raises:
            InputError: it can never be served.
            QueueFull: too many wait already.
            EngineDown: the engine is not there; try again.
            EngineStopped: it takes no requests any more.
        """
        link = self._linked()
        stream = TokenStream(self, request, len(request.prompt_ids) if cost is None else cost)
        accepted: asyncio.Future[None] = self._loop.create_future()
        link.send(Add(request))
        self._streams[request.id], self._accepting[request.id] = stream, accepted
        try:
            await accepted
        except asyncio.CancelledError:
            self.abort(request.id)
            raise
        return stream

    def abort(self, request_id: str) -> None:
        """End a request, unless it, or the engine, has ended."""
        if request_id in self._streams and self._link is not None:
            with contextlib.suppress(QueueFull):
                self._link.send(Abort(request_id))

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, finish those that run within ``grace_s``, abort the rest."""
        if self.state is not EngineState.FAILED:
            self.state = EngineState.STOPPED
        first = not self._closing.is_set()
        self._closing.set()
        if self._link is None:
            self._life.cancel()  # it is starting, or waits to
        elif first:
            await self._link.close(grace_s)
        await self.ended()
        self.ready.set()

    async def ended(self) -> None:
        """Wait until it does not run, nor will."""
        await asyncio.wait({self._life})

    def _linked(self) -> Link:
        if self._link is None or self._closing.is_set():
            raise self._absence()
        return self._link

    def _absence(self) -> ResourceError:
        """Why no request is taken."""
        if self.state in (EngineState.STOPPED, EngineState.FAILED):
            return EngineStopped(f"engine — has {self.state}; send the request to another server.")
        return EngineDown.until(self.state, self._pause_s() + self._start_s)

    async def _live(self) -> None:
        try:
            await self._lives()
        except Exception as error:
            _log.exception("an engine could not be looked after")
            self._give_up(ResourceError(f"engine — {type(error).__name__}; the log says more."))
        self.ready.set()

    async def _lives(self) -> None:
        while not self._closing.is_set():
            how = await self._one_life()
            if self._closing.is_set() or self.failure is not None:
                break
            self._deaths.append(self._loop.time())
            self._log_death(how)
            if self.failure is not None:
                break
            self.restarts += 1
            await asyncio.sleep(self._pause_s())

    async def _one_life(self) -> str:
        """Start an engine and see it end; how it did."""
        began = self._loop.time()
        try:
            link = await self._launch(self._receive)
        except TidemillError as error:
            if self.restarts == 0 and not self._deaths:
                self._give_up(error)
            return str(error)
        self._start_s = self._loop.time() - began
        self._link = link
        self.state = EngineState.READY
        self.ready.set()
        how = await link.ended()
        self._link = None
        if not self._closing.is_set():
            self.state = EngineState.RESTARTING
            self.ready.clear()
        self._fail_all(f"engine — {how} while it served this request.")
        return how

    def _log_death(self, how: str) -> None:
        now, limits = self._loop.time(), self._limits
        while self._deaths and self._deaths[0] < now - limits.within_s:
            self._deaths.popleft()
        if len(self._deaths) > limits.most:
            times = f"{len(self._deaths)} times within {limits.within_s:g} s; its log may say why"
            self._give_up(ResourceError(f"engine — {how}; it ended {times}."))
        else:
            _log.error("the engine %s; another one is started", how)

    def _give_up(self, error: TidemillError) -> None:
        self.failure, self.state = error, EngineState.FAILED

    def _pause_s(self) -> float:
        if not self._deaths:
            return 0.0
        limits = self._limits
        return min(limits.first_s * 2 ** (len(self._deaths) - 1), limits.longest_s)

    def _receive(self, batch: Batch) -> None:
        now = self._loop.time()
        self.load = batch.load
        for name, refusal in batch.answers.items():
            accepted = self._accepting.pop(name, None)
            if refusal is not None:
                self._streams.pop(name, None)
            if accepted is not None and not accepted.done():
                if refusal is None:
                    accepted.set_result(None)
                else:
                    accepted.set_exception(refusal.as_error())
        for name, delta in batch.deltas.items():
            ended = delta.finish_reason is not None
            stream = self._streams.pop(name, None) if ended else self._streams.get(name)
            if stream is not None:
                stream.arrive(delta, now)
        self._on_batch(batch, now)

    def _fail_all(self, why: str) -> None:
        now = self._loop.time()
        for accepted in self._accepting.values():
            if not accepted.done():
                accepted.set_exception(self._absence())
        ended = {
            name: Delta("", (), Usage(0, 0, 0), (), FinishReason.ERROR, why)
            for name in self._streams
            if name not in self._accepting
        }
        for stream in self._streams.values():
            stream.fail(why, now)
        self._accepting.clear()
        self._streams.clear()
        self.load = Load()
        self._on_batch(Batch(deltas=ended), now)
