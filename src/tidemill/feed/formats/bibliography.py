"""RIS files, and what they share with BibTeX: LaTeX in fields, dates known in part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import StringIO

from tidemill.feed.draft import Draft
from tidemill.feed.entry import Refusal
from tidemill.feed.identity import arxiv_id
from tidemill.feed.raw import RawEntry
from tidemill.feed.text import clean, decode_accents, plain_latex

_MATH = re.compile(r"((?<!\\)\$(?:[^$\\]|\\.)*\$|\\\(.*?\\\))")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_NAMED_SIGNS = {
    "textbackslash": "\\", "textbraceleft": "{", "textbraceright": "}", "textasciicircum": "^",
    "textasciitilde": "~",
}  # fmt: skip
_NAMED_SIGN = re.compile(rf"\\({'|'.join(_NAMED_SIGNS)})(?![A-Za-z])(?:\{{\}}|\s)?")
_URL = re.compile(r"\\url\s*\{([^{}]*)\}(?=(\w)?)")
_NUMBER = re.compile(r"\d+")
_TAGGED = re.compile(r"([A-Z][A-Z0-9])  - ?(.*)")


def plain_tex(text: str) -> str:
    """A field without braces that only keep capitals, accents as letters, math as it is."""
    parts = _MATH.split(decode_accents(clean(text)))
    return "".join(part if at % 2 else _plain_prose(part) for at, part in enumerate(parts))


def _address(url: re.Match[str]) -> str:
    return f"{url[1]} " if url[2] else url[1]  # else the next word would belong to it


def _plain_prose(text: str) -> str:
    parts = _NAMED_SIGN.split(_URL.sub(_address, text.replace("~", " ")))
    return "".join(
        _NAMED_SIGNS[part] if at % 2 else plain_latex(part, keep_braces=False)
        for at, part in enumerate(parts)
    )


def partial_date(year: str, month: str, day: str, identifiers: list[str]) -> str:
    """A date as far as it is known, else the month in an arXiv id; "" if neither says anything.

    A missing day counts as the first of the month, a missing month as January.
    """
    for found in filter(None, map(arxiv_id, identifiers)):
        if not month and re.match(r"\d{4}\.", found[0]) and year in ("", f"20{found[0][:2]}"):
            year, month = f"20{found[0][:2]}", found[0][2:4]
    if not year:
        return ""
    name = month.strip().lower()[:3]
    number = _MONTHS.index(name) // 4 + 1 if name and name in _MONTHS.split() else month or 1
    return f"{year}-{number}-{day or 1}"


def person(name: str) -> str:
    """``Lovelace, Ada`` and ``Ada Lovelace`` alike in the order of speech."""
    last, comma, first = name.partition(",")
    return f"{first.rpartition(',')[2].strip()} {last.strip()}" if comma else name


def parse_ris(text: str) -> Iterator[RawEntry | Refusal]:
    """The references of a RIS file."""
    fields: list[tuple[str, str]] = []
    begins = 1
    for number, line in enumerate(StringIO(text), 1):
        found = _TAGGED.match(line.strip())
        if not found:
            if fields and line.strip():  # the rest of a value that was wrapped
                tag, value = fields[-1]
                fields[-1] = tag, f"{value} {line.strip()}"
        elif found[1] == "TY":
            if fields:
                yield _reference(begins, fields)
            begins, fields = number, [("TY", found[2])]
        elif found[1] == "ER":
            yield _reference(begins, fields)
            fields = []
        else:
            fields.append((found[1], found[2]))
    if fields:
        yield _reference(begins, fields)


def _reference(line: int, fields: list[tuple[str, str]]) -> RawEntry | Refusal:
    def values(*tags: str) -> list[str]:
        return [value.strip() for tag in tags for name, value in fields if name == tag and value]

    def first(*tags: str) -> str:
        return next(iter(values(*tags)), "")

    identifiers = values("UR", "L1", "L2", "LK", "AN", "M1", "C7")
    year, month, day = (*_NUMBER.findall(first("DA", "Y1", "PY"))[:3], "", "", "")[:3]
    return Draft(
        line=line,
        title=first("TI", "T1", "CT"),
        abstract=first("AB", "N2"),
        about=partial_date(year or first("PY"), month, day, identifiers),
        identifiers=identifiers,
        authors=[person(name) for name in values("AU", "A1")],
        doi=first("DO"),
        journal_ref=first("JO", "JF", "T2", "JA"),
        comment=first("N1"),
    ).checked()
