"""How long a step takes, for who must know beforehand: chunk sizes, and simulation."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from tidemill.errors import ConfigError, CorruptFile
from tidemill.serve.types import StepPlan


class CostModel(Protocol):
    """Seconds of a step, from its shape alone."""

    @property
    def status(self) -> str:
        """``measured`` if it was fitted on real steps of this machine, else ``modelled``."""
        ...

    def step_s(self, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        """Seconds of a step.

        Args:
            prefill_tokens: New tokens of sequences that get more than one.
            decodes: Sequences that get just one.
            context_tokens: Tokens already cached that all of them attend to.
        """
        ...


def shape_of(plan: StepPlan) -> tuple[int, int, int]:
    """Prefill tokens, decodes and context tokens of a plan."""
    many = sum(len(part.ids) for part in plan.parts if len(part.ids) > 1)
    single = sum(1 for part in plan.parts if len(part.ids) == 1)
    return many, single, sum(part.start for part in plan.parts)


@dataclass(frozen=True, slots=True)
class Roofline:
    """A device by its two ceilings: each part of a step takes the longer of computing and reading.

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

    @property
    def status(self) -> str:
        """It is a model."""
        return "modelled"

    def step_s(self, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        """As ``CostModel``."""
        tokens = prefill_tokens + decodes
        if tokens == 0:
            return 0.0
        compute = 2 * self.weights * tokens / self.flops
        reading = (self.weight_bytes + self.kv_bytes * context_tokens) / self.bandwidth
        return self.launch_s + max(compute, reading)


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """Interpolated from steps that were timed: by tokens, plus a slope for the context.

    Between two counts it is linear, beyond the last it goes on as between the last two.
    """

    tokens: tuple[int, ...]
    """Increasing, from 1."""
    seconds: tuple[float, ...]
    """Of a step with so many tokens and little context."""
    context_s: float
    """Seconds per token of context."""

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 or len(self.tokens) != len(self.seconds):
            raise ConfigError.of("tokens", self.tokens, "two counts or more, with as many seconds")
        if self.tokens[0] != 1 or any(
            a >= b for a, b in zip(self.tokens, self.tokens[1:], strict=False)
        ):
            raise ConfigError.of("tokens", self.tokens, "increasing from 1")
        if min(*self.seconds, self.context_s) < 0:
            raise ConfigError.of("seconds", self.seconds, "at least 0")

    @property
    def status(self) -> str:
        """It was measured."""
        return "measured"

    def step_s(self, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        """As ``CostModel``."""
        count = prefill_tokens + decodes
        if count == 0:
            return 0.0
        at = min(max(bisect.bisect_left(self.tokens, count), 1), len(self.tokens) - 1)
        (low, high), (below, above) = self.tokens[at - 1 : at + 1], self.seconds[at - 1 : at + 1]
        base = below + (above - below) * (count - low) / (high - low)
        return max(base, 0.0) + self.context_s * context_tokens

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        fields = {"tokens": self.tokens, "seconds": self.seconds, "context_s": self.context_s}
        path.write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> MeasuredSteps:
        """Read what ``save`` wrote.

        Raises:
            CorruptFile: it is something else.
        """
        try:
            fields = cast(
                "dict[str, Sequence[float]]", json.loads(path.read_text(encoding="utf-8"))
            )
            return cls(
                tuple(int(count) for count in fields["tokens"]),
                tuple(float(seconds) for seconds in fields["seconds"]),
                float(cast("float", fields["context_s"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(
                f"{path} — is not a table of step times ({error}); make one with `tidemill "
                "replay --calibrate`."
            ) from error
