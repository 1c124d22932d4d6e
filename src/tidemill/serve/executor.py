"""Who computes a plan: a Protocol, and one that only knows how long it would take."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import xxhash
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.serve.clock import Clock
from tidemill.serve.cost import CostModel, shape_of
from tidemill.serve.types import Request, Sampled, StepPlan, StepResult

Ticket: TypeAlias = "Future[StepResult]"


class Executor(Protocol):
    """Computes plans, one after the other, each on the blocks that it names."""

    def run(self, plan: StepPlan) -> StepResult:
        """Compute all parts of ``plan``; an error means that none of its tokens can be used.

        The state of ``plan.finished`` may be dropped. ``end_s`` of the result may be in the future:
        then the tokens are there only at that time.
        """
        ...


@runtime_checkable
class Pipeline(Protocol):
    """Plans on their way through an executor: given in one after the other, taken out in order."""

    @property
    def depth(self) -> int:
        """Plans that may be under way. 1: each is computed before the next is made."""
        ...

    def submit(self, plan: StepPlan) -> Ticket:
        """Give a plan in; it begins when those before it are done."""
        ...

    def poll(self, ticket: Ticket) -> bool:
        """Whether it is done, so that ``wait`` would not wait."""
        ...

    def wait(self, ticket: Ticket) -> StepResult:
        """What came of it, or the error that ``Executor.run`` raised."""
        ...

    def close(self) -> None:
        """Wait for what is under way, and take nothing more."""
        ...


class Inline:
    """Computes a plan when it is given in."""

    depth = 1

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, plan: StepPlan) -> Ticket:
        """As ``Pipeline``; returns when the plan is computed."""
        ticket: Ticket = Future()
        try:
            ticket.set_result(self._executor.run(plan))
        except Exception as error:
            ticket.set_exception(error)
        return ticket

    def poll(self, ticket: Ticket) -> bool:
        """As ``Pipeline``."""
        return ticket.done()

    def wait(self, ticket: Ticket) -> StepResult:
        """As ``Pipeline``."""
        return ticket.result()

    def close(self) -> None:
        """As ``Pipeline``."""


class Threaded:
    """Computes plans in a thread of its own, while others are made and told of."""

    def __init__(self, executor: Executor, depth: int = 2) -> None:
        """A pipeline of ``depth``.

        Raises:
            ConfigError: it is not positive.
        """
        if depth < 1:
            raise ConfigError.of("depth", depth, "at least 1")
        self.depth = depth
        self._executor = executor
        self._thread = ThreadPoolExecutor(1, "executor")

    def submit(self, plan: StepPlan) -> Ticket:
        """As ``Pipeline``."""
        return self._thread.submit(self._executor.run, plan)

    def poll(self, ticket: Ticket) -> bool:
        """As ``Pipeline``."""
        return ticket.done()

    def wait(self, ticket: Ticket) -> StepResult:
        """As ``Pipeline``."""
        return ticket.result()

    def close(self) -> None:
        """As ``Pipeline``."""
        self._thread.shutdown()


class SimExecutor:
    """Steps that take as long as a cost model says, on a clock that somebody else advances.

    Tokens are drawn from a hash of the request and the position; how long a text gets is up to
    ``max_tokens`` and ``ignore_eos``.
    """

    def __init__(self, cost: CostModel, clock: Clock, vocab_size: int = 32_000) -> None:
        self.cost, self._clock, self._vocab = cost, clock, vocab_size

    def __repr__(self) -> str:
        return f"SimExecutor({self.cost!r}, {self.cost.status})"

    def run(self, plan: StepPlan) -> StepResult:
        """As ``Executor``."""
        start = self._clock.now()
        sampled = {
            part.request.id: Sampled(_mixed(_seed(part.request) + part.outputs) % self._vocab)
            for part in plan.parts
            if part.samples
        }
        end = start + self.cost.step_s(shape_of(plan))
        return StepResult(sampled, start_s=start, end_s=end)

    def decode_ends(self, decodes: int, context_tokens: int, steps: int) -> NDArray[np.float64]:
        """When each of the next steps would end that draw one token for each of ``decodes``.

        ``context_tokens`` are cached before the first, one more for each request in every step.
        """
        contexts = context_tokens + decodes * np.arange(steps)
        times = np.empty(steps + 1)
        times[0], times[1:] = self._clock.now(), self.cost.decodes_s(decodes, contexts)
        return np.add.accumulate(times)[1:]

    def draw(self, requests: Sequence[tuple[Request, int]], steps: int) -> list[list[int]]:
        """The tokens that those steps would draw for each request, which has so many outputs."""
        seeds = np.array([_seed(request) + made for request, made in requests], np.uint64)
        mixed = _mixed_all(seeds[:, None] + np.arange(steps, dtype=np.uint64))
        return (mixed % np.uint64(self._vocab)).tolist()


_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ALL = (1 << 64) - 1


def _seed(request: Request) -> int:
    """63 bits, so that outputs can be added to them."""
    return xxhash.xxh3_64_intdigest(f"{request.params.seed}/{request.id}".encode()) >> 1


def _mixed(number: int) -> int:
    """What SplitMix64 makes of a state."""
    number = (number ^ (number >> 30)) * _FACTORS[0] & _ALL
    number = (number ^ (number >> 27)) * _FACTORS[1] & _ALL
    return number ^ (number >> 31)


def _mixed_all(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    first, second = (np.uint64(factor) for factor in _FACTORS)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * first
    numbers = (numbers ^ (numbers >> np.uint64(27))) * second
    return numbers ^ (numbers >> np.uint64(31))
