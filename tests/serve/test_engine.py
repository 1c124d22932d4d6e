"""The engine with a real model: batched, chunked and preempted texts equal those made alone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.errors import ConfigError, InputError
from tidemill.models import NativeDecoder, SamplingParams, Tokenizer, generate, open_model
from tidemill.models.generation import FinishReason
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.decoder_executor import DecoderExecutor
from tidemill.serve.engine import EngineCore
from tidemill.serve.engine_thread import EngineThread
from tidemill.serve.executor import Executor, Pipeline, Threaded
from tidemill.serve.messages import Abort, Add, Batch, Close, Delta, Refusal
from tidemill.serve.scheduler import Scheduler, SchedulerConfig
from tidemill.serve.types import Request, StepPlan, StepResult

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a land far away, there lived a " * 6,
    "1, 2, 3, 4,",
    "Water boils at",
)


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Iterator[tuple[NativeDecoder, Tokenizer]]:
    with open_model(model_path("gemma-3-270m")) as file:
        yield NativeDecoder(file, threads=2, context=256, kv_tokens=2048), file.tokenizer


class Collected:
    """A text on its way; ``done`` is set at its end."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.done = threading.Event()

    def __call__(self, delta: Delta) -> None:
        assert not self.done.is_set(), "a delta after the last"
        self.deltas.append(delta)
        if delta.finish_reason is not None:
            self.done.set()

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def last(self) -> Delta:
        return self.deltas[-1]


def core_of(
    model: tuple[NativeDecoder, Tokenizer],
    blocks: int = 64,
    executor: Executor | Pipeline | None = None,
) -> EngineCore:
    decoder, tokenizer = model
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=256)
    scheduler = Scheduler(config, BlockPool(blocks))
    return EngineCore(scheduler, executor or DecoderExecutor(decoder), tokenizer)


def alone(model: tuple[NativeDecoder, Tokenizer], prompt: str, params: SamplingParams) -> list[int]:
    decoder, tokenizer = model
    generation = generate(decoder, tokenizer, tokenizer.encode(prompt), params)
    list(generation)
    return generation.ids


def asked(model: tuple[NativeDecoder, Tokenizer], name: str, params: SamplingParams) -> Request:
    tokenizer = model[1]
    ids = tuple(tokenizer.encode(PROMPTS[int(name)]))
    return Request(name, ids, params, tokenizer.eos_ids)


@pytest.mark.parametrize(("blocks", "depth"), [(64, 1), (6, 1), (6, 2)])
def test_texts_served_together_equal_texts_made_alone(
    model: tuple[NativeDecoder, Tokenizer], blocks: int, depth: int
) -> None:
    pipeline = Threaded(DecoderExecutor(model[0]), depth)
    core = core_of(model, blocks, pipeline)
    greedy = SamplingParams(temperature=0, max_tokens=30)
    drawn = SamplingParams(temperature=0.8, top_p=0.9, seed=7, max_tokens=30)
    params = [greedy, drawn, greedy, drawn, greedy]
    texts = [Collected() for _ in PROMPTS]
    for index, text in enumerate(texts):
        core.add(asked(model, str(index), params[index]), text)
    while core.scheduler.busy:
        core.step()
    pipeline.close()
    assert (core.scheduler.preemptions > 0) == (blocks == 6)
    for text, prompt, settings in zip(texts, PROMPTS, params, strict=True):
        assert text.ids == alone(model, prompt, settings)
        assert text.last.usage.completion_tokens == len(text.ids)


def test_a_second_turn_finds_its_first_and_reads_the_same(
    model: tuple[NativeDecoder, Tokenizer],
) -> None:
    core, tokenizer = core_of(model), model[1]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    ids = tuple(tokenizer.encode(PROMPTS[2] * 2))
    turns: list[Collected] = []
    for name in ("1", "2", "3"):
        text = Collected()
        core.add(Request(name, ids, params), text)
        while core.scheduler.busy:
            core.step()
        assert text.ids == alone(model, tokenizer.decode(ids), params) or name != "1"
        turns.append(text)
        ids = (*ids, *text.ids, *tokenizer.encode(" And then", add_special=False))
    for before, after in itertools.pairwise(turns):
        usage = after.last.usage
        assert usage.cached_tokens >= before.last.usage.prompt_tokens - 32
    decoder = model[0]
    again = generate(decoder, tokenizer, ids[: turns[2].last.usage.prompt_tokens], params)
    list(again)
    assert turns[2].ids == again.ids


