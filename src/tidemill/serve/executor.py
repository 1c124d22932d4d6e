"""Who computes a plan: a Protocol, and one that only knows how long it would take."""

from __future__ import annotations

from typing import Protocol

import xxhash

from tidemill.serve.clock import Clock
from tidemill.serve.cost import CostModel, shape_of
from tidemill.serve.types import Part, Sampled, StepPlan, StepResult


class Executor(Protocol):
    """Computes plans, one after the other, each on the blocks that it names."""

    def run(self, plan: StepPlan) -> StepResult:
        """Compute all parts of ``plan``; an error means that none of its tokens can be used.

        The state of ``plan.finished`` may be dropped. ``end_s`` of the result may be in the future:
        then the tokens are there only at that time.
        """
        ...


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
            part.request.id: Sampled(self._token(part)) for part in plan.parts if part.samples
        }
        end = start + self.cost.step_s(*shape_of(plan))
        return StepResult(sampled, start_s=start, end_s=end)

    def _token(self, part: Part) -> int:
        name = f"{part.request.params.seed}/{part.request.id}/{part.outputs}"
        return xxhash.xxh3_64_intdigest(name.encode()) % self._vocab
