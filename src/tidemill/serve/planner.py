"""One step's plan: who gets how many tokens and blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from tidemill.serve.cost import StepShape
from tidemill.serve.policy import Key
from tidemill.serve.sequence import Tracked
from tidemill.serve.types import Part

if TYPE_CHECKING:
    from tidemill.serve.scheduler import Scheduler


class Planner:
    """Works on the scheduler's own lists, once.

    Requests that need one token go before those that need more, so that a long prompt never holds
    up texts that flow; within both, the order policy decides. Only running requests preempt, and
    only those that the policy puts behind them: whoever is first always gets on.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._pool = scheduler.pool
        self._config = scheduler.config
        self._granted: dict[str, int] = {}  # by request id, in the order of granting
        self._left = scheduler.config.max_num_batched_tokens
        self._preempted = False
        self._ranked = self._by_policy()
        self._rank = {id(tracked): rank for rank, tracked in enumerate(self._ranked)}

    def parts(self) -> tuple[Part, ...]:
        """Who gets what."""
        for tracked in sorted(self._ranked, key=_needs_many):
            if self._left and tracked.running and tracked.finish_reason is None:
                self._advance(tracked)
        for tracked in self._ranked:
            full = len(self._scheduler.running) >= self._config.max_num_seqs
            if not self._left or self._preempted or full:
                break
            able = tracked.finish_reason is None and not tracked.pending
            if able and not tracked.running and not self._begin(tracked):
                break
        granted = (item for item in self._ranked if item.request.id in self._granted)
        return tuple(self._part(tracked) for tracked in granted)

    def _by_policy(self) -> list[Tracked]:
        scheduler = self._scheduler
        policy = scheduler.policies.order

        def key(tracked: Tracked) -> Key:
            return scheduler.ask(
                policy,
                lambda: policy.key(tracked, scheduler),
                _is_key,
                lambda: (float(tracked.order),),
            )

        items = [*scheduler.running, *scheduler.waiting]
        keys = {id(item): key(item) for item in items}
        return sorted(items, key=lambda item: (keys[id(item)], item.order))

    def _allowed(self, tracked: Tracked) -> int:
        scheduler = self._scheduler
        policy = scheduler.policies.cap
        allowed = scheduler.ask(
            policy,
            lambda: policy.allowed_tokens(tracked, scheduler),
            lambda answer: answer is None or (type(answer) is int and answer >= 0),
            lambda: None,
        )
        count = min(tracked.missing, self._left)
        return count if allowed is None else min(count, allowed)

    def _advance(self, tracked: Tracked) -> None:
        """Give a running request its tokens, taking blocks from others if need be."""
        count = self._fitting(tracked, self._allowed(tracked))
        if count == 0:
            return
        while (need := self._blocks_missing(tracked, count)) > self._pool.available:
            if not self._make_room(tracked, need - self._pool.available):
                return
        self._grant(tracked, count)

    def _begin(self, tracked: Tracked) -> bool:
        """Let a waiting request run if there is room for all of it; whether others may follow."""
        if self._pool.blocks_for(tracked.total) > self._pool.capacity:
            self._give_up(tracked)  # the pool was shrunk below it
            return True
        if self._config.prefix_caching:
            tracked.adopt(self._pool)
        allowed = self._allowed(tracked)
        count = self._fitting(tracked, allowed)
        missing = self._blocks_missing(tracked, tracked.missing)
        if count == 0 or missing > self._pool.available:
            tracked.let_go(self._pool)
            return allowed == 0
        self._scheduler.start(tracked)
        self._grant(tracked, count)
        return True

    def _grant(self, tracked: Tracked, count: int) -> None:
        tracked.blocks += self._pool.take(self._blocks_missing(tracked, count))
        self._granted[tracked.request.id] = count
        self._left -= count

    def _make_room(self, tracked: Tracked, need: int) -> bool:
        """Preempt somebody behind ``tracked``, or ``tracked`` itself; whether it may go on."""
        scheduler = self._scheduler
        later = self._ranked[self._rank[id(tracked)] + 1 :]
        behind = [item for item in later if item.running and item.finish_reason is None]
        if not behind:
            self._yield_or_fail(tracked)
            return False
        policy = scheduler.policies.victim
        ids = {item.request.id: item for item in behind}
        picked = scheduler.ask(
            policy,
            lambda: policy.pick(scheduler, behind, need),
            lambda answer: answer in ids,
            lambda: behind[-1].request.id,
        )
        self._left += self._granted.pop(picked, 0)
        self._preempt(ids[picked])
        return True

    def _preempt(self, tracked: Tracked) -> None:
        self._preempted = True
        self._scheduler.preempt(tracked)

    def _yield_or_fail(self, tracked: Tracked) -> None:
        """Nobody is behind: those before it have the blocks, or the pool has become too small."""
        if len(self._scheduler.running) > 1:
            self._preempt(tracked)
            return
        self._give_up(tracked)

    def _give_up(self, tracked: Tracked) -> None:
        room = self._pool.capacity * self._pool.block_tokens
        self._scheduler.give_up(
            tracked, f"the cache holds {room} tokens now; {tracked.total} and more are needed"
        )

    def _blocks_missing(self, tracked: Tracked, count: int) -> int:
        wanted = self._pool.blocks_for(tracked.computed + count)
        return max(0, wanted - len(tracked.blocks))

    def _fitting(self, tracked: Tracked, count: int) -> int:
        """At most ``count`` tokens, so that the step keeps to its time; never stuck at none."""
        budget, cost = self._config.step_time_budget_s, self._scheduler.cost
        if budget is None or cost is None or count <= 1:
            return count
        shape = StepShape()
        for item in self._scheduler.running:
            grant = self._granted.get(item.request.id)
            if grant is not None:
                shape = shape.with_part(grant, item.computed, grant == item.missing)

        def late(tokens: int) -> bool:
            whole = tokens == tracked.missing
            return cost.step_s(shape.with_part(tokens, tracked.computed, whole)) > budget

        low, high = (0 if self._granted else 1), count
        if not late(high):
            return high
        while low < high - 1:
            middle = (low + high) // 2
            low, high = (low, middle) if late(middle) else (middle, high)
        return low

    def _part(self, tracked: Tracked) -> Part:
        count = self._granted[tracked.request.id]
        start = tracked.computed
        return Part(
            tracked.request,
            tuple(tracked.tokens[start : start + count]),
            start,
            tuple(tracked.blocks),
            samples=start + count == tracked.total,
            outputs=tracked.outputs + tracked.pending,
        )


def _needs_many(tracked: Tracked) -> bool:
    return tracked.missing > 1


def _is_key(answer: object) -> bool:
    if not isinstance(answer, tuple):
        return False
    numbers = cast("tuple[object, ...]", answer)
    return all(isinstance(number, int | float) and not math.isnan(number) for number in numbers)
