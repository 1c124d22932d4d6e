"""`serve`: the site on a socket, until Ctrl-C or SIGTERM, with a clean end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tidemill.errors import ResourceError
from tidemill.web.guard import ANY_HOST, is_loopback
from tidemill.web.site import Site

_GRACE_S = 5
"""How long requests in flight may take to end at shutdown; streams are told at once."""


def serve(
    app: FastAPI,
    host: str,
    port: int,
    ready: Callable[[str], object] | None = None,
    *,
    listener: socket.socket | None = None,
) -> None:
    """Serve ``app`` until the process is told to stop; blocks.

    Args:
        app: From `create_app`.
        host: The address to listen on; refuse bad ones before with `check_bind`.
        port: The port; 0 picks a free one.
        ready: Called with the site's address once it answers.
        listener: An already listening socket to serve instead of binding ``host`` and ``port``.

    Raises:
        ResourceError: The port is taken, or the address is not this machine's.
    """
    listener = listener or _listen(host, port)
    if not is_loopback(host):
        app.state.hosts.add(ANY_HOST)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = _Server(config, app.state.site, lambda: ready and ready(_url(listener)))
    try:
        with _sigterm_as_interrupt():
            server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises a signal again once all is ended
        pass
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn that tells when it is ready, and ends live streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, site: Site, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._site = site
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._site.live.close()
        await super().shutdown(sockets)


@contextmanager
def _sigterm_as_interrupt() -> Generator[None]:
    """Let the caller's ``finally`` run after SIGTERM too; the default would end the process."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as error:
        raise ResourceError(
            f"host {host}, port {port} — cannot be listened on: {error.strerror}; "
            "stop what uses it, or choose another with --port."
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
