"""How figures, verdicts and long sentences read, in both languages: on charts, pages, terminals."""

from __future__ import annotations

import math
import re
import unicodedata

from tidemill.bench.claim import Status, Text, Verdict

_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_LARGEST_IN_FULL = 1e15
_WORDS = {
    Verdict.YES: Text("holds", "成立"),
    Verdict.NO: Text("does not hold", "不成立"),
    Verdict.UNCLEAR: Text("unclear", "不确定"),
    Status.MEASURED: Text("measured", "实测"),
    Status.EMULATED: Text("emulated", "仿真硬件"),
    Status.MODELLED: Text("modelled", "模型推算"),
    Status.NOT_RUN: Text("not run here yet", "尚未在本机运行"),
    "target": Text("target", "目标"),
    "machine": Text("machine", "机器"),
    "commit": Text("commit, day", "提交,日期"),
}


def figure(value: float, digits: int = 3) -> str:
    r"""A number as a reader wants it, wherever it is shown; ``live.js`` does the same.

    A whole number is shown in full, any other with ``digits`` significant digits, and with a power
    of ten where that tells its size; thousands stand apart by a thin space.

    >>> figure(0.000237), figure(2.3449), figure(182_337.4), figure(1.80), figure(-0.0)
    ('2.37 × 10⁻⁴', '2.34', '182\u202f337', '1.8', '0')
    """
    value = value or 0.0  # no minus before nothing
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < _LARGEST_IN_FULL:
        return grouped(f"{value:.0f}")
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if -4 < exponent < 15:
        return grouped(_bare(f"{value:.{max(0, digits - 1 - exponent)}f}"))
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = grouped(_bare(mantissa))
    return f"10{raised}" if mantissa == "1" else f"{mantissa} × 10{raised}"


def grouped(digits: str) -> str:
    r"""A written number with its thousands apart from five digits on, and a real minus.

    >>> grouped("1234"), grouped("-12345.5")
    ('1234', '−12\u202f345.5')
    """
    whole, point, fraction = digits.partition(".")
    sign, whole = ("−", whole[1:]) if whole.startswith("-") else ("", whole)
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", _THIN_SPACE)
    return f"{sign}{whole}{point}{fraction}"


def _bare(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def word(name: str, language: str) -> str:
    """A word of the charts in the reader's language: a verdict, a status, "target"."""
    return _WORDS[name].in_language(language)


def with_interval(value: float, low: float, high: float, unit: str) -> str:
    """A figure with its unit and interval: ``9.13 × [8.8, 9.5]``; without one if it is exact."""
    text = f"{figure(value)} {unit_sign(unit)}".rstrip()
    return text if low == high else f"{text} [{figure(low)}, {figure(high)}]"


def unit_sign(unit: str) -> str:
    """The unit as printed: "x" is a multiplication sign."""
    return "×" if unit == "x" else unit


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most ``columns``, a Chinese character counting as two and breakable after."""
    rows = [""]
    for piece in re.findall(r"[\u2e80-\uffef]|[^\s\u2e80-\uffef]+\s*|\s+", text.strip()):
        if rows[-1] and _columns(rows[-1]) + _columns(piece.rstrip()) > columns:
            rows[-1] = rows[-1].rstrip()
            rows.append("")
        rows[-1] += piece
    return rows


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text)
