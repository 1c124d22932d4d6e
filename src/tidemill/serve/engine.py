"""The engine: a scheduler, an executor and a clock in one loop, and texts made of the tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tidemill.errors import ResourceError, TidemillError
from tidemill.models.generation import FinishReason
from tidemill.models.sampling import TokenLogprobs
from tidemill.models.stream import Detokenizer
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.clock import Clock, MonotonicClock
from tidemill.serve.executor import Executor
from tidemill.serve.scheduler import Scheduler
from tidemill.serve.types import Output, Request, Usage

_log = logging.getLogger("tidemill.serve")


class EngineStopped(ResourceError):
    """The engine takes no requests any more."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new of a text."""

    text: str
    """What the tokens so far settle; often empty."""
    token_ids: tuple[int, ...]
    usage: Usage
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    finish_reason: FinishReason | None = None
    """Set in the last delta, and only there."""
    error: str | None = None


@dataclass(slots=True)
class _Stream:
    deliver: Callable[[Delta], None]
    detokenizer: Detokenizer


class EngineCore:
    """The loop's body; for one thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        tokenizer: Tokenizer,
        clock: Clock | None = None,
    ) -> None:
        self.scheduler, self.executor, self.tokenizer = scheduler, executor, tokenizer
        self.clock = clock or MonotonicClock()
        self.steps = 0
        self.step_tokens = 0
        self.on_arrival: Callable[[str, float], None] = lambda request_id, now: None
        """Called with the id of every request that was taken."""
        self.on_output: Callable[[Output, float], None] = lambda output, now: None
        """Called with every output, for metrics."""
        self._streams: dict[str, _Stream] = {}

    def add(self, request: Request, deliver: Callable[[Delta], None]) -> None:
        """Take a request; ``deliver`` gets its text, from the thread that steps.

        Raises:
            InputError, QueueFull: as ``Scheduler.add``.
        """
        now = self.clock.now()
        self.scheduler.add(request, now)
        self.on_arrival(request.id, now)
        detokenizer = Detokenizer(self.tokenizer, stop=request.params.stop, continues=True)
        self._streams[request.id] = _Stream(deliver, detokenizer)

    def abort(self, request_id: str) -> None:
        """End a request; it gets a last delta if it had not ended."""
        if self.scheduler.abort(request_id):
            self._deliver(self.scheduler.take_outputs())

    def step(self) -> bool:
        """Compute one plan; whether there was one."""
        plan = self.scheduler.schedule(self.clock.now())
        if not plan.parts:
            if plan.finished:
                self.executor.run(plan)
            self._deliver(self.scheduler.take_outputs())
            return False
        try:
            result = self.executor.run(plan)
        except Exception as error:
            _log.exception("step %d failed", plan.number)
            why = str(error) if isinstance(error, TidemillError) else type(error).__name__
            self._deliver(self.scheduler.fail(plan, why, self.clock.now()))
            return True
        self.steps += 1
        self.step_tokens += plan.tokens
        self._deliver(self.scheduler.commit(plan, result, self.clock.now()))
        return True

    def _deliver(self, outputs: Sequence[Output]) -> None:
        now = self.clock.now()
        for output in outputs:
            self.on_output(output, now)
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


@dataclass(slots=True)
class _Inbox:
    """Commands from other threads, done between steps."""

    ready: threading.Condition = field(default_factory=threading.Condition)
    commands: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    stopping: bool = False

    def put(self, command: Callable[[], None]) -> None:
        with self.ready:
            self.commands.append(command)
            self.ready.notify()

    def take(self, wait: bool) -> list[Callable[[], None]]:
        with self.ready:
            while wait and not self.commands and not self.stopping:
                self.ready.wait()
            taken, self.commands = self.commands, []
            return taken


class EngineThread:
    """An engine in a thread of its own, whose native steps hold no GIL."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._inbox = _Inbox()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether it takes no requests any more."""
        return self._closed

    def call(self, command: Callable[[], None]) -> None:
        """Have ``command`` done in the engine's thread, between two steps.

        Raises:
            EngineStopped: it takes none any more.
        """
        if self._closed:
            raise EngineStopped("engine — is shutting down; send the request to another server.")
        self._inbox.put(command)

    def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests, finish those that run within ``grace_s``, abort the rest."""
        self._closed = True
        inbox = self._inbox
        with inbox.ready:
            inbox.stopping = True
            inbox.ready.notify()
        self._thread.join(grace_s)
        if self._thread.is_alive():
            inbox.put(self._abort_all)
            self._thread.join()

    def _run(self) -> None:
        core, inbox = self.core, self._inbox
        while True:
            for command in inbox.take(wait=not core.scheduler.busy):
                command()
            if not core.step() and inbox.stopping and not core.scheduler.busy:
                return

    def _abort_all(self) -> None:
        scheduler = self.core.scheduler
        for tracked in [*scheduler.running, *scheduler.waiting]:
            self.core.abort(tracked.request.id)
