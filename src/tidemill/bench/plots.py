"""Charts of measurements as Vega-Lite specifications: one grammar for site, documents and README.

Each function returns a plain dict that a browser's Vega-Lite or `drawing.svg` draws. Figures carry
their interval, axes their unit, colours a second sign (shape, dashes or words) for those who cannot
tell them apart. This module knows nothing about where a chart is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from tidemill.bench.claim import Claim, Direction, Json, Measurement, Status, Verdict
from tidemill.bench.drawing import ACCENT, BAD, GOOD, INK, NEUTRAL, PALETTE, QUIET, SCHEMA, png, svg
from tidemill.bench.records import Record
from tidemill.bench.wording import figure, unit_sign, with_interval, word, wrapped
from tidemill.errors import ConfigError

__all__ = ["Axis", "Series", "bars", "claim_chart", "history_chart", "lines", "png", "svg"]

Spec: TypeAlias = dict[str, Any]

_WIDTH = 560
_COLOURS = {Verdict.YES: GOOD, Verdict.NO: BAD, Verdict.UNCLEAR: NEUTRAL}
_SHAPES = {Status.MEASURED: "circle", Status.EMULATED: "diamond", Status.MODELLED: "triangle-up"}
_DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 3], [8, 3, 2, 3])


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows: its title with the unit, and its scale."""

    title: str
    unit: str = ""
    log: bool = False
    zero: bool = False

    @property
    def label(self) -> str:
        """Title and unit as printed."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; ``low`` and ``high``, if given, are drawn as a band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def claim_chart(
    claims: Sequence[Claim], measurements: Mapping[str, Measurement], language: str = "en"
) -> Spec:
    """All claims of a system, each on a scale of its own: figure and interval against the target.

    Args:
        claims: Of one system, in the order to show.
        measurements: By claim id; a claim without one is shown as not run.
        language: "zh…" or anything else for English.
    """
    rows = [_claim_row(claim, measurements.get(claim.id), language) for claim in claims]
    names = "; ".join(row["description"] for row in rows)
    return {"$schema": SCHEMA, "description": names, "vconcat": rows, "spacing": 22}


def bars(
    comparison: Mapping[str, Json],
    *,
    title: str,
    unit: str = "",
    work_unit: float = 1.0,
) -> Spec:
    """A comparison as bars with intervals, the subject first and in colour.

    Args:
        comparison: `Comparison.to_json`, also found in a measurement's detail.
        title: Of the chart.
        unit: Of the rates drawn ("Mk-mers/s"); the subject's own if left out.
        work_unit: How much of the comparison's work makes one of ``unit`` (1e6).
    """
    sides = cast(list[dict[str, Any]], comparison["sides"])
    unit = unit or str(sides[0].get("unit", "1/s"))  # figures stored before sides had units
    values = [_bar(side, index == 0, work_unit) for index, side in enumerate(sides)]
    ratios = [f"{with_interval(*side['ratio'], unit='x')} {side['name']}" for side in sides[1:]]
    y: Spec = {"field": "side", "type": "nominal", "sort": None, "title": None}
    y["axis"] = {"grid": False, "labelFontSize": 12, "labelLimit": 200}
    x: Spec = {"field": "rate", "type": "quantitative", "title": unit, "axis": {"tickCount": 5}}
    colour: Spec = {"field": "kind", "type": "nominal", "legend": None}
    colour["scale"] = {"domain": ["subject", "baseline"], "range": [ACCENT, NEUTRAL]}
    return {
        "$schema": SCHEMA,
        "description": f"{title}: " + ", ".join(f"{v['side']} {v['label']} {unit}" for v in values),
        "title": {"text": title, "subtitle": ratios},
        "width": _WIDTH - 150,
        "height": {"step": 38},
        "data": {"values": values},
        "encoding": {"y": y},
        "layer": [
            {
                "mark": {"type": "bar", "height": 20, "cornerRadiusEnd": 3, "opacity": 0.4},
                "encoding": {"x": x, "color": colour},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 4, "strokeCap": "round"},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative"},
                    "x2": {"field": "high"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 12},
                "encoding": {
                    "x": {"field": "high", "type": "quantitative"},
                    "text": {"field": "label"},
                },
            },
        ],
    }


def lines(series: Sequence[Series], *, title: str, x: Axis, y: Axis) -> Spec:
    """Lines over a number, each with its own colour and dashes.

    Args:
        series: One or more lines.
        title: Of the chart.
        x: The horizontal axis.
        y: The vertical axis.
    """
    names = [one.name for one in series]
    points = [
        {"series": one.name, "x": a, "y": b}
        for one in series
        for a, b in zip(one.x, one.y, strict=True)
    ]
    bands = [
        {"series": one.name, "x": a, "low": low, "high": high}
        for one in series
        if one.low
        for a, low, high in zip(one.x, one.low, one.high, strict=True)
    ]
    legend = None if len(series) == 1 else {"title": None}
    across = [value for one in series for value in one.x]
    up = [value for one in series for part in (one.y, one.low, one.high) for value in part]
    encoding: Spec = {
        "x": _quantity("x", x, across),
        "y": _quantity("y", y, up),
        "color": _by_name(names, list(PALETTE), legend),
        "strokeDash": _by_name(names, _dashes(len(names)), legend),
    }
    layers: list[Spec] = []
    if bands:
        band = {key: encoding[key] for key in ("x", "color")}
        band["y"], band["y2"] = _quantity("low", y, up), {"field": "high"}
        mark = {"type": "area", "opacity": QUIET, "line": False}
        layers.append({"data": {"values": bands}, "mark": mark, "encoding": band})
    layers.append(
        {
            "data": {"values": points},
            "mark": {"type": "line", "point": {"size": 28, "filled": True}},
            "encoding": encoding,
        }
    )
    return {
        "$schema": SCHEMA,
        "description": f"{title}: {', '.join(names)}; {y.label} over {x.label}",
        "title": title,
        "width": _WIDTH,
        "height": 260,
        "layer": layers,
    }


def history_chart(claim: Claim, records: Sequence[Record], language: str = "en") -> Spec:
    """One claim over the code's history, oldest first, one colour for each machine.

    Args:
        claim: Whose figures these are.
        records: As `Store.history` gives them, newest first.
        language: "zh…" or anything else for English.
    """
    values = [_past(number, record) for number, record in enumerate(reversed(records))]
    machines = list(dict.fromkeys(value["machine"] for value in values))
    legend = {"title": word("machine", language)} if len(machines) > 1 else None
    x: Spec = {"field": "when", "type": "ordinal", "sort": None}
    x["title"] = word("commit", language)
    labels = "slice(split(datum.label, '|'), 1)"
    x["axis"] = {"labelExpr": labels, "labelAngle": 0, "labelOverlap": True, "grid": False}
    y: Spec = {"field": "value", "type": "quantitative", "title": unit_sign(claim.unit)}
    y["scale"] = {"zero": False, "nice": True}
    colour = {"field": "machine", **_by_name(machines, list(PALETTE), legend, "machine")}
    interval: Spec = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": colour}
    point: Spec = {"x": x, "y": y, "color": colour, "shape": _shape_of_status()}
    target: Spec = {"y": {"datum": claim.target, "type": "quantitative"}}
    statement = claim.statement.in_language(language)
    return {
        "$schema": SCHEMA,
        "description": f"{statement}: {len(values)} × {claim.unit}",
        "title": {"text": wrapped(statement, 84), "subtitle": _target(claim, language)},
        "width": _WIDTH,
        "height": 200,
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "rule", "color": INK, "strokeDash": [4, 3]}, "encoding": target},
            {"mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.6}, "encoding": interval},
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": point,
            },
        ],
    }


def _target(claim: Claim, language: str) -> str:
    sign = "≥" if claim.direction is Direction.AT_LEAST else "≤"
    return f"{word('target', language)} {sign} {figure(claim.target)} {unit_sign(claim.unit)}"


def _claim_row(claim: Claim, found: Measurement | None, language: str) -> Spec:
    statement = claim.statement.in_language(language)
    target = _target(claim, language)
    if found is None:
        told, colour = word(Status.NOT_RUN, language), NEUTRAL
    else:
        verdict = claim.verdict(found)
        shown = with_interval(found.value, found.low, found.high, claim.unit)
        words = (word(verdict, language), word(found.status, language))
        told, colour = " · ".join((shown, *words)), _COLOURS[verdict]
    low, high = _bounds(claim, found)
    good = (claim.target, high) if claim.direction is Direction.AT_LEAST else (low, claim.target)
    datum: Spec = {"left": low, "right": high, "target": claim.target}
    datum |= {"good_from": good[0], "good_to": good[1]}
    if found is not None:
        datum |= {"low": found.low, "high": found.high, "value": found.value}
    return {
        "description": f"{statement}: {told} ({target})",
        "title": {
            "text": wrapped(statement, 84),
            "fontSize": 12,
            "subtitle": f"{told}   ({target})",
            "subtitleColor": colour,
        },
        "width": _WIDTH,
        "height": 22,
        "data": {"values": [datum]},
        "layer": _claim_layers(unit_sign(claim.unit), found, colour, (low, high)),
    }


def _bounds(claim: Claim, found: Measurement | None) -> tuple[float, float]:
    """From a bit below the least to a bit above the most that is drawn."""
    drawn = [claim.target, *((found.low, found.high) if found else ())]
    least, most = min(drawn), max(drawn)
    if 0 <= least < 0.6 * most:
        least = 0.0  # a scale from zero shows how far apart two figures are
    span = (most - least) or abs(most) or 1.0
    return (least if least == 0 else least - 0.12 * span), most + 0.12 * span


def _claim_layers(
    unit: str, found: Measurement | None, colour: str, domain: tuple[float, float]
) -> list[Spec]:
    scale = {"domain": list(domain), "nice": False, "zero": False}
    axis = {"tickCount": 6, "grid": False, "titlePadding": 2, "labelPadding": 5, "title": unit}

    def between(start: str, end: str) -> Spec:
        x = {"field": start, "type": "quantitative", "scale": scale, "axis": axis}
        return {"x": x, "x2": {"field": end}}

    def at(name: str) -> Spec:
        return {"x": between(name, name)["x"]}

    layers: list[Spec] = [
        {
            "mark": {"type": "rect", "color": GOOD, "opacity": QUIET},
            "encoding": between("good_from", "good_to"),
        },
        {
            "mark": {"type": "rule", "color": INK, "opacity": 0.4},
            "encoding": between("left", "right"),
        },
        {"mark": {"type": "rule", "color": INK, "strokeWidth": 2}, "encoding": at("target")},
    ]
    if found is None:
        return layers
    line: Spec = {"type": "rule", "color": colour, "strokeWidth": 6, "strokeCap": "round"}
    point: Spec = {"type": "point", "filled": True, "color": colour, "size": 110, "opacity": 1}
    point["shape"] = _SHAPES[found.status]
    layers.append({"mark": line | {"opacity": 0.45}, "encoding": between("low", "high")})
    layers.append({"mark": point, "encoding": at("value")})
    return layers


def _bar(side: Mapping[str, Any], is_subject: bool, work_unit: float) -> Spec:
    median, low, high = (float(part) / work_unit for part in side["rate"])
    return {
        "side": side["name"],
        "rate": median,
        "low": low,
        "high": high,
        "label": figure(median),
        "kind": "subject" if is_subject else "baseline",
    }


def _past(number: int, record: Record) -> Spec:
    found = record.measurement
    commit = record.code[:7] + ("+" if "+dirty" in record.code else "")
    return {
        "when": f"{number}|{commit}|{record.started:%Y-%m-%d}",
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "machine": f"{record.environment.cpu} · {record.machine_id[:6]}",
        "status": str(found.status),
    }


def _quantity(field: str, axis: Axis, values: Sequence[float]) -> Spec:
    encoded: Spec = {"field": field, "type": "quantitative", "title": axis.label}
    if not axis.log:
        return encoded | {"scale": {"zero": axis.zero}, "axis": {"tickCount": 6}}
    ticks = _log_ticks(min(values), max(values))
    named = " : ".join(f"datum.value == {tick!r} ? {figure(tick)!r}" for tick in ticks)
    scale = {"type": "log", "domain": [min(values), max(values)], "nice": False}
    return encoded | {"scale": scale, "axis": {"values": ticks, "labelExpr": f"{named} : ''"}}


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten where there are three or more, else 1, 2 and 5 times them."""
    if low <= 0:
        raise ConfigError.of("logarithmic axis", low, "over positive values only")
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    return [low, high]


def _by_name(
    names: Sequence[str], values: Sequence[Any], legend: Spec | None, field: str = "series"
) -> Spec:
    chosen = [values[index % len(values)] for index in range(len(names))]
    scale = {"domain": list(names), "range": chosen}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def _dashes(count: int) -> list[list[int]]:
    """The fifth line has the first colour again, but other dashes."""
    return [_DASHES[(n + n // len(PALETTE)) % len(_DASHES)] for n in range(count)]


def _shape_of_status() -> Spec:
    scale = {"domain": [str(status) for status in _SHAPES], "range": list(_SHAPES.values())}
    return {"field": "status", "type": "nominal", "scale": scale, "legend": None}
