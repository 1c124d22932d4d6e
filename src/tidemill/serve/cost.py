"""How long a step takes, for who must know beforehand: chunk sizes, and simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill.serve.types import StepPlan


class StepShape(NamedTuple):
    """What of a step decides how long it takes."""

    prefill_tokens: int = 0
    """New tokens of sequences that get more than one."""
    decodes: int = 0
    """Sequences that get just one."""
    context_tokens: int = 0
    """Tokens cached before the step that it reads, once for each sequence."""
    pairs: int = 0
    """Of a new token and one that it attends to, itself included."""
    samples: int = 0
    """Sequences whose next token is drawn."""

    def with_part(self, tokens: int, start: int, samples: bool) -> StepShape:
        """With a part of ``tokens`` after ``start`` cached ones."""
        return StepShape(
            self.prefill_tokens + (tokens if tokens > 1 else 0),
            self.decodes + (tokens == 1),
            self.context_tokens + start,
            self.pairs + pairs_of(tokens, start),
            self.samples + samples,
        )


def pairs_of(tokens: int, start: int) -> int:
    """Pairs of a token and one it attends to, of ``tokens`` after ``start`` cached ones."""
    return tokens * start + tokens * (tokens + 1) // 2


class CostModel(Protocol):
    """Seconds of a step, from its shape alone."""

    @property
    def status(self) -> str:
        """``measured`` if it was fitted on real steps of this machine, else ``modelled``."""
        ...

    def step_s(self, shape: StepShape) -> float:
        """Seconds of a step."""
        ...

    def decodes_s(self, decodes: int, context_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of steps that draw a token for each of ``decodes`` sequences and do no more.

        Bit for bit what ``step_s`` says of each.
        """
        ...


def shape_of(plan: StepPlan) -> StepShape:
    """The shape of a plan."""
    prefill = decodes = context = pairs = samples = 0
    for part in plan.parts:
        count, start = len(part.ids), part.start
        context += start
        samples += part.samples
        if count == 1:
            decodes += 1
            pairs += start + 1
        else:
            prefill += count
            pairs += pairs_of(count, start)
    return StepShape(prefill, decodes, context, pairs, samples)


@dataclass(frozen=True, slots=True)
class Roofline:
    """A device by its two ceilings: each step takes the longer of computing and reading.

    All defaults are of no device: name them.
    """

    flops: float
    """Floating-point operations per second that are reached."""
    bandwidth: float
    """Bytes per second that are reached."""
    weights: float
    """Parameters that every token multiplies with."""
    weight_bytes: float
    """Bytes of them that a step reads."""
    kv_bytes: float
    """Bytes of keys and values per token."""
    launch_s: float = 0.0
    """Seconds a step takes besides."""
    pair_flops: float = 0.0
    """Operations of attention for a token and one that it attends to."""

    @property
    def status(self) -> str:
        """It is a model."""
        return "modelled"

    def step_s(self, shape: StepShape) -> float:
        """As ``CostModel``."""
        tokens = shape.prefill_tokens + shape.decodes
        if tokens == 0:
            return 0.0
        work = 2 * self.weights * tokens + self.pair_flops * shape.pairs
        reading = (self.weight_bytes + self.kv_bytes * shape.context_tokens) / self.bandwidth
        return self.launch_s + max(work / self.flops, reading)

    def decodes_s(self, decodes: int, context_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """As ``CostModel``."""
        work = 2 * self.weights * decodes + self.pair_flops * (context_tokens + decodes)
        reading = (self.weight_bytes + self.kv_bytes * context_tokens) / self.bandwidth
        return self.launch_s + np.maximum(work / self.flops, reading)
