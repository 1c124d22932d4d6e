"""Arrivals of a trace on an engine in this process: what a simulation of it is held against."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from tidemill.errors import InputError
from tidemill.serve.clock import SimClock
from tidemill.serve.engine import EngineCore
from tidemill.serve.events import EventLog
from tidemill.serve.executor import Executor
from tidemill.serve.messages import Delta
from tidemill.serve.scheduler import QueueFull
from tidemill.serve.types import Request, StepPlan, StepResult


def replay_live(core: EngineCore, arrivals: Iterable[tuple[float, Request]]) -> EventLog:
    """Serve ``arrivals`` (seconds, not decreasing) with an engine, in this thread; open loop.

    Who comes while a step runs is taken in after it; a request's time counts from when it came.
    """
    run = _Live(core)
    for moment, request in arrivals:
        while run.now() < moment:
            if not core.step():
                time.sleep(max(0.0, moment - run.now()))
        run.add(moment, request)
    while core.scheduler.busy:
        core.step()
    return run.log


class _Live:
    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._begin = time.monotonic()
        self.log = EventLog()

    def now(self) -> float:
        return time.monotonic() - self._begin

    def add(self, moment: float, request: Request) -> None:
        item = self.log.arrived(request.id, moment, len(request.prompt_ids))

        def deliver(delta: Delta) -> None:
            item.token_s += [self.now()] * len(delta.token_ids)
            item.cached_tokens = delta.usage.cached_tokens
            if delta.finish_reason is not None:
                item.finish_reason, item.error = delta.finish_reason.value, delta.error
                item.end_s = self.now()

        try:
            self._core.add(request, deliver)
        except (QueueFull, InputError) as error:
            item.finish_reason, item.error, item.end_s = "refused", str(error), moment


class TimedExecutor:
    """Computes steps, and says that they ended when the computing thread had worked on them.

    With it, ``simulate`` serves for real on a clock of CPU time, which stands still while other
    processes have the CPU. For an executor that computes in the calling thread.
    """

    def __init__(self, inner: Executor, clock: SimClock) -> None:
        self._inner, self._clock = inner, clock

    def run(self, plan: StepPlan) -> StepResult:
        """As ``Executor``."""
        begin, start = time.thread_time(), self._clock.now()
        result = self._inner.run(plan)
        end = start + time.thread_time() - begin
        return replace(result, start_s=start, end_s=end)
