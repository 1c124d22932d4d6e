"""Promises of a substrate: bounds that figures are held to, stored with all that they rest on.

A stored figure has its interval, verdict, machine, commit and command, so that the page that
prints it need not know how it came about.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from tidemill.bench.claim import Direction, Json, Measurement, Verdict, verdict_of
from tidemill.bench.environment import CpuMeter, Environment
from tidemill.bench.wire import measurement_json
from tidemill.bench.wording import with_interval, word
from tidemill.errors import ConfigError, InputError


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound that a figure is held to."""

    id: str
    statement: str
    unit: str
    direction: Direction
    target: float
    part: str
    """Which measurement gives it; some give several."""


def checked_parts(wanted: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """The parts, each once.

    Raises:
        ConfigError: there is no such part.
    """
    names = tuple(known)
    for part in wanted:
        if part not in names:
            raise ConfigError.of("part", part, f"one of {', '.join(names)}")
    return tuple(dict.fromkeys(wanted))


class Recorder:
    """Notes what a measurement rests on while it runs: make one before, ask it after."""

    def __init__(self, command: str) -> None:
        self.environment, self.meter, self.command = Environment.here(), CpuMeter(), command

    def entries(self, promises: Iterable[Promise], found: Iterable[Measurement]) -> dict[str, Json]:
        """Figures by promise, as they are stored."""
        bounds = {promise.id: promise for promise in promises}
        foreign_cores = round(self.meter.foreign_cores(), 2)
        return {each.claim: self._entry(bounds[each.claim], each, foreign_cores) for each in found}

    def _entry(
        self, bound: Promise, measurement: Measurement, foreign_cores: float
    ) -> dict[str, Json]:
        return {
            "statement": bound.statement,
            "unit": bound.unit,
            "direction": str(bound.direction),
            "target": bound.target,
            "verdict": str(verdict_of(measurement, bound.direction, bound.target)),
            "measurement": measurement_json(measurement),
            "machine": self.environment.machine,
            "code": self.environment.code,
            "foreign_cores": foreign_cores,
            "command": self.command,
            "written": datetime.now(UTC).isoformat(),
        }


def stored(path: Path | None, command: str) -> dict[str, Any]:
    """The document of figures at ``path`` that ``command`` adds to; an empty one if there is none.

    Raises:
        InputError: it holds something else.
    """
    if path is None or not path.exists():
        return {"models": {}}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        dict(document["models"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--save {path} — holds no figures of {command} ({error}); name another file."
        ) from error
    return cast("dict[str, Any]", document)


def merged(
    document: dict[str, Any], name: str, about: Mapping[str, Json], found: Mapping[str, Json]
) -> dict[str, Any]:
    """The document with new figures of model ``name`` in place of older ones."""
    models: dict[str, Any] = document["models"]
    figures = {**models.get(name, {}).get("figures", {}), **found}
    return {**document, "models": {**models, name: {**about, "figures": figures}}}


def shown_value(value: float, low: float, high: float, unit: str) -> str:
    """A figure as it is printed; a cosine near one needs more digits than others."""
    if low == high and not unit and 0.9 < value < 1:
        return f"{value:.5f}"
    return with_interval(value, low, high, unit)


def line(figure: Mapping[str, Any]) -> str:
    """A stored figure for a terminal."""
    found, sign = figure["measurement"], "≥" if figure["direction"] == "at least" else "≤"
    value = shown_value(found["value"], found["low"], found["high"], figure["unit"])
    rates = found["detail"]
    shown = (
        f" — {rates['tokens_per_s']:.1f} tokens/s, {found['baseline']} "
        f"{rates['peer_tokens_per_s']:.1f}"
        if "peer_tokens_per_s" in rates
        else ""
    )
    bound = f"{sign} {figure['target']:g} {figure['unit']}".rstrip()
    verdict = word(Verdict(figure["verdict"]), "en")
    return f"{figure['statement']}: {value} ({bound}: {verdict}){shown}"
