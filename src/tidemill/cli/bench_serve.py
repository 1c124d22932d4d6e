"""``tidemill bench-serve``: this server and ``llama_cpp.server`` side by side on the same file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from tidemill.bench.atomic import check_writable, write_document
from tidemill.bench.claim import Json
from tidemill.bench.promise import checked_parts, line, merged, stored
from tidemill.bench.trial import Budget
from tidemill.cli.language_model import AsJson, Model, Threads, opened_file, print_json, told

_PARTS = "streams, load, idle, prefix, flood, simulation, hour"


def bench_serve(
    model: Model,
    *,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure this only; may be repeated. Of {_PARTS}."),
    ] = None,
    budget: Annotated[Budget, typer.Option(help="quick: a few minutes, to see that it works.")] = (
        Budget.QUICK
    ),
    trace: Annotated[
        Path | None, typer.Option(help="Arrivals of the simulated hour; else random ones.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int, typer.Option(min=8, help="Tokens of a step of our server.")
    ] = 8,
    threads: Threads = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Add the figures to this JSON file, in place of older ones."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold the server to what is promised of it, much of it against llama_cpp.server.

    Both serve the same file over HTTP with as many threads and get the same requests in turn.
    """
    from tidemill.bench.process import usable_threads
    from tidemill.serve.serve_bench import QUICK, Bench, Sizes, parts

    check_writable(save)
    document = stored(save, "bench-serve")
    wanted = checked_parts(part or parts(), parts())
    sizes = Sizes() if budget is Budget.FULL else QUICK
    with (
        opened_file(model, quiet=as_json) as file,
        told(f"bench-serve {model}", quiet=as_json) as progress,
    ):
        bench = Bench(
            file, threads or usable_threads(), sizes, progress, max_num_batched_tokens, trace
        )
        about: dict[str, Json] = {"threads": bench.threads, "peer": f"llama-cpp-python {_peer()}"}
        for each in wanted:  # saved one by one: a later one that fails takes none away
            found = bench.measure(each, command=shlex.join(["tidemill", *sys.argv[1:]]))
            document = merged(document, file.name, about, found)
            if save is not None:
                write_document(save, document)
            for figure in found.values() if not as_json else ():
                typer.echo(line(cast("dict[str, Any]", figure)))
    if as_json:
        print_json(document)


def _peer() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "not installed"
