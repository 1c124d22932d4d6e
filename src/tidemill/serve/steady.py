"""Stretches in which nothing happens but that each running request gets a token a step.

Such steps need not be planned one by one: a leap leaves the scheduler, its blocks and its cached
prefixes as that many plans and commits would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tidemill.serve.policy import (
    ByPriority,
    EarliestDeadlineFirst,
    FirstComeFirstServed,
    Key,
    NoCap,
)
from tidemill.serve.sequence import Tracked

if TYPE_CHECKING:
    from tidemill.serve.scheduler import Scheduler

STEADY_ORDERS = {FirstComeFirstServed, ByPriority, EarliestDeadlineFirst}
"""Orders that change only when a request comes or goes."""


def steady_steps(scheduler: Scheduler, most: int) -> int:
    """As ``Scheduler.steady_steps``."""
    policies = scheduler.policies
    if type(policies.order) not in STEADY_ORDERS or type(policies.cap) is not NoCap:
        return 0
    for tracked in scheduler.running:
        request = tracked.request
        if tracked.missing != 1 or (request.eos_ids and not request.params.ignore_eos):
            return 0
        most = min(most, tracked.most_outputs - tracked.outputs - 1)
    if most < 1 or not scheduler.running or not _nobody_begins(scheduler):
        return 0
    while most and _blocks_taken(scheduler, most) > scheduler.pool.available:
        most //= 2
    return most


def leap(scheduler: Scheduler, drawn: Sequence[Sequence[int]], steps: int) -> None:
    """As ``Scheduler.leap``."""
    pool, caching = scheduler.pool, scheduler.config.prefix_caching
    ranked = sorted(scheduler.running, key=lambda tracked: _rank(scheduler, tracked))
    for tracked, tokens in zip(scheduler.running, drawn, strict=True):
        tracked.tokens += tokens
    begins = [tracked.computed for tracked in ranked]
    events = (
        (step, registers, rank)
        for rank, tracked in enumerate(ranked)
        for step, registers in _block_events(tracked, pool.block_tokens, steps, caching)
    )
    for step, registers, rank in sorted(events):
        tracked = ranked[rank]
        if registers:
            tracked.computed = begins[rank] + step + 1
            tracked.register(pool, tracked.computed)
        else:
            tracked.blocks += pool.take(1)
    for tracked, begin in zip(ranked, begins, strict=True):
        tracked.computed = begin + steps


def _nobody_begins(scheduler: Scheduler) -> bool:
    """Whether those who wait go on waiting while blocks become fewer and nobody ends."""
    config, running = scheduler.config, len(scheduler.running)
    if not scheduler.waiting or running >= config.max_num_seqs:
        return True
    if running >= config.max_num_batched_tokens:
        return True
    if config.prefix_caching or config.step_time_budget_s is not None:
        return False
    first = min(scheduler.waiting, key=lambda tracked: _rank(scheduler, tracked))
    need = scheduler.pool.blocks_for(first.total)
    return scheduler.pool.available < need <= scheduler.pool.capacity


def _rank(scheduler: Scheduler, tracked: Tracked) -> tuple[Key, int]:
    return scheduler.policies.order.key(tracked, scheduler), tracked.order


def _blocks_taken(scheduler: Scheduler, steps: int) -> int:
    wanted = scheduler.pool.blocks_for
    return sum(
        max(wanted(tracked.computed + steps) - len(tracked.blocks), 0)
        for tracked in scheduler.running
    )


def _block_events(
    tracked: Tracked, size: int, steps: int, caching: bool
) -> Iterator[tuple[int, bool]]:
    """In which steps it takes a block, and in which it has filled one that others may find."""
    for step in range(len(tracked.blocks) * size - tracked.computed, steps, size):
        yield step, False
    if caching:
        for step in range(-(tracked.computed + 1) % size, steps, size):
            yield step, True
