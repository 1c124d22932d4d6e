"""Two servers under the same open-loop load, from light to as much as the first one can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.bench.claim import Json, Measurement
from tidemill.bench.trial import Progress
from tidemill.serve.events import EventLog
from tidemill.serve.traces import Arrival, Bursts

GOOD_TTFT_S, GOOD_TPOT_S = 2.0, 0.1
"""A request within both counts for the goodput."""
_RESAMPLES = 1000


class LoadSizes(Protocol):
    """How much is sent."""

    @property
    def prompt(self) -> int:
        """Tokens of each."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens of each answer."""
        ...

    @property
    def load_requests(self) -> int:
        """In a round."""
        ...

    @property
    def load_rounds(self) -> int:
        """Each with other arrivals; both sides get the same."""
        ...


@dataclass(slots=True)
class LoadPoint:
    """What was seen of each side at one rate of requests."""

    share: float
    """Of what our server can do."""
    rate: float
    """Requests per second."""
    logs: dict[str, list[EventLog]] = field(default_factory=dict[str, "list[EventLog]"])

    def ttft_s(self, side: str) -> list[list[float]]:
        """By request; one of each."""
        return [[item.ttft_s or 0.0] for log in self.logs[side] for item in log]

    def itl_s(self, side: str) -> list[list[float]]:
        """By request."""
        return [item.itl_s for log in self.logs[side] for item in log]

    def goodput(self, side: str) -> float:
        """Requests per second that end within both limits."""
        logs = self.logs[side]
        return self.rate * float(np.mean([log.goodput(GOOD_TTFT_S, GOOD_TPOT_S) for log in logs]))


def measure_point(
    sides: Mapping[str, Callable[[Sequence[Arrival]], EventLog]],
    point: LoadPoint,
    sizes: LoadSizes,
    progress: Progress,
) -> LoadPoint:
    """Send the same random arrivals to all sides, one after the other, round by round."""
    for turn in range(sizes.load_rounds):
        bursts = Bursts(point.rate, sizes.load_requests, seed=turn)
        arrivals = [
            Arrival(each.arrival_s, sizes.prompt, sizes.tokens) for each in bursts.arrivals()
        ]
        for name in sorted(sides, reverse=turn % 2 == 0):
            point.logs.setdefault(name, []).append(sides[name](arrivals))
            progress.advance(turn + 1, sizes.load_rounds, f"rounds at {point.share:.0%}")
    return point


def figures(
    points: Sequence[LoadPoint], subject: str, baseline: str, settings: Mapping[str, Json]
) -> list[Measurement]:
    """The worst ratios of p99 TTFT and ITL, and what all points gave."""
    detail: dict[str, Json] = {
        "points": [_told(point) for point in points],
        "good_ttft_s": GOOD_TTFT_S,
        "good_tpot_s": GOOD_TPOT_S,
        "settings": dict(settings),
    }
    found: list[Measurement] = []
    for claim, of in (("load-ttft", LoadPoint.ttft_s), ("load-itl", LoadPoint.itl_s)):
        ratios = [_ratio(of(point, subject), of(point, baseline)) for point in points]
        value, low, high = max(ratios)
        found.append(
            Measurement(
                claim=claim, value=value, low=low, high=high,
                repeats=sum(len(log) for log in points[0].logs[subject]), subject=subject,
                baseline=baseline, detail={**detail, "ratios": cast("Json", ratios)},
            )
        )  # fmt: skip
    return found


def _told(point: LoadPoint) -> Json:
    sides: dict[str, Json] = {}
    for name, logs in point.logs.items():
        ttft, itl = _flat(point.ttft_s(name)), _flat(point.itl_s(name))
        sides[name] = {
            "ttft_s": _cuts(ttft),
            "itl_s": _cuts(itl),
            "goodput": point.goodput(name),
            "summaries": [cast("Json", asdict(log.summary())) for log in logs],
        }
    return {"share": point.share, "rate": point.rate, "sides": sides}


def _cuts(values: NDArray[np.float64]) -> Json:
    return {f"p{cut}": float(np.percentile(values, cut)) for cut in (50, 90, 99)}


def _flat(groups: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array([value for group in groups for value in group])


def _ratio(ours: list[list[float]], theirs: list[list[float]]) -> tuple[float, float, float]:
    """Of both p99, with an interval from resampling requests."""
    draw = np.random.default_rng(0)

    def resampled(groups: list[list[float]]) -> NDArray[np.float64]:
        picks = draw.integers(len(groups), size=(_RESAMPLES, len(groups)))
        rows = ([groups[int(index)] for index in row] for row in picks)
        return np.array([np.percentile(_flat(row), 99) for row in rows])

    value = float(np.percentile(_flat(ours), 99) / np.percentile(_flat(theirs), 99))
    low, high = np.percentile(resampled(ours) / resampled(theirs), (2.5, 97.5))
    return value, min(float(low), value), max(float(high), value)
