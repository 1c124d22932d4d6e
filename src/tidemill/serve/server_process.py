"""A server as a process of its own, ours or another's, for as long as a measurement needs it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx
import psutil

from tidemill.errors import MissingCapability, ProtocolError

START_S = 180.0
"""A server that does not answer after so long has failed."""
STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One that answers."""

    url: str
    pid: int
    name: str = "model"
    """What it calls its model."""

    def resident_bytes(self) -> int:
        """Memory of the process and those it started."""
        process = psutil.Process(self.pid)
        family = (process, *process.children(recursive=True))
        return sum(each.memory_info().rss for each in family)


def our_command(
    model: str, *, threads: int, context: int, max_queue: int, more: Sequence[str] = ()
) -> list[str]:
    """``tidemill serve``; the port is to follow."""
    words = [sys.executable, "-m", "tidemill", "serve", model, "--name", "model"]
    words += ["--threads", str(threads), "--context", str(context), "--max-queue", str(max_queue)]
    return [*words, *more, "--port"]


def llama_command(model: Path, *, threads: int, context: int, flash_attention: bool) -> list[str]:
    """``llama_cpp.server``; the port is to follow.

    It computes one request at a time, the others wait for its lock. ``logits_all`` is on by
    default and makes prompts several times slower; ``interrupt_requests``, too, ends a text as soon
    as another request comes. Both are off.

    Raises:
        MissingCapability: it is not installed.
    """
    if not all(map(importlib.util.find_spec, ("llama_cpp", "sse_starlette"))):
        raise MissingCapability(
            "llama.cpp's server — the package llama-cpp-python[server] is not there; run "
            "`pip install 'tidemill[peers]'`."
        )
    settings: dict[str, object] = {
        "model": model,
        "model_alias": "model",
        "n_threads": threads,
        "n_threads_batch": threads,
        "n_ctx": context,
        "flash_attn": flash_attention,
        "logits_all": False,
        "interrupt_requests": False,
        "verbose": False,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "llama_cpp.server", *words, "--port"]


@contextmanager
def running(command: Sequence[str]) -> Generator[RunningServer]:
    """Start ``command`` with a free port after it, and end it and its children afterwards.

    Raises:
        ProtocolError: it ends, or does not answer in time; its last lines are told.
    """
    port = _free_port()
    with _terminating(), tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            server = RunningServer(f"http://127.0.0.1:{port}", process.pid)
            if not _answers(server.url, process):
                log.seek(0)
                last = log.read().decode("utf-8", "replace").strip().splitlines()[-3:]
                raise ProtocolError(
                    f"{' '.join(command[1:4])} — did not start serving; it says: {' / '.join(last)}"
                )
            yield server
        finally:
            _end(process)


@contextmanager
def _terminating() -> Generator[None]:
    """SIGTERM unwinds the stack meanwhile, so that no server is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Whether it lists its models and, if it says anything about its health, takes requests."""
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            models, health = (httpx.get(f"{url}/{at}", timeout=5) for at in ("v1/models", "health"))
            if models.status_code == 200 and health.status_code != 503:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop; then its whole group, which is its own, is killed."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
