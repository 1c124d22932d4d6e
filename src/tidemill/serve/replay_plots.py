"""Charts of replays: how latencies are spread, and how much of a load is served in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.bench.drawing import SCHEMA
from tidemill.bench.plots import Axis, Series, Spec, lines, png, svg
from tidemill.errors import ConfigError, InputError
from tidemill.serve.events import EventLog

_QUANTILES = np.linspace(0, 1, 41)


def latency_chart(logs: Mapping[str, EventLog]) -> Spec:
    """TTFT and ITL of each run as cumulative shares, from the raw times.

    Raises:
        InputError: no run has a token.
    """
    ttft = {
        name: [item.ttft_s for item in log if item.served and item.ttft_s is not None]
        for name, log in logs.items()
    }
    itl = {
        name: [gap for item in log if item.served for gap in item.itl_s]
        for name, log in logs.items()
    }
    rows = [
        _shares(values, f"{title}: share of {what} that took no longer")
        for values, title, what in (
            (ttft, "Time to first token", "requests"),
            (itl, "Inter-token latency", "tokens"),
        )
        if any(values.values())
    ]
    if not rows:
        raise InputError("--plot — no request was served, so there is nothing to draw.")
    return _stacked(rows)


def goodput_chart(points: Mapping[str, Sequence[tuple[float, float]]], limits: str) -> Spec:
    """Requests served within ``limits`` over requests sent, both per second, for each side."""
    series = [
        Series(name, [rate for rate, _ in sorted(each)], [good for _, good in sorted(each)])
        for name, each in points.items()
    ]
    return lines(
        series,
        title=f"Goodput: requests served within {limits}",
        x=Axis("Sent", "requests/s", zero=True),
        y=Axis("Served in time", "requests/s", zero=True),
    )


def with_goodput(charts: Spec, goodput: Spec) -> Spec:
    """One picture of both."""
    return _stacked([*charts.get("vconcat", [charts]), goodput])


def draw(spec: Spec, path: Path) -> None:
    """Write a chart; the name says whether as SVG or PNG.

    Raises:
        ConfigError: it says something else.
    """
    check_picture(path)
    if path.suffix == ".svg":
        path.write_text(svg(spec, background="white"), encoding="utf-8")
    else:
        path.write_bytes(png(spec))


def check_picture(path: Path) -> None:
    """Refuse a name that says neither SVG nor PNG."""
    if path.suffix not in {".svg", ".png"}:
        raise ConfigError.of("plot", str(path), "a name that ends in .svg or .png")


def _shares(values: Mapping[str, Sequence[float]], title: str) -> Spec:
    series = [
        Series(name, np.quantile(each, _QUANTILES).tolist(), (100 * _QUANTILES).tolist())
        for name, each in values.items()
        if each
    ]
    axis = Axis("Latency", "s", zero=True)
    return lines(series, title=title, x=axis, y=Axis("Share", "%", zero=True))


def _stacked(rows: Sequence[Spec]) -> Spec:
    inner: list[dict[str, Any]] = [
        {key: value for key, value in row.items() if key != "$schema"} for row in rows
    ]
    scales = {"scale": {"color": "independent", "strokeDash": "independent"}}
    described = "; ".join(str(row["description"]) for row in rows)
    return {"$schema": SCHEMA, "description": described, "vconcat": inner, "resolve": scales}
