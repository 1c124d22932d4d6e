"""Ways to an engine: in a thread of this process, or over a socket to another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from tidemill.errors import ProtocolError, ResourceError
from tidemill.serve.engine import EngineCore
from tidemill.serve.engine_thread import EngineThread
from tidemill.serve.messages import (
    Batch,
    Close,
    Command,
    EngineSpec,
    FrameReader,
    Message,
    Ready,
    Refusal,
    frame,
)
from tidemill.serve.scheduler import QueueFull

ENGINE = (sys.executable, "-P", "-m", "tidemill.serve.engine_process")
MAX_UNSENT_BYTES = 64 << 20
"""More waits for an engine only when it does not read, as one that was stopped."""
_LAST_WORD_S = 10.0

Receive: TypeAlias = Callable[[Batch], None]


class Link(Protocol):
    """An engine that runs; for one event loop."""

    ready: Ready

    def send(self, command: Command) -> None:
        """Tell the engine something; never blocks.

        Raises:
            QueueFull: the engine has not read for long.
        """
        ...

    async def ended(self) -> str:
        """How the engine ended, when it has."""
        ...

    async def close(self, grace_s: float) -> None:
        """Have running requests finished within the grace, the rest aborted, and it ended."""
        ...


class Launch(Protocol):
    """Starts engines, one after the other."""

    async def __call__(self, receive: Receive) -> Link:
        """Start one; ``receive`` gets its batches in this event loop.

        Raises:
            TidemillError: it could not start, and why.
        """
        ...


class ThreadLink:
    """An engine in a thread of this process."""

    def __init__(self, core: EngineCore, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = loop.create_future()

        def emit(batch: Batch) -> None:
            loop.call_soon_threadsafe(receive, batch)

        def end(error: Exception | None) -> None:
            loop.call_soon_threadsafe(self._end, error)

        pool = core.scheduler.pool
        self.ready = Ready(pool.capacity, pool.block_tokens)
        self.thread = EngineThread(core, emit, end)

    def send(self, command: Command) -> None:
        """As ``Link``."""
        self.thread.send(command)

    async def ended(self) -> str:
        """As ``Link``."""
        return await asyncio.shield(self._ended)

    async def close(self, grace_s: float) -> None:
        """As ``Link``."""
        self.thread.send(Close(grace_s))
        await self.ended()

    def _end(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(f"failed: {type(error).__name__}" if error else "was stopped")


def launch_thread(core: EngineCore) -> Launch:
    """An engine in this process, once: a core that failed cannot be trusted again."""
    unused = [core]

    async def launch(receive: Receive) -> Link:
        if not unused:
            raise ResourceError("engine — failed in this process; its log says why. Restart it.")
        return ThreadLink(unused.pop(), receive)

    return launch


class Peer(Protocol):
    """The process at the other end of a socket."""

    def kill(self) -> None:
        """End it at once."""
        ...

    async def wait(self) -> str:
        """How it ended."""
        ...


class SocketLink:
    """An engine in another process."""

    def __init__(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], peer: Peer
    ) -> None:
        self._reader, self._writer = streams
        self._peer = peer
        self._frames = FrameReader()
        self._received: list[Message] = []
        self._reading: asyncio.Task[str] | None = None
        self.ready = Ready(0, 0)

    async def open(self, spec: EngineSpec, receive: Receive) -> SocketLink:
        """Say what is to be served, and wait until it is.

        Raises:
            TidemillError: as the engine says, or that it ended.
        """
        self._writer.write(frame(spec))
        try:
            first = await self._next()
        except BaseException:
            self._peer.kill()
            await self._hang_up()
            raise
        if not isinstance(first, Ready):
            how = await self._hang_up()
            if isinstance(first, Refusal):
                raise first.as_error()
            raise ResourceError(f"engine — ended while it started: {how}; its log may say why.")
        self.ready = first
        self._reading = asyncio.create_task(self._read(receive))
        return self

    def send(self, command: Command) -> None:
        """As ``Link``."""
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise QueueFull("queue — the engine does not answer; try again in a moment.")
        self._writer.write(frame(command))

    async def ended(self) -> str:
        """As ``Link``."""
        assert self._reading is not None, "it was not opened"
        return await asyncio.shield(self._reading)

    async def close(self, grace_s: float) -> None:
        """As ``Link``."""
        self._writer.write(frame(Close(grace_s)))
        try:
            await asyncio.wait_for(self.ended(), grace_s + _LAST_WORD_S)
        except TimeoutError:
            self._peer.kill()
            await self.ended()

    async def _next(self) -> Message | None:
        """The next message, or None at the end."""
        while not self._received:
            try:
                data = await self._reader.read(1 << 18)
            except OSError:
                return None
            if not data:
                return None
            self._received.extend(self._frames.feed(data))
        return self._received.pop(0)

    async def _read(self, receive: Receive) -> str:
        try:
            while (message := await self._next()) is not None:
                if isinstance(message, Batch):
                    receive(message)
        except ProtocolError as error:
            await self._hang_up()
            return str(error)
        return await self._hang_up()

    async def _hang_up(self) -> str:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            return await asyncio.wait_for(self._peer.wait(), _LAST_WORD_S)
        except TimeoutError:
            self._peer.kill()
            return await self._peer.wait()


class _Child:
    """A child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> str:
        code = await asyncio.to_thread(self._process.wait)
        return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"


def launch_process(spec: EngineSpec, command: Sequence[str] = ENGINE) -> Launch:
    """Engines in child processes, which end when this process does."""

    async def launch(receive: Receive) -> Link:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=(theirs.fileno(),),
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )
            except OSError as error:
                ours.close()
                raise ResourceError(f"engine — cannot be started: {error}.") from error
        streams = await asyncio.open_connection(sock=ours)
        return await SocketLink(streams, _Child(process)).open(spec, receive)

    return launch
