"""``tidemill calibrate``: how long an engine's steps take on this machine, to simulate it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.bench.atomic import check_writable
from tidemill.cli.language_model import Kv, Model, Threads, Weights, opened_file, told


def calibrate(
    model: Model,
    save: Annotated[Path, typer.Argument(metavar="FILE.json", help="Where to write the table.")],
    *,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="As for `tidemill serve`.")] = 8,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="Likewise.")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each step is timed.")] = 5,
    threads: Threads = None,
    weights: Weights = None,
    kv: Kv = None,
) -> None:
    """Time steps of the engine here; `tidemill replay --simulate FILE.json` then simulates it."""
    from tidemill.errors import ConfigError
    from tidemill.models.native_decoder import NativeDecoder, default_context
    from tidemill.serve.calibration import Engine, measure_steps

    if save.suffix != ".json":
        raise ConfigError.of("FILE.json", str(save), "a name that ends in .json")
    check_writable(save)
    with (
        opened_file(model, quiet=False) as file,
        told(f"calibrate {model}", quiet=False) as progress,
    ):
        context = default_context(file.config, None)
        decoder = NativeDecoder(
            file,
            threads=threads,
            context=context,
            kv_tokens=max_num_seqs * context,
            weights=weights,
            kv=kv,
        )
        engine = Engine(decoder, file.tokenizer, max_num_seqs, max_num_batched_tokens)
        table = measure_steps(engine, repeats=repeats, progress=progress)
    table.save(save)
    one, many = table.tokens[0][1] + table.samples[1][1], table.tokens[-1]
    typer.echo(f"a decode {1000 * one:.1f} ms, a prompt of {many[0]} {1000 * many[1]:.0f} ms")
