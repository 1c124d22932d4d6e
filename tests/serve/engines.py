"""A scheduler driven by an executor that knows what each token must be."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable

from tidemill.models.generation import FinishReason
from tidemill.models.sampling import SamplingParams
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.scheduler import Scheduler
from tidemill.serve.types import PENDING, Output, Request, Sampled, StepPlan, StepResult


def next_token(tokens: Iterable[int]) -> int:
    """A token that depends on all before it, as a model's does."""
    state = 17
    for token in tokens:
        state = (state * 1_000_003 + token + 1) % 1_000_000_007
    return state % 5


def expected(request: Request, context: int) -> tuple[list[int], FinishReason]:
    """What the request's text must be, whatever else is served beside it."""
    tokens = list(request.prompt_ids)
    while True:
        tokens.append(next_token(tokens))
        made = tokens[len(request.prompt_ids) :]
        if made[-1] in request.eos_ids:
            return made, FinishReason.STOP
        if len(made) == request.params.max_tokens or len(tokens) == context:
            return made, FinishReason.LENGTH


class CheckedExecutor:
    """Holds what each block contains, so that a wrong block, or one that is missing, is seen."""

    def __init__(self, pool: BlockPool) -> None:
        self.block_tokens = pool.block_tokens
        self.cells: dict[tuple[int, int], int] = {}
        self.steps = 0
        self.computed = 0
        self._last: dict[str, int] = {}

    def run(self, plan: StepPlan) -> StepResult:
        self.steps += 1
        written: set[int] = set()
        for part in plan.parts:
            end = part.start + len(part.ids)
            assert len(part.blocks) * self.block_tokens >= end, "no room for the ids"
            first, last = part.start // self.block_tokens, (end - 1) // self.block_tokens
            touched = set(part.blocks[first : last + 1])
            assert not touched & written, "two requests write to one block in one step"
            written |= touched
            last = self._last.get(part.request.id, -7)  # whoever has none ended with an error
            ids = (last,) if part.ids == (PENDING,) else part.ids
            assert PENDING not in ids, "a token that nobody drew"
            for position, token in zip(itertools.count(part.start), ids):
                self.cells[self.cell(part.blocks, position)] = token
            self.computed += len(part.ids)
        drawn = {
            part.request.id: next_token(self.read(part.blocks, part.start + len(part.ids)))
            for part in plan.parts
            if part.samples
        }
        self._last |= drawn
        return StepResult({name: Sampled(token) for name, token in drawn.items()})

    def read(self, blocks: tuple[int, ...], length: int) -> list[int]:
        """What the blocks hold; what was never written makes the next token a wrong one."""
        return [self.cells.get(self.cell(blocks, position), -7) for position in range(length)]

    def cell(self, blocks: tuple[int, ...], position: int) -> tuple[int, int]:
        return blocks[position // self.block_tokens], position % self.block_tokens


class Texts:
    """What came out, per request."""

    def __init__(self) -> None:
        self.ids: dict[str, list[int]] = {}
        self.reasons: dict[str, FinishReason] = {}
        self.errors: dict[str, str | None] = {}

    def take(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            assert output.request_id not in self.reasons, "an answered request was answered again"
            self.ids.setdefault(output.request_id, []).extend(output.token_ids)
            if output.finish_reason is not None:
                self.reasons[output.request_id] = output.finish_reason
                self.errors[output.request_id] = output.error


class Piped:
    """Plans under way: the next are made before the first is computed."""

    def __init__(self, scheduler: Scheduler, executor: CheckedExecutor, depth: int) -> None:
        self._scheduler, self._executor, self._depth = scheduler, executor, depth
        self._under_way: deque[StepPlan] = deque()

    def step(self, texts: Texts, now: float, fails: bool = False) -> set[str]:
        """Plan, and compute the first under way when there is no room for more.

        ``fails``: it fails instead; the requests that this ends.
        """
        plan = self._scheduler.schedule(now)
        if plan.parts:
            self._under_way.append(plan)
        texts.take(self._scheduler.take_outputs())
        ended: set[str] = set()
        if self._under_way and (len(self._under_way) == self._depth or not plan.parts):
            first = self._under_way.popleft()
            if fails:
                ended = {part.request.id for part in first.parts}
                texts.take(self._scheduler.fail(first, "planted", now))
            else:
                result = self._executor.run(first)
                texts.take(self._scheduler.commit(first, result, now))
        self._scheduler.check()
        return ended

    def drain(self, texts: Texts, limit: int = 10_000) -> None:
        for now in range(limit):
            if not self._scheduler.busy:
                return
            self.step(texts, float(now))
        raise AssertionError(f"not done after {limit} steps")


def step(
    scheduler: Scheduler, executor: CheckedExecutor, texts: Texts, now: float = 0.0
) -> StepPlan:
    plan = scheduler.schedule(now)
    if plan.parts:
        texts.take(scheduler.commit(plan, executor.run(plan), now))
    else:
        texts.take(scheduler.take_outputs())
    scheduler.check()
    return plan


def drain(
    scheduler: Scheduler, executor: CheckedExecutor, texts: Texts, limit: int = 10_000
) -> None:
    for now in range(limit):
        if not scheduler.busy:
            return
        step(scheduler, executor, texts, float(now))
    raise AssertionError(f"not done after {limit} steps")


def request(name: str, prompt: Iterable[int], most: int = 8, **fields: object) -> Request:
    params = SamplingParams(max_tokens=most, temperature=0)
    return Request(name, tuple(prompt), params, **fields)  # pyright: ignore[reportArgumentType]
