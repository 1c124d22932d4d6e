"""How figures, verdicts and long sentences read, in both languages: on charts, pages, terminals."""

from __future__ import annotations

import re
import unicodedata

from tidemill.bench.claim import Status, Text, Verdict

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


def figure(value: float) -> str:
    """A number as a reader wants it: three significant digits, powers of ten where they help."""
    value = value or 0.0  # no minus before nothing
    mantissa, _, power = f"{value:.2e}".partition("e")
    exponent = int(power)
    if -4 < exponent < 6:
        text = f"{value:,.{max(0, 2 - exponent)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"10{raised}" if mantissa == "1" else f"{mantissa} × 10{raised}"


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
