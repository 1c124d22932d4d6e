"""An engine in a thread of its own, whose native steps hold no GIL."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

from tidemill.errors import ResourceError, TidemillError
from tidemill.serve.engine import EngineCore
from tidemill.serve.messages import Abort, Add, Batch, Close, Command, Delta, Load, Refusal

_log = logging.getLogger("tidemill.serve")
_HELD_BACK_S = 0.005
"""How long to wait when policies let no request on; a command ends the wait."""


class EngineStopped(ResourceError):
    """The engine takes no requests any more."""


class _Inbox:
    """Commands from other threads, done between steps."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._commands: list[Command] = []

    def put(self, command: Command) -> None:
        with self._ready:
            self._commands.append(command)
            self._ready.notify()

    def take(self, most_s: float | None) -> list[Command]:
        """What came; nothing after ``most_s``."""
        with self._ready:
            if not self._commands and most_s != 0:
                self._ready.wait(most_s)
            taken, self._commands = self._commands, []
            return taken


class EngineThread:
    """Does commands between steps, and tells of each step once.

    Args:
        core: The engine; only this thread uses it from now on.
        emit: Called with what there is to tell, from this thread; must not block.
        on_end: Called at the end, from this thread, with what ended it if it should not have.
    """

    def __init__(
        self,
        core: EngineCore,
        emit: Callable[[Batch], None],
        on_end: Callable[[Exception | None], None] = lambda error: None,
    ) -> None:
        self.core = core
        self._emit, self._on_end = emit, on_end
        self._inbox = _Inbox()
        self._answers: dict[str, Refusal | None] = {}
        self._deltas: dict[str, Delta] = {}
        self._told = Load()
        self._end_s = math.inf
        """When the grace is over, once it is to end."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        """Have ``command`` done between two steps, in order; from any thread. O(1)."""
        self._inbox.put(command)

    def close(self, grace_s: float = 0.0) -> None:
        """Have it closed as ``Close`` says, and wait for its end."""
        self.send(Close(grace_s))
        self._thread.join()

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            self._loop()
        except Exception as error:
            _log.exception("the engine failed")
            failure = error
        self._on_end(failure)

    def _loop(self) -> None:
        core, held_back = self.core, False
        while True:
            for command in self._inbox.take(self._patience_s(held_back)):
                self._do(command)
            if core.clock.now() >= self._end_s:
                core.abort_all()
            self._tell()
            held_back = not core.step()
            self._tell()
            if held_back and self._end_s < math.inf and not core.scheduler.busy:
                return

    def _patience_s(self, held_back: bool) -> float | None:
        """How long to wait for commands."""
        if self.core.scheduler.busy:
            return _HELD_BACK_S if held_back else 0
        return None if self._end_s == math.inf else 0

    def _do(self, command: Command) -> None:
        if isinstance(command, Add):
            self._add(command)
        elif isinstance(command, Abort):
            self.core.abort(command.request_id)
        else:
            self._end_s = min(self._end_s, self.core.clock.now() + command.grace_s)

    def _add(self, command: Add) -> None:
        request = command.request
        try:
            if self._end_s < math.inf:
                raise EngineStopped("engine — is shutting down; send it to another server.")
            self.core.add(request, lambda delta: self._gather(request.id, delta))
        except TidemillError as error:
            self._answers[request.id] = Refusal.of(error)
        else:
            self._answers[request.id] = None

    def _gather(self, name: str, delta: Delta) -> None:
        before = self._deltas.get(name)
        self._deltas[name] = before.then(delta) if before else delta

    def _tell(self) -> None:
        load = self._load()
        if not self._answers and not self._deltas and load == self._told:
            return
        batch = Batch(self._answers, self._deltas, load)
        self._answers, self._deltas, self._told = {}, {}, load
        self._emit(batch)

    def _load(self) -> Load:
        core = self.core
        scheduler = core.scheduler
        return Load(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            kv_usage=scheduler.pool.held / scheduler.pool.capacity,
            preemptions=scheduler.preemptions,
            policy_errors=scheduler.policy_errors,
            steps=core.steps,
        )
