"""Times the steps of an engine on this machine, so that a simulation can be made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from tidemill.bench.trial import Progress
from tidemill.errors import ConfigError
from tidemill.models.native_decoder import PAGE_TOKENS, NativeDecoder
from tidemill.models.sampling import SamplingParams
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.cost import StepShape, pairs_of, shape_of
from tidemill.serve.decoder_executor import DecoderExecutor
from tidemill.serve.engine import EngineCore
from tidemill.serve.executor import Executor
from tidemill.serve.measured_steps import MeasuredSteps, Table
from tidemill.serve.scheduler import Scheduler, SchedulerConfig
from tidemill.serve.types import Request, StepPlan, StepResult

CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128)
SEQUENCES = (1, 2, 4, 8)
LONG, LONG_CHUNK = 512, 64
"""A prompt read in chunks: what is cached before each makes it slower."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A decoder, and schedulers for it that differ in their limits only."""

    decoder: NativeDecoder
    tokenizer: Tokenizer
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256

    @property
    def vocab_size(self) -> int:
        """Ids below it may be in prompts."""
        return self.tokenizer.vocab_size

    def scheduler(
        self, *, max_queue: int, sequences: int | None = None, batched_tokens: int | None = None
    ) -> Scheduler:
        """A scheduler over all of the decoder's cache."""
        config = SchedulerConfig(
            max_num_seqs=sequences or self.max_num_seqs,
            max_num_batched_tokens=batched_tokens or self.max_num_batched_tokens,
            max_model_len=self.decoder.context,
            max_queue=max_queue,
            prefix_caching=DecoderExecutor(self.decoder).maps_pages,
        )
        return Scheduler(config, BlockPool(self.decoder.kv_tokens // PAGE_TOKENS, PAGE_TOKENS))

    def core(self, *, max_queue: int) -> EngineCore:
        """The engine with such a scheduler."""
        scheduler = self.scheduler(max_queue=max_queue)
        return EngineCore(scheduler, DecoderExecutor(self.decoder), self.tokenizer)


@dataclass(frozen=True, slots=True)
class _Step:
    shape: StepShape
    seconds: float


class _Watched:
    """An executor that remembers the last plan's shape."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.shape = StepShape()

    def run(self, plan: StepPlan) -> StepResult:
        self.shape = shape_of(plan)
        return self._inner.run(plan)


def measure_steps(
    engine: Engine,
    *,
    repeats: int = 5,
    progress: Progress | None = None,
    timer: Callable[[], float] = perf_counter,
) -> MeasuredSteps:
    """Time whole steps of the engine, planning and delivery included, each shape several times.

    ``timer`` may be ``time.thread_time`` for an engine of one thread: then what else runs on the
    machine disturbs little.

    Raises:
        ConfigError: the decoder's context or cache is too small for it.
    """
    if engine.decoder.context < LONG + 2 or engine.decoder.kv_tokens < LONG + PAGE_TOKENS:
        raise ConfigError.of("context", engine.decoder.context, f"at least {LONG + 2}")
    progress = progress or Progress()
    chunk_rows: dict[int, list[float]] = {count: [] for count in CHUNKS}
    decode_rows: dict[int, list[float]] = {count: [] for count in SEQUENCES}
    long_rows: list[_Step] = []
    late_rows: list[float] = []
    list(_steps(engine, timer, (1, LONG_CHUNK, LONG_CHUNK, 4)))  # the first ones touch the weights
    for turn in range(repeats):  # interleaved: a drift of the machine hits all shapes alike
        for count in CHUNKS:
            chunk_rows[count].append(next(_steps(engine, timer, (1, count + 1, count, 1))).seconds)
        for count in SEQUENCES:
            steps = list(_steps(engine, timer, (count, 4, 4 * count, 6)))
            decode_rows[count] += [
                step.seconds for step in steps if step.shape.samples == step.shape.decodes == count
            ]
        steps = list(_steps(engine, timer, (1, LONG, LONG_CHUNK, 5)))
        long_rows += [step for step in steps if step.shape.prefill_tokens and step.shape.pairs]
        late_rows += [step.seconds for step in steps if step.shape.decodes]
        progress.advance(turn + 1, repeats, "rounds of timed steps")
    decodes = {count: median(rows) for count, rows in decode_rows.items()}
    context_s, pair_s = _attention(long_rows, median(late_rows) - decodes[1])
    tokens = _rising(
        (count, median(rows) - pair_s * pairs_of(count, 0)) for count, rows in chunk_rows.items()
    )
    base = dict(tokens)
    samples = _rising(((0, 0.0), *((n, decodes[n] - base[n]) for n in SEQUENCES)))
    return MeasuredSteps(
        tokens, samples, context_s, pair_s, engine.decoder.kv_tokens, engine.max_num_seqs,
        engine.max_num_batched_tokens, f"{engine.decoder.threads} threads",
    )  # fmt: skip


def _steps(
    engine: Engine, timer: Callable[[], float], sizes: tuple[int, int, int, int]
) -> Iterator[_Step]:
    """Serve equal requests to the end, each step timed.

    ``sizes``: how many requests, tokens of each prompt, tokens of a step, tokens of each text.
    """
    sequences, prompt, chunk, outputs = sizes
    watched = _Watched(DecoderExecutor(engine.decoder))
    scheduler = engine.scheduler(
        max_queue=sequences, sequences=sequences, batched_tokens=max(chunk, sequences)
    )
    core = EngineCore(scheduler, watched, engine.tokenizer)
    draw = np.random.default_rng(prompt * 31 + sequences)
    for index in range(sequences):
        ids = draw.integers(0, engine.vocab_size, prompt).tolist()
        params = SamplingParams(max_tokens=outputs, temperature=0, ignore_eos=True)
        core.add(Request(str(index), tuple(ids), params), lambda delta: None)
    while core.scheduler.busy:
        begin = timer()
        core.step()
        yield _Step(watched.shape, timer() - begin)


def _attention(chunks: Sequence[_Step], later_s: float) -> tuple[float, float]:
    """Seconds to read a cached token, and seconds for a pair of tokens.

    A chunk of n tokens after c cached ones takes c times (reading + n pairs) more than the first;
    a decode after c, which took ``later_s`` more than after none, c times (reading + pair).
    """
    same = [step for step in chunks if step.shape.prefill_tokens == LONG_CHUNK]
    starts = np.array([step.shape.context_tokens for step in same], float)
    seconds = np.array([step.seconds for step in same])
    unique = np.unique(starts)
    medians = np.array([np.median(seconds[starts == start]) for start in unique])
    chunk_slope = float(np.polyfit(unique, medians, 1)[0])
    decode_slope = max(later_s, 0.0) / LONG
    pair_s = max((chunk_slope - decode_slope) / (LONG_CHUNK - 1), 0.0)
    return max(decode_slope - pair_s, 0.0), pair_s


def _rising(rows: Iterator[tuple[int, float]] | Sequence[tuple[int, float]]) -> Table:
    """As a table; noise must not make more tokens cheaper than fewer."""
    table: list[tuple[int, float]] = []
    for count, seconds in rows:
        table.append((count, max(seconds, table[-1][1] if table else 0.0)))
    return tuple(table)
