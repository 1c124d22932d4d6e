"""Rates of rare events, counted: the exact intervals that a share of so many queries allows.

To counts what `tidemill.bench.compare` is to times. Queries (draws, packets, attempts) must be
independent of one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidemill.bench.claim import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DRAWS = 100_000


@dataclass(frozen=True, slots=True)
class Count:
    """So many hits in so many independent queries."""

    hits: int
    queries: int

    def __add__(self, other: Count) -> Count:
        return Count(self.hits + other.hits, self.queries + other.queries)

    @property
    def rate(self) -> float:
        """Share of the queries that hit."""
        return self.hits / self.queries

    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the rate (Garwood 1936: rare hits are Poisson)."""
        low = _quantile(_gamma(self.hits), 0.025)
        high = _quantile(_gamma(self.hits + 1), 0.975)
        return low / self.queries, high / self.queries

    def times_below(self, other: Count) -> tuple[float, float, float]:
        """How many times lower than ``other``'s this rate is, with the exact 95 % interval.

        The interval follows from Clopper and Pearson's for the share of all hits that are the
        other's. Where nothing hit here, one hit stands in: the least that can be said.
        """
        mine, its = max(1, self.hits), other.hits
        scale = self.queries / other.queries
        low = _quantile(_gamma(its) / _gamma(mine + 1, stream=1), 0.025)
        high = _quantile(_gamma(its + 1) / _gamma(mine, stream=1), 0.975)
        return scale * its / mine, scale * low, scale * high

    def to_json(self) -> dict[str, Json]:
        """Hits, queries, the rate and its interval."""
        low, high = self.interval()
        return {
            "hits": self.hits,
            "queries": self.queries,
            "rate": self.rate,
            "low": low,
            "high": high,
        }


def _gamma(shape: float, stream: int = 0) -> NDArray[np.float64]:
    """Seeded draws whose quantiles are the exact limits, to half a percent, without scipy."""
    import numpy as np

    return np.random.default_rng([_DRAWS, stream]).standard_gamma(shape, _DRAWS)


def _quantile(draws: NDArray[np.float64], share: float) -> float:
    import numpy as np

    return float(np.quantile(draws, share))
