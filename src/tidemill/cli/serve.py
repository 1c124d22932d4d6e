"""``tidemill serve``: an OpenAI-compatible server for one model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.chat import chat_template
from tidemill.cli.language_model import Context, DecoderOptions, Kv, Model, Threads, Weights, opened

KEY_VARIABLE = "TIDEMILL_API_KEY"


def serve(  # noqa: PLR0913 - one parameter per option
    model: Model,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 8,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step.")] = 256,
    max_queue: Annotated[
        int | None, typer.Option(min=1, help="Requests that may wait.  [default: 4 x running]")
    ] = None,
    order: Annotated[str, typer.Option(help="fcfs, priority, edf or longest-prefix.")] = "fcfs",
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"Keys, one a line; or {KEY_VARIABLE}.")
    ] = None,
    grace: Annotated[float, typer.Option(help="Seconds that texts may go on at the end.")] = 30.0,
    template: Annotated[
        str | None, typer.Option(metavar="FILE", help="A Jinja chat template, not the model's own.")
    ] = None,
    threads: Threads = None,
    context: Context = None,
    weights: Weights = None,
    kv: Kv = None,
) -> None:
    """Serve a model to any OpenAI client: /v1/chat/completions, /v1/completions, /metrics.

    Without a key it listens on this machine only. Ctrl-C lets running texts end.
    """
    from tidemill.errors import UnsupportedModel
    from tidemill.serve.server import ServerConfig, make_app, make_core, run_server

    config = ServerConfig(
        host=host,
        port=port,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_queue=max_queue,
        order=order,
        grace_s=grace,
        api_keys=_keys(api_key_file),
    )
    options = DecoderOptions(threads, context, weights, kv, max_num_seqs)
    with opened(model, options, quiet=False) as ready:
        try:
            chats = chat_template(ready, template)
        except UnsupportedModel:
            chats = None
        core = make_core(ready.decoder, ready.file, config)
        app = make_app(core, name or ready.file.name, chats, config)
        run_server(app, config)


def _keys(file: Path | None) -> tuple[str, ...]:
    from tidemill.errors import ConfigError

    held = os.environ.pop(KEY_VARIABLE, None)
    if file is None:
        return (held,) if held else ()
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file={str(file)!r} — cannot be read: {error}.") from error
    if not lines:
        raise ConfigError(f"--api-key-file={str(file)!r} — holds no key; write one a line.")
    return tuple(lines)
