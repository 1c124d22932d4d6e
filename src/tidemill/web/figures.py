"""Figures as a reader wants them: three digits that matter, thin thousands, a unit in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime

from tidemill.bench import Claim, Measurement

_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_CLOSE_UNITS = {"x": "×", "×": "×", "%": "%"}
"""Units written without a space before them."""


def number(value: float, digits: int = 3) -> str:
    r"""``value`` with ``digits`` significant digits, never in a form that hides its size.

    >>> number(0.000237), number(2.3449), number(182_337.4), number(1.80), number(0.0)
    ('2.37e-4', '2.34', '182\u202f337', '1.8', '0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return _grouped(f"{value:.0f}")
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -3 or magnitude >= 15:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{_bare(mantissa)}e{int(exponent)}"
    return _grouped(_bare(f"{value:.{max(0, digits - 1 - magnitude)}f}"))


def _bare(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _grouped(text: str) -> str:
    whole, point, fraction = text.partition(".")
    sign, whole = ("−", whole[1:]) if whole.startswith("-") else ("", whole)
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", _THIN_SPACE)
    return f"{sign}{whole}{point}{fraction}"


def quantity(value: float, unit: str = "") -> str:
    r"""``value`` with its unit: ``2.31×``, ``85 %`` closes up, ``182 Mk-mers/s`` does not.

    >>> quantity(2.3149, "x"), quantity(182.4, "Mk-mers/s"), quantity(85, "%")
    ('2.31×', '182\xa0Mk-mers/s', '85%')
    """
    if not unit:
        return number(value)
    if unit in _CLOSE_UNITS:
        return number(value) + _CLOSE_UNITS[unit]
    return f"{number(value)}\N{NO-BREAK SPACE}{unit}"


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
        return f"{number(low)} – {number(high)}"
    decimals = min(9, max(0, 1 - math.floor(math.log10(high - low))))
    return f"{_grouped(f'{low:.{decimals}f}')} – {_grouped(f'{high:.{decimals}f}')}"


def target(claim: Claim) -> str:
    """The bound to meet: ``≥ 1.8×``."""
    sign = "≥" if claim.direction.value == "at least" else "≤"
    return f"{sign}{_THIN_SPACE}{quantity(claim.target, claim.unit)}"


def span(seconds: float | None) -> str:
    """A duration in the largest units that matter: ``0.42 s``, ``38 s``, ``4 min 08 s``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{number(seconds, 2)}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\N{NO-BREAK SPACE}h {minutes:02d}\N{NO-BREAK SPACE}min"


def memory(size_bytes: float) -> str:
    """A size in binary units: ``412 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024 or unit == "GiB":
            return f"{number(size_bytes, 3)}\N{NO-BREAK SPACE}{unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable: GiB ends the loop")


def span_of(bounds: tuple[float, float]) -> str:
    """Where a curve runs: ``0 – 12.4``."""
    return f"{number(bounds[0])} – {number(bounds[1])}"


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
