"""The scheduler: a state machine that never sleeps, reads a clock or touches a tensor.

    scheduler.add(request, now)
    plan = scheduler.schedule(now)
    outputs = scheduler.commit(plan, result, now)

A request has so many tokens and so many of them computed; a step computes some more of some of
them. Chunked prompts, decoding, and computing again after a preemption are that same thing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tidemill.errors import ConfigError, InputError, OutOfPool
from tidemill.models.generation import FinishReason
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.cost import CostModel
from tidemill.serve.planner import Planner
from tidemill.serve.policy import (
    AdmissionPolicy,
    CapPolicy,
    FirstComeFirstServed,
    LastServed,
    NoCap,
    OrderPolicy,
    PolicyError,
    QueueLimit,
    RequestView,
    VictimPolicy,
)
from tidemill.serve.sequence import Tracked
from tidemill.serve.steady import leap, steady_steps
from tidemill.serve.types import Output, Request, StepPlan, StepResult

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step and of a request."""

    max_num_seqs: int = 8
    """Requests that run at once."""
    max_num_batched_tokens: int = 256
    """Tokens of a step."""
    max_model_len: int = 4096
    """Tokens of a request, prompt and output."""
    max_queue: int | None = None
    """Requests that may wait; by default four times ``max_num_seqs``."""
    step_time_budget_s: float | None = None
    """Prompts are cut so that a step is expected to take no longer; needs a cost model."""
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            if not 1 <= getattr(self, name) <= 1 << 30:
                raise ConfigError.of(name, getattr(self, name), f"from 1 to {1 << 30}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError.of(
                "max_num_batched_tokens",
                self.max_num_batched_tokens,
                f"at least max_num_seqs={self.max_num_seqs}",
                "every running request gets a token in a step",
            )
        if self.max_queue is not None and self.max_queue < 1:
            raise ConfigError.of("max_queue", self.max_queue, "at least 1")
        if self.step_time_budget_s is not None and not self.step_time_budget_s > 0:
            raise ConfigError.of("step_time_budget_s", self.step_time_budget_s, "more than 0")


@dataclass(frozen=True, slots=True)
class Policies:
    """Who decides what."""

    order: OrderPolicy = field(default_factory=FirstComeFirstServed)
    cap: CapPolicy = field(default_factory=NoCap)
    victim: VictimPolicy = field(default_factory=LastServed)
    admission: AdmissionPolicy | None = None
    """By default, ``max_queue`` may wait."""


class QueueFull(OutOfPool):
    """Too many requests wait already; come back later."""


