"""BibTeX: entries with nested braces, quotes, ``#`` and ``@string``, each with its line."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from tidemill.feed.draft import Draft
from tidemill.feed.entry import Refusal
from tidemill.feed.formats.bibliography import partial_date, plain_tex
from tidemill.feed.formats.decoding import Unreadable
from tidemill.feed.identity import arxiv_id
from tidemill.feed.raw import RawEntry

_BEGINS = re.compile(r"@\s*([A-Za-z]+)\s*([{(])")
_FIELD = re.compile(r"[\s,]*([^\s=,{}()\"#]+)\s*=\s*")
_PLAIN = re.compile(r"[^\s,#{}()\"]+")
_JOINS = re.compile(r"\s*#\s*")
_ENDS = re.compile(r"[\s,]*[})]")
_BRACE_OR_QUOTE = re.compile(r"\\.|[{}\"]", re.DOTALL)
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
_COMMA = re.compile(",")


def parse_bibtex(text: str) -> Iterator[RawEntry | Refusal]:
    """The entries of a BibTeX file; what stands between them is a comment.

    Raises:
        Unreadable: An entry is not closed or has no form; where it ends cannot be known.
    """
    reader = _Reader(text)
    at = 0
    while begins := _BEGINS.search(text, at):
        kind, start = begins[1].lower(), begins.end()
        if kind in ("comment", "preamble"):
            at = reader.closing(start, begins[2])
            continue
        fields, at = reader.fields(begins)
        if kind == "string":
            reader.macros.update(fields)
        else:
            yield _entry(reader.line(begins.start()), fields)


class _Reader:
    """Reads values at a place of the text and gives the place after them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.macros: dict[str, str] = {}
        self._line_ends = [found.start() for found in re.finditer("\n", text)]

    def line(self, at: int) -> int:
        return bisect_right(self._line_ends, at - 1) + 1

    def fields(self, begins: re.Match[str]) -> tuple[dict[str, str], int]:
        fields: dict[str, str] = {}
        at = begins.end()
        if begins[1].lower() != "string":  # the key, which may be missing
            key = re.compile(r"[^,={}()\"]*,?").match(self.text, at)
            at = key.end() if key and "=" not in self.text[key.end() : key.end() + 1] else at
        while found := _FIELD.match(self.text, at):
            value, at = self.value(found.end())
            fields.setdefault(found[1].lower(), value)
        if not (end := _ENDS.match(self.text, at)):
            raise Unreadable(
                self.line(at), f"BibTeX entry of line {self.line(begins.start())} breaks off here"
            )
        return fields, end.end()

    def value(self, at: int) -> tuple[str, int]:
        parts: list[str] = []
        while True:
            mark = self.text[at : at + 1]
            if mark in ("{", '"') and mark:
                end = self.closing(at + 1, mark)
                parts.append(self.text[at + 1 : end - 1])
                at = end
            elif plain := _PLAIN.match(self.text, at):
                parts.append(self.macros.get(plain[0].lower(), plain[0]))
                at = plain.end()
            else:
                raise Unreadable(self.line(at), "BibTeX field without a value")
            if not (joins := _JOINS.match(self.text, at)):
                return "".join(parts), at
            at = joins.end()

    def closing(self, start: int, opener: str) -> int:
        """The place after the brace, parenthesis or quote that closes what began at ``start``."""
        if opener == "(":
            end = self.text.find(")", start)
            if end >= 0:
                return end + 1
            raise Unreadable(self.line(start), "BibTeX: '(' is never closed")
        depth = 0
        for found in _BRACE_OR_QUOTE.finditer(self.text, start):
            mark = found.group()
            if depth == 0 and mark == ('"' if opener == '"' else "}"):
                return found.end()
            depth += {"{": 1, "}": -1}.get(mark, 0)
        raise Unreadable(self.line(start), f"BibTeX: {opener!r} is never closed")


def _split(mark: re.Pattern[str], text: str) -> list[str]:
    """The parts of ``text`` between the marks that stand in no braces."""
    parts: list[str] = []
    depth = start = 0
    for found in re.finditer(rf"\\.|[{{}}]|{mark.pattern}", text, mark.flags):
        sign = found.group()
        if sign in ("{", "}"):
            depth += 1 if sign == "{" else -1
        elif depth == 0 and not sign.startswith("\\"):
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _spoken(name: str) -> str:
    """``Lovelace, Ada`` in the order of speech; ``{Tides, Inc.}`` as it is."""
    last, *rest = _split(_COMMA, name)
    return f"{rest[-1].strip()} {last.strip()}" if rest else name


def _entry(line: int, fields: dict[str, str]) -> RawEntry | Refusal:
    get = {name: " ".join(value.split()) for name, value in fields.items()}.get
    prefix = get("archiveprefix", get("eprinttype", "")).lower()
    eprint = get("eprint", "")
    identifiers = [eprint] if prefix in ("arxiv", "") and arxiv_id(eprint) else []
    identifiers += [text for name in ("url", "ee", "journal") if (text := get(name, ""))]
    date = [*get("date", "").split("-"), "", "", ""]
    return Draft(
        line=line,
        title=plain_tex(get("title", "")),
        abstract=plain_tex(get("abstract", "")),
        about=partial_date(
            get("year", date[0]),
            get("month", date[1]),
            get("day", date[2]),
            [*identifiers, get("doi", "")],
        ),
        identifiers=[text.removeprefix("arXiv preprint ") for text in identifiers],
        authors=[plain_tex(_spoken(name)) for name in _split(_AND, get("author", "")) if name],
        subjects=[get("primaryclass", "")],
        doi=get("doi", ""),
        journal_ref=plain_tex(get("journal", "") or get("booktitle", "")),
        comment=plain_tex(get("note", "")),
    ).checked()
