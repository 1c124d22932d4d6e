"""Figures on pages: with their unit in its place, their interval, as spans, sizes and moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from tidemill.bench import Claim, Measurement
from tidemill.bench.wording import figure, grouped

_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_CLOSE_UNITS = {"x": "×", "×": "×", "%": "%"}
"""Units written without a space before them."""


def quantity(value: float, unit: str = "") -> str:
    r"""``value`` with its unit: ``2.31×``, ``85 %`` closes up, ``182 Mk-mers/s`` does not.

    >>> quantity(2.3149, "x"), quantity(182.4, "Mk-mers/s"), quantity(85, "%")
    ('2.31×', '182\xa0Mk-mers/s', '85%')
    """
    if not unit:
        return figure(value)
    if unit in _CLOSE_UNITS:
        return figure(value) + _CLOSE_UNITS[unit]
    return f"{figure(value)}\N{NO-BREAK SPACE}{unit}"


def interval(measurement: Measurement) -> str:
    """The 95 % interval without unit, or "" for an exact count.

    Both ends have the same decimals, two digits of the interval's own width.

    >>> interval(Measurement(claim="a", value=2.0, low=1.9, high=2.12, repeats=5))
    '1.90 – 2.12'
    """
    low, high = measurement.low, measurement.high
    if low == high:
        return ""
    if max(abs(low), abs(high)) < 1e-3:
        return f"{figure(low)} – {figure(high)}"
    decimals = min(9, max(0, 1 - math.floor(math.log10(high - low))))
    return f"{grouped(f'{low:.{decimals}f}')} – {grouped(f'{high:.{decimals}f}')}"


def target(claim: Claim) -> str:
    """The bound to meet: ``≥ 1.8×``."""
    sign = "≥" if claim.direction.value == "at least" else "≤"
    return f"{sign}{_THIN_SPACE}{quantity(claim.target, claim.unit)}"


def span(seconds: float | None) -> str:
    """A duration in the largest units that matter: ``0.42 s``, ``38 s``, ``4 min 08 s``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{figure(seconds, 2)}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\N{NO-BREAK SPACE}h {minutes:02d}\N{NO-BREAK SPACE}min"


def memory(size_bytes: float) -> str:
    """A size in binary units: ``412 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024 or unit == "GiB":
            return f"{figure(size_bytes, 3)}\N{NO-BREAK SPACE}{unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable: GiB ends the loop")


def span_of(bounds: tuple[float, float]) -> str:
    """Where a curve runs: ``0 – 12.4``."""
    return f"{figure(bounds[0])} – {figure(bounds[1])}"


def minute(moment: datetime) -> str:
    """A moment to the minute, in UTC: the server does not know the reader's zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def code_name(code: str) -> str:
    """A commit shortened to what one can still find it by: ``0ecc537+dirty``."""
    commit, dirty, _ = code.partition("+dirty")
    short = commit[:7] if len(commit) == 40 else commit
    return short + dirty


def machine_line(machine: Mapping[str, object]) -> str:
    """A machine in one line: its processor, cores and memory."""
    cores, memory_bytes = machine.get("cores"), machine.get("memory_bytes")
    name = str(machine.get("cpu") or "")
    parts = [f"{cores}\N{NO-BREAK SPACE}× {name}" if cores else name]
    if isinstance(memory_bytes, int | float) and memory_bytes:
        parts.append(f"{round(memory_bytes / 2**30)}\N{NO-BREAK SPACE}GiB")
    return " · ".join(parts)
