"""What the commands for language models share: their options, and opening a model for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.bench.trial import Progress
from tidemill.errors import InputError

if TYPE_CHECKING:
    from tidemill.bench.process import Listener
    from tidemill.models.model_file import ModelFile
    from tidemill.models.native_decoder import NativeDecoder
    from tidemill.models.tokenizer import Tokenizer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `tidemill models list`, or a GGUF file.")
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(help="0: always the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens with this probability.")]
TopK = Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0: all.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.")]
Threads = Annotated[int | None, typer.Option(min=1, help="By default one per usable CPU.")]
Context = Annotated[int | None, typer.Option(min=1, help="Tokens of the context.")]
Weights = Annotated[str | None, typer.Option(help="A system's weight format, as grinqh:3.0.")]
Kv = Annotated[str | None, typer.Option(help="A system's KV cache, as blockgtq:k3v3.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """How a command wants its decoder."""

    threads: int | None = None
    context: int | None = None
    weights: str | None = None
    kv: str | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A model ready to run."""

    file: ModelFile
    decoder: NativeDecoder
    tokenizer: Tokenizer


@contextmanager
def opened_file(model: str, *, quiet: bool) -> Generator[ModelFile]:
    """The model's file, pulled if need be."""
    from tidemill.models.cli import pull_progress
    from tidemill.models.model_file import open_model

    with (
        pull_progress(f"pulling {model}", shown=not quiet) as report,
        open_model(model, report=report) as file,
    ):
        yield file


@contextmanager
def opened(model: str, options: DecoderOptions, *, quiet: bool) -> Generator[Opened]:
    """The model, pulled if need be, with its decoder and tokenizer."""
    from tidemill.models.native_decoder import NativeDecoder

    with opened_file(model, quiet=quiet) as file:
        tokenizer = file.tokenizer
        decoder = NativeDecoder(
            file,
            threads=options.threads,
            context=options.context,
            weights=options.weights,
            kv=options.kv,
        )
        yield Opened(file, decoder, tokenizer)


@contextmanager
def told(title: str, *, quiet: bool) -> Generator[Progress]:
    """Progress on standard error: a bar on a terminal, a line now and then elsewhere."""
    from tidemill.cli.live import live_view

    with live_view(title, quiet=quiet) as tell:
        yield _Told(tell)


class _Told(Progress):
    def __init__(self, tell: Listener) -> None:
        self._tell = tell

    def stage(self, name: str) -> None:
        self._tell("stage", {"name": name, "trial": ""})

    def advance(self, done: float, total: float, unit: str = "") -> None:
        self._tell("progress", {"done": done, "total": total, "unit": unit})

    def metric(self, name: str, value: float, unit: str = "") -> None:
        self._tell("metric", {"name": name, "value": value, "unit": unit})

    def log(self, text: str) -> None:
        self._tell("log", {"text": text})


def read_text(source: str) -> str:
    """The text of a file, or of standard input for ``-``.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    try:
        if source == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        with open(source, "rb") as file:  # noqa: PTH123 — a name such as /dev/fd/3 is welcome
            return file.read().decode("utf-8")
    except OSError as error:
        raise InputError(f"{source} — cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{source} — is no UTF-8 text, at byte {error.start}.") from error


def print_json(document: dict[str, object]) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
