"""An engine as a process of its own, at one end of a socket: ``… engine_process FD``.

It is told what to serve, says that it is ready, and then takes commands and tells of its steps. It
ends when it is told to, and at once when the other end is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from tidemill.bench import family
from tidemill.errors import TidemillError
from tidemill.serve.engine import EngineCore
from tidemill.serve.engine_thread import EngineThread
from tidemill.serve.messages import (
    Abort,
    Add,
    Batch,
    Close,
    EngineSpec,
    FrameReader,
    Message,
    Ready,
    Refusal,
    frame,
)

MakeCore = Callable[[EngineSpec], AbstractContextManager[EngineCore]]


class Outbox:
    """Sends batches from a thread of its own; those that wait for a slow reader become one."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._ready = threading.Condition()
        self._batch: Batch | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Have it sent; never blocks."""
        with self._ready:
            self._batch = self._batch.then(batch) if self._batch else batch
            self._ready.notify()

    def close(self) -> None:
        """Send what is left."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                while self._batch is None and not self._closed:
                    self._ready.wait()
                batch, self._batch = self._batch, None
            if batch is None:
                return
            with contextlib.suppress(OSError):  # whoever reads commands ends the process
                self._link.sendall(frame(batch))


def serve_engine(link: socket.socket, make: MakeCore) -> None:
    """Serve what the other end of ``link`` asks for, until it says that it is enough."""
    messages = _messages(link)
    spec = next(messages, None)
    if spec is None:  # nobody is there any more
        return
    assert isinstance(spec, EngineSpec), "the first message says what to serve"
    try:
        with make(spec) as core:
            pool = core.scheduler.pool
            link.sendall(frame(Ready(pool.capacity, pool.block_tokens)))
            _serve(link, messages, core)
    except TidemillError as error:
        link.sendall(frame(Refusal.of(error)))


def _serve(link: socket.socket, messages: Generator[Message], core: EngineCore) -> None:
    outbox, ended = Outbox(link), threading.Event()

    def end(error: Exception | None) -> None:
        if error:
            os._exit(1)  # its log has the error; the other end starts another one
        ended.set()

    thread = EngineThread(core, outbox.put, end)
    reader = threading.Thread(target=_obey, args=(messages, thread), daemon=True)
    reader.start()
    ended.wait()
    outbox.close()


def _obey(messages: Generator[Message], thread: EngineThread) -> None:
    for message in messages:
        if isinstance(message, Add | Abort | Close):
            thread.send(message)
    os._exit(1)  # nobody is there any more to compute for


def _messages(link: socket.socket) -> Generator[Message]:
    frames = FrameReader()
    with contextlib.suppress(OSError):
        while data := link.recv(1 << 18):
            yield from frames.feed(data)


def quiet_child() -> None:
    """End with the parent and by nothing else: it is told when a terminal's Ctrl-C is meant."""
    if sys.platform == "linux":
        family.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> None:
    """Serve a model at the end of the socket that the first argument numbers."""
    from tidemill.serve.model_engine import open_core

    quiet_child()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        serve_engine(link, open_core)


if __name__ == "__main__":
    main()