class Scheduler:
    """Requests, their blocks, and what the next step does; for one thread."""

    def __init__(
        self,
        config: SchedulerConfig,
        pool: BlockPool,
        policies: Policies | None = None,
        *,
        cost: CostModel | None = None,
    ) -> None:
        """A scheduler over ``pool``.

        Raises:
            ConfigError: a step time is to be kept but nothing tells how long steps take.
        """
        if config.step_time_budget_s is not None and cost is None:
            raise ConfigError.of(
                "step_time_budget_s", config.step_time_budget_s, "None without a cost model"
            )
        self.config, self.pool, self.cost = config, pool, cost
        self.policies = policies or Policies()
        self.now = 0.0
        self.running: list[Tracked] = []
        self.waiting: list[Tracked] = []
        self.preemptions = 0
        self.policy_errors = 0
        """Decisions in which a policy was overruled."""
        self.last_policy_error: PolicyError | None = None
        self._admission = self.policies.admission or QueueLimit(
            config.max_queue or 4 * config.max_num_seqs
        )
        self._by_id: dict[str, Tracked] = {}
        self._finished: list[str] = []
        self._outputs: list[Output] = []
        self._count = 0
        self._plans = 0
        self._under_way: deque[tuple[StepPlan, dict[str, int]]] = deque()

    @property
    def free_blocks(self) -> int:
        """Blocks that could be taken now."""
        return self.pool.available

    @property
    def capacity_blocks(self) -> int:
        """Blocks in all."""
        return self.pool.capacity

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self.pool.block_tokens

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute or to tell."""
        return bool(self._by_id or self._outputs)

    def cached_tokens(self, item: RequestView) -> int:
        """Tokens of a waiting request that are in the cache."""
        tracked = self._by_id.get(item.request.id)
        if tracked is None or not self.config.prefix_caching:
            return 0
        return self.pool.known(tracked.reusable(self.pool)) * self.pool.block_tokens

    def add(self, request: Request, now: float) -> None:
        """Let a request wait.

        Raises:
            InputError: it is empty, known already, or can never fit.
            QueueFull: the admission policy refuses it for now.
        """
        self._check(request)
        self.now = now
        fallback = QueueLimit(self.config.max_queue or 4 * self.config.max_num_seqs)
        admitted = self.ask(
            self._admission,
            lambda: self._admission.admit(self, request),
            lambda answer: isinstance(answer, bool),  # pyright: ignore[reportUnnecessaryIsInstance]
            lambda: fallback.admit(self, request),
        )
        if not admitted:
            raise QueueFull(
                f"queue — {len(self.waiting)} requests wait and {len(self.running)} run; try "
                "again in a moment, or start the server with a larger max_queue."
            )
        room = self.config.max_model_len - len(request.prompt_ids)
        tracked = Tracked(request, now, self._count, min(request.params.max_tokens or room, room))
        self._count += 1
        self._by_id[request.id] = tracked
        self.waiting.append(tracked)

    def schedule(self, now: float) -> StepPlan:
        """What to compute next; a plan without parts when there is nothing to do.

        Plans that have parts must be committed, or said to have failed, in their order. The next
        may be asked for before: it goes on from what those under way will have computed, and asks
        for tokens that are not known yet as ``PENDING``.
        """
        self.now = now
        parts = Planner(self).parts()
        self._plans += 1
        plan = StepPlan(self._plans, parts, tuple(self._finished))
        self._finished.clear()
        lives: dict[str, int] = {}
        for part in parts:
            tracked = self._by_id[part.request.id]
            tracked.plan(len(part.ids), part.samples)
            lives[part.request.id] = tracked.life
        if parts:
            self._under_way.append((plan, lives))
        return plan

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take in what came of ``plan``, and tell what is new for each request."""
        lives = self._landed(plan, now)
        for part in plan.parts:
            tracked = self._by_id[part.request.id]
            tracked.in_flight -= 1
            if tracked.finish_reason is not None:
                self._drop(tracked)
                continue
            if self.config.prefix_caching and tracked.life == lives[part.request.id]:
                tracked.register(self.pool, part.start + len(part.ids))
            if part.request.id in result.failed:
                self._end(tracked, FinishReason.ERROR, result.failed[part.request.id])
            elif part.samples:
                self._extend(tracked, result)
        return self.take_outputs()

    def steady_steps(self, most: int) -> int:
        """How many of the next steps, up to ``most``, draw one token for each that runs, no more.

        None of them ends a request or begins one, if none comes or goes from outside.
        """
        if self._under_way or self._outputs:
            return 0
        return steady_steps(self, most)

    def leap(self, drawn: Sequence[Sequence[int]], steps: int, now: float) -> None:
        """Do at once what ``steps`` plans and commits would do; see ``steady_steps``.

        ``drawn`` are the tokens of each running request, in the order of ``running``; ``now`` is
        when the last step ends.
        """
        leap(self, drawn, steps)
        self._plans += steps
        self.now = now

    def fail(self, plan: StepPlan, why: str, now: float) -> list[Output]:
        """The executor could not do ``plan``: its requests end with an error, others go on."""
        self._landed(plan, now)
        for part in plan.parts:
            tracked = self._by_id[part.request.id]
            tracked.in_flight -= 1
            if tracked.finish_reason is None:
                self._end(tracked, FinishReason.ERROR, why)
            else:
                self._drop(tracked)
        return self.take_outputs()

    def finish(self, request_id: str, reason: FinishReason, why: str | None = None) -> bool:
        """End a request: a stop string was found, or nobody listens any more.

        Its blocks are free at once, or when the step that uses them is over. Unknown ids, and ones
        that have ended, are let pass, as these messages cross.

        Returns:
            Whether it was there.
        """
        tracked = self._by_id.get(request_id)
        if tracked is None or tracked.finish_reason is not None:
            return False
        self._end(tracked, reason, why)
        return True

    def abort(self, request_id: str) -> bool:
        """End a request that nobody wants any more."""
        return self.finish(request_id, FinishReason.ABORT)

    def take_outputs(self) -> list[Output]:
        """What has not been told yet."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def check(self) -> None:
        """Assert that no block is lost and no request forgotten. O(blocks)."""
        self.pool.check([tracked.blocks for tracked in self._by_id.values()])
        live = {id(tracked) for tracked in (*self.running, *self.waiting)}
        for tracked in self._by_id.values():
            assert tracked.in_flight or id(tracked) in live, "a request is forgotten"
            assert tracked.computed <= tracked.total, "more is computed than there is"
            assert self.pool.blocks_for(tracked.computed) <= len(tracked.blocks), "no block for it"
        assert len(self.running) <= self.config.max_num_seqs, "too many run"

    def start(self, tracked: Tracked) -> None:
        """A waiting request runs. Its place among the running is by arrival."""
        self.waiting.remove(tracked)
        self.running.append(tracked)
        tracked.running = tracked.was_scheduled = True

    def preempt(self, tracked: Tracked) -> None:
        """A running request waits again, without its blocks."""
        self.running.remove(tracked)
        tracked.let_go(self.pool)
        tracked.preemptions += 1
        self.preemptions += 1
        self.waiting.append(tracked)

    def give_up(self, tracked: Tracked, why: str) -> None:
        """A request cannot go on."""
        self._end(tracked, FinishReason.ERROR, why)

    def ask(
        self,
        who: object,
        question: Callable[[], T],
        good: Callable[[T], bool],
        else_: Callable[[], T],
    ) -> T:
        """A policy's answer, or ``else_()`` if it fails or its answer cannot be."""
        try:
            answer = question()
            if good(answer):
                return answer
            found = f"answered {answer!r}"
        except Exception as error:  # a policy is somebody else's code
            found = f"raised {type(error).__name__}: {error}"
        self.policy_errors += 1
        self.last_policy_error = PolicyError(
            f"policy {type(who).__name__} — {found}; first come, first served decided instead."
        )
        return else_()

    def _check(self, request: Request) -> None:
        if request.id in self._by_id:
            raise InputError(f"request {request.id!r} — is being served already; ids are unique.")
        length = len(request.prompt_ids)
        if length == 0:
            raise InputError("prompt — is empty; give at least one token.")
        if request.deadline_s is not None and math.isnan(request.deadline_s):
            raise InputError("deadline_s=nan — is no time; leave it out.")
        most = self.config.max_model_len
        if length >= most:
            raise InputError(
                f"prompt — has {length} tokens, which leaves no room in a context of {most}; "
                "shorten it."
            )
        wanted = request.params.max_tokens
        if wanted is not None and length + wanted > most:
            raise InputError(
                f"max_tokens={wanted} — after a prompt of {length} tokens exceeds the context of "
                f"{most}; at most {most - length} can be asked."
            )
        whole = min(most, length + (wanted or most))
        if self.pool.blocks_for(whole) > self.pool.capacity:
            room = self.pool.capacity * self.pool.block_tokens
            raise InputError(
                f"request — may grow to {whole} tokens, the cache holds {room} in all; ask for "
                "fewer tokens, or give the cache more room."
            )

    def _landed(self, plan: StepPlan, now: float) -> dict[str, int]:
        """The lives of the plan's requests when it was made."""
        assert self._under_way, "no plan is under way"
        first, lives = self._under_way.popleft()
        assert plan is first, "this plan is not the first under way"
        self.now = now
        return lives

    def _extend(self, tracked: Tracked, result: StepResult) -> None:
        request = tracked.request
        sampled = result.sampled.get(request.id)
        if sampled is None:
            self._end(tracked, FinishReason.ERROR, "the executor drew no token for it")
            return
        tracked.drawn(sampled.token_id)
        reason: FinishReason | None = None
        if sampled.token_id in request.eos_ids and not request.params.ignore_eos:
            reason = FinishReason.STOP
        elif tracked.outputs >= tracked.most_outputs:
            reason = FinishReason.LENGTH
        output = Output(
            request.id, (sampled.token_id,), tracked.usage(), (sampled.logprobs,), reason
        )
        self._outputs.append(output)
        if reason is not None:
            tracked.finish_reason = reason
            self._drop(tracked)

    def _end(self, tracked: Tracked, reason: FinishReason, why: str | None = None) -> None:
        tracked.finish_reason = reason
        self._outputs.append(
            Output(tracked.request.id, (), tracked.usage(), finish_reason=reason, error=why)
        )
        self._drop(tracked)

    def _drop(self, tracked: Tracked) -> None:
        """Forget a request that has ended, once no plan names it any more."""
        if tracked.in_flight:
            return
        (self.running if tracked.running else self.waiting).remove(tracked)
        tracked.let_go(self.pool)
        del self._by_id[tracked.request.id]
        self._finished.append(tracked.request.id)
