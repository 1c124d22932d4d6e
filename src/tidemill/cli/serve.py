"""``tidemill serve``: an OpenAI-compatible server for one model."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.chat import chat_template
from tidemill.cli.language_model import Context, Kv, Model, Threads, Weights, opened_file

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile
    from tidemill.serve.api_keys import ApiKey
    from tidemill.serve.links import Launch
    from tidemill.serve.messages import EngineSpec
    from tidemill.serve.server import ServedModel

KEY_VARIABLE = "TIDEMILL_API_KEY"


class Where(StrEnum):
    """Where an engine runs."""

    PROCESS = "process"
    IN_PROCESS = "in-process"


Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="0: any that is free.")]
Name = Annotated[str | None, typer.Option(help="What clients call the model.")]
Sequences = Annotated[int, typer.Option(min=1, help="Requests that run at once.")]
BatchedTokens = Annotated[int, typer.Option(min=1, help="Tokens of a step.")]
Queue = Annotated[
    int | None, typer.Option(min=1, help="Requests that may wait.  [default: 4 x running]")
]
Order = Annotated[str, typer.Option(help="fcfs, priority, edf or longest-prefix.")]
Depth = Annotated[int, typer.Option(min=1, help="2: a step is planned while one is computed.")]
KeyFile = Annotated[
    Path | None, typer.Option(help=f"Keys and their limits, one a line; or {KEY_VARIABLE}.")
]
Grace = Annotated[float, typer.Option(help="Seconds that texts may go on at the end.")]
EngineIn = Annotated[
    Where, typer.Option(help="A process of its own is started again when it dies.")
]
Engines = Annotated[int, typer.Option(min=1, help="Engines that share the requests.")]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Engines on a Ray cluster; `local` starts one here."),
]
Template = Annotated[
    str | None, typer.Option(metavar="FILE", help="A Jinja chat template, not the model's own.")
]


def serve(  # noqa: PLR0913 - one parameter per option
    model: Model,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    max_num_seqs: Sequences = 8,
    max_num_batched_tokens: BatchedTokens = 256,
    max_queue: Queue = None,
    order: Order = "fcfs",
    depth: Depth = 1,
    api_key_file: KeyFile = None,
    grace: Grace = 30.0,
    engine: EngineIn = Where.PROCESS,
    replicas: Engines = 1,
    ray: RayAddress = None,
    template: Template = None,
    threads: Threads = None,
    context: Context = None,
    weights: Weights = None,
    kv: Kv = None,
) -> None:
    """Serve a model to any OpenAI client: /v1/chat/completions, /v1/completions, /metrics.

    Without a key it listens on this machine only. Ctrl-C lets running texts end.
    """
    from tidemill.errors import ConfigError
    from tidemill.models.native_decoder import usable_cpus
    from tidemill.serve.messages import EngineSpec
    from tidemill.serve.server import NO_RESTARTS, Restarts, ServerConfig, make_app, run_server

    if engine is Where.IN_PROCESS and (replicas > 1 or ray is not None):
        raise ConfigError.of("engine", engine.value, "process with --replicas or --ray")
    restarts = Restarts() if engine is Where.PROCESS else NO_RESTARTS
    keys = _keys(api_key_file)
    config = ServerConfig(host, port, grace_s=grace, api_keys=keys, restarts=restarts)
    spec = EngineSpec(
        model,
        threads=threads or max(1, usable_cpus() // replicas),
        context=context,
        weights=weights,
        kv=kv,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_queue=max_queue,
        order=order,
        depth=depth,
    )
    with opened_file(model, quiet=False) as file, ExitStack() as resources:
        served = _served(file, name, template, context)
        launch = _launch(spec, engine, ray, resources)
        app = make_app(served, [launch] * replicas, config)
        run_server(app, config, partial(_tell, served.name))


def _launch(spec: EngineSpec, where: Where, ray: str | None, resources: ExitStack) -> Launch:
    from tidemill.serve.links import launch_process, launch_thread
    from tidemill.serve.model_engine import open_core

    if where is Where.IN_PROCESS:
        return launch_thread(resources.enter_context(open_core(spec)))
    return launch_process(spec) if ray is None else _on_ray(spec, ray, resources)


def _on_ray(spec: EngineSpec, address: str, resources: ExitStack) -> Launch:
    from tidemill.bench.ray_runner import connected, import_ray
    from tidemill.serve.ray_engines import launch_ray

    ray = import_ray()
    resources.enter_context(connected(ray, address))
    return launch_ray(spec, ray)


def _tell(name: str, address: str) -> None:
    with suppress(OSError):  # a full disk under the log
        typer.echo(f"tidemill: {name} is served at {address}/v1 — Ctrl-C ends it", err=True)


def _served(
    file: ModelFile, name: str | None, template: str | None, context: int | None
) -> ServedModel:
    from tidemill.errors import UnsupportedModel
    from tidemill.models.native_decoder import default_context
    from tidemill.serve.server import ServedModel

    try:
        chats = chat_template(file, template)
    except UnsupportedModel:
        chats = None
    tokens = default_context(file.config, context)
    return ServedModel(name or file.name, file.tokenizer, chats, tokens)


def _keys(file: Path | None) -> tuple[ApiKey, ...]:
    from tidemill.errors import ConfigError
    from tidemill.serve.api_keys import parse_keys

    held = os.environ.pop(KEY_VARIABLE, None)
    if file is None:
        return parse_keys(held or "")
    try:
        keys = parse_keys(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file={str(file)!r} — cannot be read: {error}.") from error
    if not keys:
        raise ConfigError(f"--api-key-file={str(file)!r} — holds no key; write one a line.")
    return keys
