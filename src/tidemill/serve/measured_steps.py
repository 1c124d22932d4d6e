"""How long steps take that were timed: tables, and lines between their entries."""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, CorruptFile
from tidemill.serve.cost import StepShape

Table = tuple[tuple[int, float], ...]
"""Counts, increasing, each with its seconds."""


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """A step costs what its tokens, its draws and its attention cost, each as it was timed.

    Between two counts of a table it is linear; beyond the last it goes on as between the last two.
    """

    tokens: Table
    """Layers: seconds of a step of so many tokens that attend to next to nothing."""
    samples: Table = ((0, 0.0), (1, 0.0))
    """The head, and what is done with the tokens it draws: seconds of so many draws, from 0."""
    context_s: float = 0.0
    """Seconds to read a cached token once."""
    pair_s: float = 0.0
    """Seconds of attention for a token and one that it attends to."""
    kv_tokens: int = 1 << 20
    """Tokens whose keys and values there is room for."""
    max_num_seqs: int = 8
    """Of the engine that was timed."""
    max_num_batched_tokens: int = 256
    """Of the engine that was timed."""
    about: str = ""
    """What was timed."""

    def __post_init__(self) -> None:
        for name, first in (("tokens", 1), ("samples", 0)):
            table: Table = getattr(self, name)
            counts = [count for count, _ in table]
            rising = all(a < b for a, b in itertools.pairwise(counts))
            if len(table) < 2 or counts[0] != first or not rising:
                raise ConfigError.of(name, table, f"two counts or more, increasing from {first}")
            if not all(0 <= seconds < math.inf for _, seconds in table):
                raise ConfigError.of(name, table, "seconds, at least 0")
        for name in ("context_s", "pair_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError.of(name, getattr(self, name), "seconds, at least 0")

    @property
    def status(self) -> str:
        """It was measured."""
        return "measured"

    def step_s(self, shape: StepShape) -> float:
        """As ``CostModel``."""
        count = shape.prefill_tokens + shape.decodes
        if count == 0:
            return 0.0
        base = _between(self.tokens, count) + _between(self.samples, shape.samples)
        return base + (self.context_s * shape.context_tokens + self.pair_s * shape.pairs)

    def decodes_s(self, decodes: int, context_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """As ``CostModel``."""
        base = _between(self.tokens, decodes) + _between(self.samples, decodes)
        pairs = context_tokens + decodes
        return base + (self.context_s * context_tokens + self.pair_s * pairs)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> MeasuredSteps:
        """Read what ``save`` wrote.

        Raises:
            CorruptFile: it is something else.
        """
        try:
            found: object = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, Mapping):
                raise ValueError("no JSON object")
            fields = dict(cast("Mapping[str, Any]", found))
            for name in ("tokens", "samples"):
                fields[name] = _table(fields[name])
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptFile(
                f"{path} — is not a table of step times ({error}); make one with `tidemill "
                "calibrate`."
            ) from error


def _table(rows: Sequence[Sequence[float]]) -> Table:
    return tuple((int(count), float(seconds)) for count, seconds in rows)


def _between(table: Table, count: int) -> float:
    at = min(max(bisect.bisect_left(table, (count,)), 1), len(table) - 1)
    (low, below), (high, above) = table[at - 1 : at + 1]
    return max(below + (above - below) * (count - low) / (high - low), 0.0)
