"""``tidemill perplexity``: how well a model predicts a text."""

from __future__ import annotations

from dataclasses import asdict
from time import perf_counter
from typing import Annotated

import typer

from tidemill.cli.language_model import (
    AsJson,
    DecoderOptions,
    Kv,
    Model,
    Threads,
    Weights,
    opened,
    print_json,
    read_text,
    told,
)


def perplexity(
    model: Model,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A UTF-8 text; - reads it.")],
    *,
    window: Annotated[int, typer.Option(min=4, help="Tokens read at once.")] = 512,
    limit: Annotated[int | None, typer.Option(min=1, help="Use so many tokens only.")] = None,
    threads: Threads = None,
    weights: Weights = None,
    kv: Kv = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity of FILE, of the second half of each window, as llama.cpp's tool computes it."""
    from tidemill.models.perplexity import perplexity as measure

    text = read_text(file)
    options = DecoderOptions(threads, window, weights, kv)
    with opened(model, options, quiet=as_json) as ready:
        tokenizer = ready.tokenizer
        ids = tokenizer.encode(text)[:limit]
        begin = perf_counter()
        with told(f"{ready.file.name}, windows of {window}", quiet=as_json) as progress:
            found = measure(
                ready.decoder,
                ids,
                window=window,
                bos_id=tokenizer.bos_id if tokenizer.add_bos else None,
                progress=lambda done, total: progress.advance(done, total, "windows"),
            )
        elapsed_s = perf_counter() - begin
    if as_json:
        print_json({"model": model, "file": file, **asdict(found), "elapsed_s": elapsed_s})
        return
    typer.echo(
        f"perplexity {found.value:.4f} (95 %: {found.low:.4f} to {found.high:.4f}), "
        f"{found.tokens} tokens predicted in {found.windows} windows of {window}"
    )
