"""``tidemill chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.language_model import (
    Context,
    DecoderOptions,
    Kv,
    MaxTokens,
    Model,
    Opened,
    Seed,
    Temperature,
    Threads,
    TopP,
    Weights,
    opened,
    read_text,
)

if TYPE_CHECKING:
    from tidemill.models.chat_template import ChatTemplate
    from tidemill.models.model_file import ModelFile
    from tidemill.models.sampling import SamplingParams

_HELP = "/clear begins anew, /exit or Ctrl-D leaves, Ctrl-C stops an answer."


def chat(  # noqa: PLR0913 - one parameter per option
    model: Model,
    *,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A Jinja chat template, in place of the model's own."),
    ] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = None,
    threads: Threads = None,
    context: Context = None,
    weights: Weights = None,
    kv: Kv = None,
) -> None:
    """Talk with a model; questions come from the terminal, or one a line from standard input.

    Only what is new in the conversation is computed at each turn.
    """
    from tidemill.models.sampling import SamplingParams

    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    with opened(model, DecoderOptions(threads, context, weights, kv), quiet=False) as ready:
        conversation = _Conversation(ready, params, system, chat_template(ready.file, template))
        _tell(f"{ready.file.name}, {ready.decoder.threads} threads. {_HELP}")
        while (question := _question()) is not None:
            command = question.strip()
            if command in ("/exit", "/quit"):
                return
            if command == "/clear":
                conversation.clear()
            elif command.startswith("/"):
                _tell(_HELP)
            elif command:
                conversation.ask(question)


class _Conversation:
    """Messages so far, and the cache in which they were computed."""

    def __init__(
        self, ready: Opened, params: SamplingParams, system: str | None, template: ChatTemplate
    ) -> None:
        from tidemill.models.generation import PromptCache

        self._ready = ready
        self._params = params
        self._system = system
        self._template = template
        self._cache = PromptCache(ready.decoder)
        self.clear()

    def clear(self) -> None:
        self._messages = [{"role": "system", "content": self._system}] if self._system else []

    def ask(self, question: str) -> None:
        """Print the answer as it comes; what Ctrl-C leaves of it stays in the conversation.

        A question that cannot be answered, as one longer than the context, is taken back.
        """
        from tidemill.errors import InputError

        self._messages.append({"role": "user", "content": question})
        answer: list[str] = []
        try:
            self._stream(answer)
        except KeyboardInterrupt:
            _tell("(stopped)")
        except InputError as error:
            self._messages.pop()
            _tell(f"{error} /clear begins anew.")
            return
        self._messages.append({"role": "assistant", "content": "".join(answer)})

    def _stream(self, answer: list[str]) -> None:
        from tidemill.models.generation import generate

        text = self._template.render(self._messages).text
        tokenizer = self._ready.tokenizer
        ids = tokenizer.encode(text, add_special=False, parse_special=True)
        for piece in generate(self._ready.decoder, tokenizer, ids, self._params, cache=self._cache):
            answer.append(piece.text)
            typer.echo(piece.text, nl=False)
            sys.stdout.flush()
        typer.echo("")


def chat_template(file: ModelFile, source: str | None) -> ChatTemplate:
    """The model's own template, or the one in a file."""
    from tidemill.errors import UnsupportedModel

    if source is not None:
        return file.template(read_text(source))
    try:
        return file.chat_template
    except UnsupportedModel as error:
        raise UnsupportedModel(
            f"{file.name} — says nothing of conversations: it is a base model perhaps. Go on "
            f'from plain text with `tidemill generate {file.name} "…"`, or give a Jinja chat '
            "template with --template FILE."
        ) from error


def _question() -> str | None:
    """The next line, or None at the end of the input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        return input("> ")
    except EOFError:
        typer.echo("")
        return None


def _tell(text: str) -> None:
    typer.echo(text, err=True)