def test_a_stop_string_ends_a_text_before_it(model: tuple[NativeDecoder, Tokenizer]) -> None:
    core, whole, stopped = core_of(model), Collected(), Collected()
    core.add(asked(model, "3", SamplingParams(temperature=0, max_tokens=30)), whole)
    stop = SamplingParams(temperature=0, max_tokens=30, stop=(" 8",))
    core.add(replace(asked(model, "3", stop), id="stopped"), stopped)
    while core.scheduler.busy:
        core.step()
    assert " 8" in whole.text
    assert stopped.text == whole.text[: whole.text.index(" 8")]
    assert stopped.last.finish_reason is FinishReason.STOP
    assert core.scheduler.pool.held == 0


def test_a_failing_step_answers_its_requests_and_serves_on(
    model: tuple[NativeDecoder, Tokenizer], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(DecoderExecutor):
        fails = True

        def run(self, plan: StepPlan) -> StepResult:
            if self.fails:
                raise InputError("planted")
            return super().run(plan)

    executor = Failing(model[0])
    core, first, second = core_of(model, executor=executor), Collected(), Collected()
    params = SamplingParams(temperature=0, max_tokens=4)
    core.add(asked(model, "0", params), first)
    core.step()
    executor.fails = False
    core.add(asked(model, "1", params), second)
    while core.scheduler.busy:
        core.step()
    assert (first.last.finish_reason, first.last.error) == (FinishReason.ERROR, "planted")
    assert second.ids == alone(model, PROMPTS[1], params)
    assert "planted" in caplog.text


class Told:
    """What a thread told, by request."""

    def __init__(self) -> None:
        self.texts: dict[str, Collected] = {}
        self.answers: dict[str, Refusal | None] = {}
        self.ended = threading.Event()
        self.error: Exception | None = None

    def batch(self, batch: Batch) -> None:
        assert not self.answers.keys() & batch.answers.keys(), "answered twice"
        self.answers |= batch.answers
        for name, delta in batch.deltas.items():
            assert name in self.answers, "a text before its answer"
            self.texts.setdefault(name, Collected())(delta)

    def end(self, error: Exception | None) -> None:
        self.error = error
        self.ended.set()


def test_a_thread_serves_aborts_and_drains(model: tuple[NativeDecoder, Tokenizer]) -> None:
    told = Told()
    thread = EngineThread(core_of(model), told.batch, told.end)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    for name in "0123":
        thread.send(Add(asked(model, name, params)))
    thread.send(Abort("2"))
    thread.send(Close(60))
    thread.send(Add(asked(model, "4", params)))
    assert told.ended.wait(60)
    assert told.error is None
    refused = told.answers["4"]
    assert refused is not None
    assert "is shutting down" in refused.text
    reasons = {name: text.last.finish_reason for name, text in told.texts.items()}
    assert reasons.pop("2") is FinishReason.ABORT
    assert reasons == dict.fromkeys("013", FinishReason.LENGTH)
    for name in "013":
        assert told.texts[name].ids == alone(model, PROMPTS[int(name)], params)


def test_closing_without_grace_aborts_what_runs(model: tuple[NativeDecoder, Tokenizer]) -> None:
    told = Told()
    thread = EngineThread(core_of(model), told.batch, told.end)
    params = SamplingParams(temperature=0, max_tokens=250, ignore_eos=True)
    thread.send(Add(asked(model, "0", params)))
    thread.close()
    assert told.texts["0"].last.finish_reason is FinishReason.ABORT


def test_a_thread_that_fails_says_so(
    model: tuple[NativeDecoder, Tokenizer], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Scheduler):
        def schedule(self, now: float) -> StepPlan:
            raise AssertionError("planted")

    core, told = core_of(model), Told()
    core.scheduler = Broken(core.scheduler.config, core.scheduler.pool)
    EngineThread(core, told.batch, told.end).send(Abort("nobody"))
    assert told.ended.wait(10)
    assert isinstance(told.error, AssertionError)
    assert "planted" in caplog.text


class Held:
    """An executor whose steps end when they are let go."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.plans: list[int] = []

    def run(self, plan: StepPlan) -> StepResult:
        self.gate.acquire()
        self.plans.append(plan.number)
        return StepResult({})


def test_a_pipeline_does_plans_in_order_and_says_when_they_are_done() -> None:
    held = Held()
    pipeline = Threaded(held)
    tickets = [pipeline.submit(StepPlan(number, ())) for number in range(3)]
    assert not pipeline.poll(tickets[0])
    held.gate.release()
    assert pipeline.wait(tickets[0]) == StepResult({})
    assert pipeline.poll(tickets[0])
    assert not pipeline.poll(tickets[1])
    held.gate.release(2)
    pipeline.close()
    assert held.plans == [0, 1, 2]
    with pytest.raises(ConfigError, match="depth=0"):
        Threaded(held, 0)
