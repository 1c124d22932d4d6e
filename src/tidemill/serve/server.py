"""A server: a model, its engine and the API on a socket."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from tidemill.errors import ConfigError
from tidemill.models.chat_template import ChatTemplate
from tidemill.models.model_file import ModelFile
from tidemill.models.native_decoder import PAGE_TOKENS, NativeDecoder
from tidemill.serve.api import Served, make_api
from tidemill.serve.async_engine import STALL_TIMEOUT_S, AsyncEngine
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.decoder_executor import DecoderExecutor
from tidemill.serve.engine import EngineCore, EngineThread
from tidemill.serve.gate import Gate
from tidemill.serve.grammar import Grammars
from tidemill.serve.metrics import Metrics
from tidemill.serve.policy import ORDERS
from tidemill.serve.scheduler import Policies, Scheduler, SchedulerConfig


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a server serves."""

    host: str = "127.0.0.1"
    port: int = 8000
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256
    max_queue: int | None = None
    order: str = "fcfs"
    grace_s: float = 30.0
    """How long running requests may go on when the server is told to stop."""
    stall_s: float = STALL_TIMEOUT_S
    """After so long a client that does not read has its request ended."""
    api_keys: Collection[str] = ()
    """One of them must be sent; empty: none is asked for."""
    max_body_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError.of("port", self.port, "from 0 (any) to 65535")
        if self.order not in ORDERS:
            raise ConfigError.of("order", self.order, f"one of {', '.join(sorted(ORDERS))}")
        for name in ("grace_s", "stall_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError.of(name, getattr(self, name), "seconds, at least 0")


def make_core(decoder: NativeDecoder, model: ModelFile, config: ServerConfig) -> EngineCore:
    """An engine over ``decoder``."""
    tokenizer = model.tokenizer
    executor = DecoderExecutor(decoder, Grammars(tokenizer) if tokenizer.eos_ids else None)
    limits = SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(config.max_num_batched_tokens, config.max_num_seqs),
        max_model_len=decoder.context,
        max_queue=config.max_queue,
        prefix_caching=executor.maps_pages,
    )
    pool = BlockPool(decoder.kv_tokens // PAGE_TOKENS, PAGE_TOKENS)
    scheduler = Scheduler(limits, pool, Policies(ORDERS[config.order]()))
    return EngineCore(scheduler, executor, tokenizer)


def make_app(
    core: EngineCore, name: str, template: ChatTemplate | None, config: ServerConfig
) -> FastAPI:
    """The API over ``core``, which gets a thread while the application runs."""
    context = core.scheduler.config.max_model_len

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        thread = EngineThread(core)
        served.engine = AsyncEngine(thread, stall_s=config.stall_s)
        try:
            yield
        finally:
            thread.close(config.grace_s)

    served = Served(name, core.tokenizer, template, Metrics(core, name), int(time.time()), context)
    app = make_api(served, lifespan)
    app.add_middleware(Gate, keys=config.api_keys, max_body_bytes=config.max_body_bytes)
    return app


def run_server(app: FastAPI, config: ServerConfig) -> None:
    """Serve until interrupted; running requests are finished within the grace."""
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        timeout_graceful_shutdown=int(config.grace_s) + 1,
        h11_max_incomplete_event_size=64 << 10,
    )
    uvicorn.Server(settings).run()
