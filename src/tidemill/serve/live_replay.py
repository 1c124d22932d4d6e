"""Arrivals of a trace on an engine in this process: what a simulation of it is held against."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from tidemill.serve.clock import SimClock
from tidemill.serve.engine import EngineCore
from tidemill.serve.engine_thread import EngineThread
from tidemill.serve.events import EventLog, RequestLog
from tidemill.serve.executor import Executor
from tidemill.serve.messages import Add, Batch
from tidemill.serve.types import Request, StepPlan, StepResult


def replay_live(
    core: EngineCore,
    arrivals: Iterable[tuple[float, Request]],
    tell: Callable[[int], None] = lambda done: None,
) -> EventLog:
    """Serve ``arrivals`` (seconds, not decreasing) in an engine's thread; open loop.

    A request's time counts from when it was to come. ``tell`` hears how many have ended.
    """
    log, done, ended = EventLog(), 0, threading.Semaphore(0)
    items: dict[str, RequestLog] = {}
    begin = time.monotonic()

    def end(item: RequestLog, reason: str, error: str | None) -> None:
        nonlocal done
        item.finish_reason, item.error, item.end_s = reason, error, time.monotonic() - begin
        done += 1
        tell(done)
        ended.release()

    def take(batch: Batch) -> None:
        for name, refusal in batch.answers.items():
            if refusal is not None:
                end(items[name], "refused", refusal.text)
        for name, delta in batch.deltas.items():
            item = items[name]
            item.token_s += [time.monotonic() - begin] * len(delta.token_ids)
            item.cached_tokens = delta.usage.cached_tokens
            if delta.finish_reason is not None:
                end(item, delta.finish_reason.value, delta.error)

    thread = EngineThread(core, take)
    try:
        for moment, request in arrivals:
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            items[request.id] = log.arrived(request.id, moment, len(request.prompt_ids))
            thread.send(Add(request))
        for _ in range(len(log)):
            ended.acquire()
    finally:
        thread.close()
    return log


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
