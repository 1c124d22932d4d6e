"""``tidemill bench-llm``: this decoder and llama.cpp side by side on the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.bench.compare import Comparison, Side, compare
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
)

if TYPE_CHECKING:
    from tidemill.models.llama_peer import LlamaPeer

_PROMPT = "The tide mill turns twice a day, whatever the wind, and grinds what the village brings. "
_OURS, _PEER = "tidemill", "llama.cpp"


def bench_llm(  # noqa: PLR0913 - one parameter per option
    model: Model,
    *,
    tokens: Annotated[int, typer.Option(min=1, help="Decoded in each run.")] = 32,
    streams: Annotated[int, typer.Option(min=1, max=64, help="Texts side by side.")] = 8,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prefilled prompt.")] = 512,
    repeats: Annotated[int, typer.Option(min=5, help="Runs of each side, in turn.")] = 5,
    threads: Threads = None,
    weights: Weights = None,
    kv: Kv = None,
    as_json: AsJson = False,
) -> None:
    """Compare decoding of one text, of several at once, and the reading of a prompt.

    The sides take turns, so that both meet the same machine; ratios count, not rates.
    """
    from tidemill.models.llama_peer import LlamaPeer

    context = prompt + tokens + 16
    options = DecoderOptions(threads, context, weights, kv)
    with (
        opened(model, options, quiet=as_json) as ready,
        LlamaPeer(
            ready.file.path,
            threads=ready.decoder.threads,
            context=context,
            sequences=streams,
        ) as peer,
    ):
        bench = _Bench(ready, peer, _prompt_ids(ready, prompt), tokens)
        found = {
            "decode": compare(*bench.decode(1), repeats=repeats),
            f"decode of {streams}": compare(*bench.decode(streams), repeats=repeats),
            f"prefill of {prompt}": compare(*bench.prefill(), repeats=repeats),
        }
    if as_json:
        document = {name: each.to_json() for name, each in found.items()}
        print_json({"model": model, "threads": ready.decoder.threads, "comparisons": document})
        return
    for name, each in found.items():
        typer.echo(_line(name, each))


@dataclass(frozen=True, slots=True)
class _Bench:
    ready: Opened
    peer: LlamaPeer
    ids: list[int]
    tokens: int

    def decode(self, streams: int) -> tuple[Side, Side]:
        """Both sides write ``tokens`` to each of ``streams`` texts, after a short prompt."""
        start = self.ids[:16]
        work = float(self.tokens * streams)
        return self._sides(
            lambda: self._decode_ours(start, streams),
            lambda: self._decode_peer(start, streams),
            work,
        )

    def prefill(self) -> tuple[Side, Side]:
        """Both sides read the whole prompt."""

        def ours() -> None:
            decoder = self.ready.decoder
            decoder.prefill(decoder.sequence(), self.ids)

        return self._sides(ours, lambda: self.peer.prefill(self.ids), float(len(self.ids)))

    def _sides(
        self, ours: Callable[[], object], peer: Callable[[], object], work: float
    ) -> tuple[Side, Side]:
        return (
            Side(_OURS, ours, work, "tokens/s"),
            Side(_PEER, peer, work, "tokens/s", prepare=self.peer.clear),
        )

    def _decode_ours(self, start: list[int], streams: int) -> None:
        from tidemill.models.native_decoder import Part

        decoder = self.ready.decoder
        sequences = [decoder.sequence() for _ in range(streams)]
        nexts = [int(decoder.prefill(sequence, start).argmax()) for sequence in sequences]
        for _ in range(self.tokens):
            parts = [
                Part(sequence, (token,)) for sequence, token in zip(sequences, nexts, strict=True)
            ]
            nexts = decoder.step_greedy(parts)

    def _decode_peer(self, start: list[int], streams: int) -> None:
        nexts = [int(self.peer.prefill(start, stream).argmax()) for stream in range(streams)]
        for _ in range(self.tokens):
            nexts = self.peer.step(nexts)


def _prompt_ids(ready: Opened, count: int) -> list[int]:
    ids = ready.tokenizer.encode(_PROMPT)
    return (ids * (count // len(ids) + 1))[:count]


def _line(name: str, found: Comparison) -> str:
    ratio = found.ratio(_PEER)
    return (
        f"{name:>16}: {found.rate(_OURS).median:8.1f} tokens/s, llama.cpp "
        f"{found.rate(_PEER).median:8.1f}; {ratio.value:.2f} times as fast "
        f"({ratio.low:.2f} to {ratio.high:.2f})"
    )
