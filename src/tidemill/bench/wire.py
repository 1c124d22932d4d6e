"""Measurements and reports as JSON and back: for the trial's pipe, the event file and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from tidemill.bench.claim import Json, Measurement, StandIn, Status
from tidemill.bench.trial import Report
from tidemill.errors import ProtocolError


def measurement_json(measurement: Measurement) -> dict[str, Json]:
    """All fields of a measurement."""
    return cast(dict[str, Json], asdict(measurement))


def measurement_of(fields: Mapping[str, Json]) -> Measurement:
    """The inverse of `measurement_json`; other fields than its own are left aside.

    A detail that was cut for length (`events.LINE_LIMIT_BYTES`) is an empty one.

    Raises:
        ProtocolError: A field is missing or has the wrong type.
        ClaimError: The figures contradict each other.
    """
    values = cast(dict[str, Any], fields)
    try:
        stand_ins = tuple(
            StandIn(str(item["device"]), Status(item["kind"]), str(item["description"]))
            for item in values["stand_ins"]
        )
        return Measurement(
            claim=str(values["claim"]),
            value=float(values["value"]),
            low=float(values["low"]),
            high=float(values["high"]),
            repeats=int(values["repeats"]),
            subject=str(values["subject"]),
            baseline=str(values["baseline"]),
            stand_ins=stand_ins,
            detail=dict(values["detail"] or {}),
        )
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"measurement {sorted(values)} — not one: {error!r}.") from error


def report_json(report: Report) -> dict[str, Json]:
    """A report with its tables as lists of rows."""
    return {
        "headline": {"en": report.headline.en, "zh": report.headline.zh},
        "facts": report.facts,
        "timings": cast(dict[str, Json], report.timings),
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [list(row) for row in table.rows],
            }
            for table in report.tables
        ],
        "charts": cast(Json, report.charts or {}),
    }
