"""Figures of many parts that err alike with their neighbours, with intervals: blocks are resampled.

`compare` resamples rounds of a race; here the parts are tokens, layers or questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from tidemill.bench.claim import Json, Measurement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, its 95 % interval, and on how many independent parts it rests."""

    value: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, value: float, resampled: F64, repeats: int) -> Self:
        """From the same figure of resampled parts."""
        import numpy as np

        low, high = (float(x) for x in np.quantile(resampled, [0.025, 0.975]))
        return cls(value, min(low, value), max(high, value), repeats)

    @classmethod
    def of_mean(cls, parts: F64) -> Self:
        """Of the mean of ``parts``."""
        return cls.of(float(parts.mean()), parts[_drawn(len(parts))].mean(axis=1), len(parts))

    @classmethod
    def of_ratio(cls, top: F64, bottom: F64, block: int) -> Self:
        """Of the ratio of the means of two aligned series, ``block`` neighbours drawn together."""
        one, two = blocks(top, block), blocks(bottom, block)
        draws = _drawn(len(one))
        resampled = one[draws].mean(axis=1) / two[draws].mean(axis=1)
        return cls.of(float(one.mean() / two.mean()), resampled, max(1, len(top) // block))

    @classmethod
    def of_exp(cls, gap: F64, block: int) -> Self:
        """Of exp of the mean of a series: from the gap of two losses, the ratio of perplexities."""
        import numpy as np

        parts = blocks(gap, block)
        resampled: F64 = np.exp(parts[_drawn(len(parts))].mean(axis=1))
        return cls.of(math.exp(float(parts.mean())), resampled, max(1, len(gap) // block))

    def measurement(
        self, claim: str, *, subject: str, baseline: str, detail: dict[str, Json]
    ) -> Measurement:
        """As the answer to ``claim``."""
        made = Measurement(
            claim=claim, value=self.value, low=self.low, high=self.high, repeats=self.repeats
        )
        return replace(made, subject=subject, baseline=baseline, detail=detail)


def blocks(values: F64, block: int) -> F64:
    """Means of whole blocks of neighbours; of fewer values than one block, the values."""
    whole = len(values) // block * block
    if not whole:
        return values
    means: F64 = values[:whole].reshape(-1, block).mean(axis=1)
    return means


def _drawn(count: int) -> NDArray[np.int64]:
    import numpy as np

    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
