"""Several engines for one model: a request goes where least must be computed before its answer.

That is what an engine has not computed yet of prompts, and of this prompt what the engine has not
seen; the first words of a conversation are seen where the rest of it was. Which prompts an engine
has seen is known only from what was sent there, so it is a guess, and a wrong one costs time only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice

from tidemill.errors import TidemillError
from tidemill.serve.async_engine import AsyncEngine, EngineDown, EngineState, TokenStream
from tidemill.serve.block_pool import chain_keys, salt_key
from tidemill.serve.engine_thread import EngineStopped
from tidemill.serve.scheduler import QueueFull
from tidemill.serve.types import Request

STREAM_TOKENS = 32
"""A text that runs slows its engine as much as so many tokens of a prompt."""


class _Seen:
    """Keys of the blocks that an engine probably has, the latest last."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._life = 0

    def known(self, keys: Sequence[bytes], engine: AsyncEngine) -> int:
        """How many of ``keys``, from the first on."""
        if self._life != engine.restarts:  # a new engine has seen nothing
            self._keys.clear()
            self._life = engine.restarts
        return next((i for i, key in enumerate(keys) if key not in self._keys), len(keys))

    def add(self, keys: Sequence[bytes], most: int) -> None:
        for key in reversed(keys):  # the beginning is forgotten last
            self._keys[key] = None
            self._keys.move_to_end(key)
        for key in list(islice(self._keys, max(0, len(self._keys) - most))):
            del self._keys[key]


class Replicas:
    """Engines that serve one model; for one event loop."""

    def __init__(self, engines: Sequence[AsyncEngine]) -> None:
        self.engines = tuple(engines)
        self._seen = [_Seen() for _ in engines]

    @property
    def state(self) -> EngineState:
        """That of the engine that stands best."""
        states = {engine.state for engine in self.engines}
        return next(state for state in _BEST_FIRST if state in states)

    @property
    def failure(self) -> TidemillError | None:
        """Why none is started any more."""
        failures = [engine.failure for engine in self.engines]
        return failures[0] if all(failures) else None

    async def ready(self) -> None:
        """Wait until requests are taken, or never will be again."""
        waits = [asyncio.ensure_future(engine.ready.wait()) for engine in self.engines]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def ended(self) -> None:
        """Wait until no engine runs, nor will."""
        await asyncio.gather(*(engine.ended() for engine in self.engines))

    async def submit(self, request: Request) -> TokenStream:
        """Give a request to the engine that will answer soonest, or to another that has room.

        Raises:
            InputError: it can never be served.
            QueueFull, EngineDown, EngineStopped: no engine takes it, as the last one said.
        """
        refusal: TidemillError = EngineStopped("engine — has stopped.")
        for index, keys, cost in self._by_cost(request):
            engine = self.engines[index]
            try:
                stream = await engine.submit(request, cost)
            except (QueueFull, EngineDown, EngineStopped) as error:
                refusal = error
                continue
            self._seen[index].add(keys, engine.cache.blocks)
            return stream
        raise refusal

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, finish those that run within ``grace_s``, abort the rest."""
        await asyncio.gather(*(engine.close(grace_s) for engine in self.engines))

    def _by_cost(self, request: Request) -> Iterator[tuple[int, Sequence[bytes], int]]:
        """Engines, the best first; with the keys of the prompt's blocks, and what is new of it."""
        if len(self.engines) == 1:
            yield 0, (), len(request.prompt_ids)
            return
        keys, size = self._keys(request)
        costs: list[tuple[int, int, int]] = []
        for index, engine in enumerate(self.engines):
            new = len(request.prompt_ids) - size * self._seen[index].known(keys, engine)
            work = engine.uncomputed + STREAM_TOKENS * engine.streams + new
            down = engine.state is not EngineState.READY
            costs.append((work + down * (1 << 40), index, new))
        for _, index, new in sorted(costs):
            yield index, keys, new

    def _keys(self, request: Request) -> tuple[Sequence[bytes], int]:
        size = max(engine.cache.block_tokens for engine in self.engines)
        if size == 0:
            return (), 0
        return [*chain_keys(salt_key(request.cache_salt), request.prompt_ids, size)], size


_BEST_FIRST = (
    EngineState.READY,
    EngineState.STARTING,
    EngineState.RESTARTING,
    EngineState.STOPPED,
    EngineState.FAILED,
)
