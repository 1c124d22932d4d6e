"""A run as its events tell it: the stage it is in, its curves, its log, its figures, its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.bench.claim import Json
from tidemill.bench.events import Event

CURVE_POINTS = 400
"""A curve keeps at most twice as many points, then every second one goes."""
LOG_LINES = 200
_REPORT: dict[str, Json] = {"headline": {}, "facts": {}, "timings": {}, "tables": [], "charts": {}}


@dataclass(slots=True)
class Curve:
    """One metric over the run's time.

    Args:
        name: Of the metric.
        unit: Of its values.
        points: (seconds since the first event, value).
    """

    name: str
    unit: str
    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def add(self, seconds: float, value: float) -> None:
        """Append a reading; a long curve is thinned out, its last point stays."""
        self.points.append((seconds, value))
        if len(self.points) > 2 * CURVE_POINTS:
            self.points = self.points[1::2]

    @property
    def times(self) -> tuple[float, float]:
        """First and last time; zeros for a curve without points."""
        return _bounds([point[0] for point in self.points])

    @property
    def values(self) -> tuple[float, float]:
        """Smallest and largest value; zeros for a curve without points."""
        return _bounds([point[1] for point in self.points])

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1]

    @property
    def view_box(self) -> str:
        """The part of the plane that an ``<svg>`` shows; a flat curve lies in its middle."""
        (left, right), (low, high) = self.times, self.values
        height = (high - low) or abs(high) or 1.0
        top = high if high > low else high + height / 2
        return f"{left:g} {-top:.6g} {(right - left) or 1:.6g} {height:.6g}"

    @property
    def path(self) -> str:
        """The points as ``x,y`` pairs with y turned over, as an ``<svg>`` has it."""
        return " ".join(f"{seconds:.6g},{-value:.6g}" for seconds, value in self.points)


@dataclass(slots=True)
class TrialTrace:
    """One trial of a run: its name, where it stands, how it ended."""

    name: str
    outcome: str = ""
    error: str = ""
    seconds: float | None = None
    peak_rss_bytes: int = 0


@dataclass(slots=True)
class Trace:
    """What a run's events add up to.

    ``cut`` names what was too long for an event: "detail of lift", "charts".
    """

    last_id: int = 0
    started: str = ""
    stage: str = ""
    trial: str = ""
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    curves: dict[str, Curve] = field(default_factory=dict[str, Curve])
    log: list[str] = field(default_factory=list[str])
    trials: dict[str, TrialTrace] = field(default_factory=dict[str, TrialTrace])
    measurements: list[Mapping[str, Json]] = field(default_factory=list[Mapping[str, Json]])
    report: Mapping[str, Json] | None = None
    cut: list[str] = field(default_factory=list[str])
    end: str = ""
    error: str = ""

    @classmethod
    def of(cls, events: Iterable[Event]) -> Trace:
        """Add up ``events``; kinds that are not known are passed over."""
        trace = cls()
        for event in events:
            trace.started = trace.started or event.t
            trace.last_id = event.id
            trace._take(event)
        return trace

    def _take(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case "stage":
                self.stage, self.trial = _text(data, "name"), _text(data, "trial")
                self.done = self.total = 0.0
            case "progress":
                self.done, self.total = _number(data, "done"), _number(data, "total")
                self.unit = _text(data, "unit")
            case "metric":
                name = _text(data, "name")
                curve = self.curves.setdefault(name, Curve(name, _text(data, "unit")))
                curve.add(_seconds(self.started, event.t), _number(data, "value"))
            case "log":
                self.log = [*self.log, _text(data, "text")][-LOG_LINES:]
            case "measurement":
                self.measurements.append(data)
                if cut := _text(data, "cut"):
                    self.cut.append(f"{cut} of {_text(data, 'claim')}")
            case "report":
                self.report = _REPORT | {name: v for name, v in data.items() if v is not None}
                if cut := _text(data, "cut"):
                    self.cut.append(cut)
            case "trial":
                self._take_trial(data)
            case "end":
                self.end, self.error = _text(data, "state"), _text(data, "error")
            case _:
                pass

    def _take_trial(self, data: Mapping[str, Json]) -> None:
        trial = self.trials.setdefault(_text(data, "name"), TrialTrace(_text(data, "name")))
        if data.get("state") == "ended":
            trial.outcome, trial.error = _text(data, "outcome"), _text(data, "error")
            trial.seconds = _number(data, "seconds")
            trial.peak_rss_bytes = int(_number(data, "peak_rss_bytes"))


def _bounds(numbers: list[float]) -> tuple[float, float]:
    return (min(numbers), max(numbers)) if numbers else (0.0, 0.0)


def _text(data: Mapping[str, Json], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _number(data: Mapping[str, Json], name: str) -> float:
    value = data.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _seconds(start: str, moment: str) -> float:
    try:
        passed = datetime.fromisoformat(moment) - datetime.fromisoformat(start)
    except ValueError:
        return 0.0
    return round(passed.total_seconds(), 3)
