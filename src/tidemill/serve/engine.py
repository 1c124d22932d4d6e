"""The engine: a scheduler, an executor and a clock in one loop, and texts made of the tokens."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill.errors import TidemillError
from tidemill.models.generation import FinishReason
from tidemill.models.stream import Detokenizer
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.clock import Clock, MonotonicClock
from tidemill.serve.executor import Executor, Inline, Pipeline, Ticket
from tidemill.serve.messages import Delta
from tidemill.serve.scheduler import Scheduler
from tidemill.serve.types import Output, Request, StepPlan

_log = logging.getLogger("tidemill.serve")


@dataclass(slots=True)
class _Stream:
    deliver: Callable[[Delta], None]
    detokenizer: Detokenizer


class EngineCore:
    """The loop's body; for one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor | Pipeline,
        tokenizer: Tokenizer,
        clock: Clock | None = None,
    ) -> None:
        self.scheduler, self.tokenizer = scheduler, tokenizer
        self.pipeline = executor if isinstance(executor, Pipeline) else Inline(executor)
        self.clock = clock or MonotonicClock()
        self.steps = 0
        self.step_tokens = 0
        self._streams: dict[str, _Stream] = {}
        self._under_way: deque[tuple[StepPlan, Ticket]] = deque()

    def add(self, request: Request, deliver: Callable[[Delta], None]) -> None:
        """Take a request; ``deliver`` gets its text, from the thread that steps.

        Raises:
            InputError, QueueFull: as ``Scheduler.add``.
        """
        self.scheduler.add(request, self.clock.now())
        detokenizer = Detokenizer(self.tokenizer, stop=request.params.stop, continues=True)
        self._streams[request.id] = _Stream(deliver, detokenizer)

    def abort(self, request_id: str) -> None:
        """End a request; it gets a last delta if it had not ended."""
        if self.scheduler.abort(request_id):
            self._deliver(self.scheduler.take_outputs())

    def abort_all(self) -> None:
        """End all requests."""
        for tracked in [*self.scheduler.running, *self.scheduler.waiting]:
            self.abort(tracked.request.id)

    def step(self) -> bool:
        """Plan a step if there is room for one, and take in the first under way if there is none.

        Returns:
            Whether there was anything to do.
        """
        has_room = len(self._under_way) < self.pipeline.depth
        plan = self.scheduler.schedule(self.clock.now()) if has_room else None
        if plan is not None and (plan.parts or plan.finished):
            self._under_way.append((plan, self.pipeline.submit(plan)))
        self._deliver(self.scheduler.take_outputs())
        is_full = len(self._under_way) >= self.pipeline.depth
        if self._under_way and (is_full or plan is None or not plan.parts):
            self._land(*self._under_way.popleft())
            return True
        return bool(self._under_way)

    def _land(self, plan: StepPlan, ticket: Ticket) -> None:
        try:
            result = self.pipeline.wait(ticket)
        except Exception as error:
            _log.exception("step %d failed", plan.number)
            why = str(error) if isinstance(error, TidemillError) else type(error).__name__
            if plan.parts:
                self._deliver(self.scheduler.fail(plan, why, self.clock.now()))
            return
        if plan.parts:
            self.steps += 1
            self.step_tokens += plan.tokens
            self._deliver(self.scheduler.commit(plan, result, self.clock.now()))

    def _deliver(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is not None:
                self._send(output, stream)

    def _send(self, output: Output, stream: _Stream) -> None:
        reason, error = output.finish_reason, output.error
        ended = reason is FinishReason.STOP
        shown = output.token_ids[:-1] if ended else output.token_ids
        text = "".join(stream.detokenizer.add(token) for token in shown)
        if stream.detokenizer.stopped_by is not None:
            self.scheduler.finish(output.request_id, FinishReason.STOP)
            self.scheduler.take_outputs()
            reason = FinishReason.STOP
        elif reason is not None:
            text += stream.detokenizer.finish()
        if reason is not None:
            del self._streams[output.request_id]
        stream.deliver(Delta(text, output.token_ids, output.usage, output.logprobs, reason, error))
