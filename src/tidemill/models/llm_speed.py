"""Decoding and reading of a prompt, here and in llama.cpp: the same work on both sides, timed.

Prompts of the decoding runs are read before and outside the timed part; what a run has written is
forgotten between runs. Both sides pick the likeliest token from the logits in compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from time import perf_counter

from tidemill.bench.compare import Comparison, Side, compare
from tidemill.bench.trial import Progress
from tidemill.models.llama_peer import LlamaModel, LlamaPeer, PeerSettings
from tidemill.models.native_decoder import NativeDecoder, Part

OURS, PEER = "tidemill", "llama.cpp"
_TUNING_RUNS = 2


@dataclass(frozen=True, slots=True)
class Workload:
    """What both sides do in one run: ``tokens`` new ones in each of ``streams`` texts.

    With ``tokens`` 0 the prompt itself is read.
    """

    prompt: int
    tokens: int
    streams: int = 1

    @property
    def room(self) -> int:
        """Tokens that a text may come to."""
        return self.prompt + self.tokens + 1

    @property
    def work(self) -> float:
        """Tokens of one run."""
        return float(self.tokens * self.streams or self.prompt)


@dataclass(frozen=True, slots=True)
class Speed:
    """A comparison, and the settings of llama.cpp that were the fastest of those tried."""

    comparison: Comparison
    settings: PeerSettings
    tried: dict[str, float]
    """Tokens per second of each setting of llama.cpp that was tried."""


def compare_speed(
    decoder: NativeDecoder,
    peer: LlamaModel,
    ids: Sequence[int],
    workload: Workload,
    *,
    repeats: int,
    progress: Progress | None = None,
) -> Speed:
    """Time ``workload`` on both sides in turn, llama.cpp at its best settings.

    Args:
        decoder: Of the same file, with room for the workload.
        peer: llama.cpp's model; it gets as many threads as the decoder.
        ids: Of a text, at least ``prompt + streams``: each stream begins one token later.
        workload: What to do.
        repeats: Runs of each side.
        progress: Told of the runs.
    """
    prompts = [list(ids[i : i + workload.prompt]) for i in range(workload.streams)]
    settings, tried = _tuned(peer, decoder.threads, prompts, workload)
    ours = OurRun(decoder, prompts, workload)
    with PeerRun(peer, settings, decoder.threads, prompts, workload) as theirs:
        found = compare(
            Side(OURS, ours.run, workload.work, "tokens/s", prepare=ours.reset),
            Side(PEER, theirs.run, workload.work, "tokens/s", prepare=theirs.reset),
            repeats=repeats,
            progress=progress,
        )
    return Speed(found, settings, tried)


class OurRun:
    """Our decoder, its prompts read where tokens are to be written after them."""

    def __init__(
        self, decoder: NativeDecoder, prompts: Sequence[list[int]], workload: Workload
    ) -> None:
        self._decoder = decoder
        self._prompts = prompts
        self._workload = workload
        self._sequences = [decoder.sequence() for _ in prompts]
        self._start = [0] * len(prompts)
        if workload.tokens:
            pairs = zip(self._sequences, prompts, strict=True)
            self._start = [int(decoder.prefill(*pair).argmax()) for pair in pairs]

    def reset(self) -> None:
        """Back to where a run begins."""
        length = self._workload.prompt if self._workload.tokens else 0
        for sequence in self._sequences:
            sequence.truncate(length)

    def run(self) -> None:
        """Do the work once."""
        decoder, sequences, nexts = self._decoder, self._sequences, self._start
        if not self._workload.tokens:
            decoder.prefill(sequences[0], self._prompts[0]).argmax()
        for _ in range(self._workload.tokens):
            pairs = zip(sequences, nexts, strict=True)
            nexts = decoder.step_greedy([Part(sequence, (token,)) for sequence, token in pairs])


class PeerRun:
    """llama.cpp likewise; a context manager."""

    def __init__(
        self,
        model: LlamaModel,
        settings: PeerSettings,
        threads: int,
        prompts: Sequence[list[int]],
        workload: Workload,
    ) -> None:
        self._prompts = prompts
        self._workload = workload
        self._peer: LlamaPeer = model.context(
            settings, threads=threads, tokens=workload.room, sequences=len(prompts)
        )
        self._start = [0] * len(prompts)
        if workload.tokens:
            self._start = [
                int(self._peer.prefill(prompt, sequence).argmax())
                for sequence, prompt in enumerate(prompts)
            ]

    def reset(self) -> None:
        """Back to where a run begins."""
        self._peer.truncate(self._workload.prompt if self._workload.tokens else 0)

    def run(self) -> None:
        """Do the work once."""
        nexts = self._start
        if not self._workload.tokens:
            self._peer.prefill(self._prompts[0]).argmax()
        for _ in range(self._workload.tokens):
            nexts = self._peer.step(nexts)

    def __enter__(self) -> PeerRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()


def _candidates(workload: Workload) -> Iterator[PeerSettings]:
    unified = (False, True) if workload.streams > 1 else (False,)
    ubatches = (512, 128) if not workload.tokens else (512,)
    for flash, one_buffer, ubatch in product((True, False), unified, ubatches):
        yield PeerSettings(flash, one_buffer, ubatch)


def _tuned(
    peer: LlamaModel, threads: int, prompts: Sequence[list[int]], workload: Workload
) -> tuple[PeerSettings, dict[str, float]]:
    """The fastest settings by the best of a few runs of each, in turn."""
    with ExitStack() as stack:
        runs = {
            settings: stack.enter_context(PeerRun(peer, settings, threads, prompts, workload))
            for settings in _candidates(workload)
        }
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(_TUNING_RUNS):
            for settings, run in runs.items():
                run.reset()
                best[settings] = min(best[settings], _seconds(run.run))
    fastest = min(best, key=lambda settings: best[settings])
    return fastest, {str(settings): workload.work / each for settings, each in best.items()}


def _seconds(run: Callable[[], object]) -> float:
    begin = perf_counter()
    run()
    return perf_counter() - begin
