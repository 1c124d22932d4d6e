"""The scheduler on a virtual clock: the same object that serves, fed with arrivals of a trace.

log = simulate(scheduler, SimExecutor(cost, clock), clock, arrivals)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tidemill.errors import InputError
from tidemill.serve.clock import SimClock
from tidemill.serve.events import EventLog
from tidemill.serve.executor import Executor, SimExecutor
from tidemill.serve.policy import PolicyError
from tidemill.serve.scheduler import QueueFull, Scheduler
from tidemill.serve.types import Output, Request

LEAST_STEPS = 2
"""Fewer are quicker one by one."""
MOST_STEPS = 1024
"""Of one leap."""


def simulate(
    scheduler: Scheduler,
    executor: Executor,
    clock: SimClock,
    arrivals: Iterable[tuple[float, Request]],
    *,
    leaps: bool = True,
) -> EventLog:
    """Serve ``arrivals`` (seconds, not decreasing) as fast as the executor says; open loop.

    Bit for bit the same for the same arrivals. A request that is refused stands in the log as
    ``refused``. ``leaps``: steps in which nothing happens but decoding are done many at once, with
    the same events; they are a ``SimExecutor``'s only.

    Raises:
        InputError: an arrival lies before the one before it.
        PolicyError: policies hold everybody back and nobody else will come.
    """
    run = _Run(scheduler, executor, clock, arrivals)
    if leaps and isinstance(executor, SimExecutor):
        while run.leap(executor) or run.turn():
            pass
    while run.turn():
        pass
    return run.log


class _Run:
    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        clock: SimClock,
        arrivals: Iterable[tuple[float, Request]],
    ) -> None:
        self._scheduler, self._executor, self._clock = scheduler, executor, clock
        self._arrivals = iter(arrivals)
        self._next = next(self._arrivals, None)
        self.log = EventLog()

    def leap(self, executor: SimExecutor) -> bool:
        """Several steps that end before the next arrival; whether there were any."""
        scheduler = self._scheduler
        self._arrive()
        steps = scheduler.steady_steps(MOST_STEPS)
        if steps < LEAST_STEPS:
            return False
        running = scheduler.running
        context = sum(tracked.computed for tracked in running)
        ends = executor.decode_ends(len(running), context, steps)
        if self._next is not None:
            ends = ends[: int(np.searchsorted(ends, self._next[0]))]
        steps, times = len(ends), ends.tolist()
        if steps < LEAST_STEPS:
            return False
        drawn = executor.draw([(each.request, each.outputs) for each in running], steps)
        for tracked in running:
            log = self.log[tracked.request.id]
            log.token_s += times
            log.cached_tokens = tracked.cached_tokens
        scheduler.leap(drawn, steps, times[-1])
        self._clock.advance_to(times[-1])
        return True

    def turn(self) -> bool:
        """One step, or a leap to the next arrival; False at the end."""
        self._arrive()
        plan = self._scheduler.schedule(self._clock.now())
        if plan.parts:
            result = self._executor.run(plan)
            self._arrive_until(result.end_s)
            self._tell(self._scheduler.commit(plan, result, result.end_s))
            return True
        self._tell(self._scheduler.take_outputs())
        if self._next is not None:
            self._clock.advance_to(max(self._next[0], self._clock.now()))
            return True
        if self._scheduler.busy:
            raise PolicyError("simulation — the policies hold every request back for ever.")
        return False

    def _arrive_until(self, moment: float) -> None:
        """Those who come while a step runs are taken in when they come."""
        while self._next is not None and self._next[0] <= moment:
            self._clock.advance_to(max(self._next[0], self._clock.now()))
            self._arrive()
        self._clock.advance_to(moment)

    def _arrive(self) -> None:
        now = self._clock.now()
        while self._next is not None and self._next[0] <= now:
            moment, request = self._next
            log = self.log.arrived(request.id, moment, len(request.prompt_ids))
            try:
                self._scheduler.add(request, moment)
            except (QueueFull, InputError) as error:
                log.finish_reason, log.error, log.end_s = "refused", str(error), moment
            self._next = next(self._arrivals, None)
            if self._next is not None and self._next[0] < moment:
                raise InputError(
                    f"arrivals — {self._next[1].id!r} comes at {self._next[0]:g} s, before "
                    f"{moment:g} s; sort them."
                )

    def _tell(self, outputs: Iterable[Output]) -> None:
        now = self._clock.now()
        for output in outputs:
            log = self.log[output.request_id]
            log.token_s += [now] * len(output.token_ids)
            log.cached_tokens = output.usage.cached_tokens
            if output.finish_reason is not None:
                log.finish_reason, log.error = output.finish_reason.value, output.error
                log.end_s = now
