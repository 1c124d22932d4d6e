"""``tidemill bench-llm``: this decoder and llama.cpp side by side on the same file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tidemill.bench.atomic import check_writable, write_document
from tidemill.bench.promise import checked_parts, line, merged, stored
from tidemill.cli.language_model import (
    AsJson,
    DecoderOptions,
    Kv,
    Model,
    Opened,
    Threads,
    Weights,
    opened,
    print_json,
    read_text,
    told,
)

if TYPE_CHECKING:
    from tidemill.bench.claim import Json
    from tidemill.models.llama_peer import LlamaModel

_SENTENCE = (
    "The tide mill turns twice a day, whatever the wind, and grinds what the village brings. "
)
_PARTS = "decode, streams, prefill, overhead, agreement, perplexity, memory"


def bench_llm(  # noqa: PLR0913 - one parameter per option
    model: Model,
    *,
    part: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure this only; may be repeated. Of {_PARTS}."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="A UTF-8 file to read; the perplexity needs 8,192 tokens.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Decoded in each run.")] = 32,
    repeats: Annotated[int, typer.Option(min=5, help="Runs of each side, in turn.")] = 7,
    threads: Threads = None,
    weights: Weights = None,
    kv: Kv = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Add the figures to this JSON file, in place of older ones."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold this decoder to what is promised of it against llama.cpp, on the same file.

    Speeds: the sides take turns and do exactly the same, each prompt read outside the timed part
    of decoding, llama.cpp at the fastest of its settings. Then texts, logits, perplexity, memory.
    """
    from tidemill.models.llama_peer import LlamaModel as Peer
    from tidemill.models.llm_bench import Bench, Sizes, measured, parts

    check_writable(save)
    document = stored(save, "bench-llm")
    wanted = checked_parts(part or _measurable(parts(), text), parts())
    sizes = Sizes(repeats=repeats, tokens=tokens)
    options = DecoderOptions(threads, 1024, weights, kv)
    with (
        opened(model, options, quiet=as_json) as ready,
        Peer(ready.file.path) as peer,
        told(f"bench-llm {model}", quiet=as_json) as progress,
    ):
        source = read_text(text) if text is not None else _SENTENCE * 60
        bench = Bench(
            ready.file,
            ready.decoder,
            peer,
            ready.tokenizer.encode(source, add_special=False),
            sizes,
            progress,
        )
        name = " ".join([ready.file.name, *_plugs(weights, kv)])
        about = _about(ready, peer)
        for each in wanted:  # saved one by one: a later one that fails takes none away
            found = measured(bench, each, command=shlex.join(["tidemill", *sys.argv[1:]]))
            document = merged(document, name, about, found)
            if save is not None:
                write_document(save, document)
            for figure in found.values() if not as_json else ():
                typer.echo(line(cast("dict[str, Any]", figure)))
    if as_json:
        print_json(document)


def _measurable(known: Sequence[str], text: str | None) -> list[str]:
    return [part for part in known if text is not None or part != "perplexity"]


def _about(ready: Opened, peer: LlamaModel) -> dict[str, Json]:
    return {
        "threads": ready.decoder.threads,
        "peer": f"llama-cpp-python {peer.version}",
        "peer_system": peer.system_info,
    }


def _plugs(weights: str | None, kv: str | None) -> list[str]:
    return [f"--{name} {text}" for name, text in (("weights", weights), ("kv", kv)) if text]
