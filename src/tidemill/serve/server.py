"""A server: a model, its engines and the API on a socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI

from tidemill.errors import ConfigError, ResourceError
from tidemill.models.chat_template import ChatTemplate
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.api import Served, make_api
from tidemill.serve.api_keys import ApiKey
from tidemill.serve.async_engine import NO_RESTARTS, STALL_TIMEOUT_S, AsyncEngine, Restarts
from tidemill.serve.gate import Gate
from tidemill.serve.links import Launch
from tidemill.serve.metrics import Metrics
from tidemill.serve.replicas import Replicas

__all__ = [
    "NO_RESTARTS",
    "Restarts",
    "ServedModel",
    "Server",
    "ServerConfig",
    "make_app",
    "run_server",
]
_LAST_WORDS_S = 5
"""For answers to be written after the grace."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server serves."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace_s: float = 30.0
    """How long running requests may go on when the server is told to stop."""
    stall_s: float = STALL_TIMEOUT_S
    """After so long a client that does not read has its request ended."""
    api_keys: Collection[ApiKey] = ()
    """One of them must be sent; empty: none is asked for."""
    max_body_bytes: int = 4 << 20
    restarts: Restarts = field(default_factory=Restarts)
    """Of an engine that ended although nobody told it to."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError.of("port", self.port, "from 0 (any) to 65535")
        for name in ("grace_s", "stall_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError.of(name, getattr(self, name), "seconds, at least 0")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the API must know of a model; the engines have its weights."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context: int
    """Tokens of a request, prompt and output."""


def make_app(model: ServedModel, launches: Sequence[Launch], config: ServerConfig) -> FastAPI:
    """The API over one engine of each launch, which run while the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        engines = Replicas(
            [
                AsyncEngine(
                    launch,
                    restarts=config.restarts,
                    stall_s=config.stall_s,
                    on_batch=served.metrics.engine(index),
                )
                for index, launch in enumerate(launches)
            ]
        )
        served.engines = app.state.engines = engines
        try:
            yield
        finally:
            await engines.close(config.grace_s)

    served = Served(
        model.name,
        model.tokenizer,
        model.template,
        Metrics(model.name),
        int(time.time()),
        model.context,
    )
    app = make_api(served, lifespan)
    app.add_middleware(
        Gate,
        keys=config.api_keys,
        max_body_bytes=config.max_body_bytes,
        on_limited=served.metrics.limited,
    )
    return app


class Server(uvicorn.Server):
    """Serves until it is told to stop, or no engine runs any more.

    Told to stop, it takes no more requests, lets running ones go on for the grace, and ends the
    rest with an error that their clients see.
    """

    def __init__(
        self,
        app: FastAPI,
        config: ServerConfig,
        on_ready: Callable[[str], object] = lambda address: None,
    ) -> None:
        settings = uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=int(config.grace_s) + _LAST_WORDS_S,
            h11_max_incomplete_event_size=64 << 10,
        )
        super().__init__(settings)
        self._app, self._grace_s, self._on_ready = app, config.grace_s, on_ready
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def engines(self) -> Replicas:
        """They are there when the server has started."""
        return self._app.state.engines

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, while the engines start."""
        await super().startup(sockets)
        if self.started:
            self._tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._watch())]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the requests, then the connections."""
        closing = asyncio.create_task(self.engines.close(self._grace_s))
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        await closing

    async def _tell(self) -> None:
        await self.engines.ready()
        if self.engines.failure is None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def _watch(self) -> None:
        await self.engines.ended()
        self.should_exit = True


def run_server(
    app: FastAPI,
    config: ServerConfig,
    on_ready: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve until interrupted; running requests are finished within the grace.

    Args:
        app: From ``make_app``.
        config: The same that it was made with.
        on_ready: Called with the address when requests are taken.

    Raises:
        TidemillError: no engine could be started, or they ended too often.
        ResourceError: the port is taken, or the address is not this machine's.
    """
    server = Server(app, config, on_ready)
    try:
        server.run()
    except SystemExit as error:  # uvicorn has said why
        raise ResourceError(
            f"host {config.host}, port {config.port} — cannot be listened on; choose another."
        ) from error
    finally:
        failure = server.engines.failure if server.started else None
    if failure is not None:
        raise failure
