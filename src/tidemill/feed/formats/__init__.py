"""Parsers, each pure: bytes in, entries out; what kind a file is, its content tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from tidemill.feed.entry import Refusal
from tidemill.feed.formats.bibliography import parse_ris
from tidemill.feed.formats.bibtex import parse_bibtex
from tidemill.feed.formats.decoding import Unreadable, decode
from tidemill.feed.formats.digest_page import Line, lines_of, parse_page
from tidemill.feed.formats.harvest import parse_harvest
from tidemill.feed.formats.json_lines import parse_json_lines
from tidemill.feed.formats.saved_html import html_lines
from tidemill.feed.formats.syndication import parse_atom, parse_rss
from tidemill.feed.formats.xml_tree import Element, local_name, parse_xml
from tidemill.feed.raw import RawEntry

__all__ = ["KINDS", "Unreadable", "parse"]

KINDS = (
    "a page of a digest (text or saved HTML), Atom, RSS or OAI-PMH XML, BibTeX, RIS, or JSON lines"
)

MOST_REFUSED = 10_000

_Entries = Iterator[RawEntry | Refusal]

_XML_ROOTS: dict[str, Callable[[Element], _Entries]] = {
    "feed": parse_atom,
    "rss": parse_rss,
    "rdf": parse_rss,
    "oai-pmh": parse_harvest,
    "listrecords": parse_harvest,
}
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FIRST_ELEMENT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)")
_HTML = re.compile(r"(?i)html|head|body|div|main|article|section|p|h[1-6]")
_BIBTEX = re.compile(r"^\s*@\s*[A-Za-z]+\s*[{(]", re.MULTILINE)
_RIS = re.compile(r"^TY  - ", re.MULTILINE)
_BLOCKED = re.compile(
    r"captcha|rate exceeded|rate limit|too many requests|are you (?:a robot|human)|access denied|"
    r"unusual traffic|checking your browser|503 service",
    re.IGNORECASE,
)


def parse(data: bytes) -> list[RawEntry | Refusal]:
    """The entries of a file, in order; empty for a feed of a day without any.

    Raises:
        Unreadable: The file as a whole cannot be used.
    """
    found: list[RawEntry | Refusal] = []
    refused = 0
    for entry in _entries(decode(data)):
        found.append(entry)
        refused += isinstance(entry, Refusal)
        if refused > MOST_REFUSED:
            raise Unreadable(entry.line, f"more than {MOST_REFUSED:,} entries would be refused")
    return found


def _entries(text: str) -> Iterable[RawEntry | Refusal]:
    head = text.lstrip()[:5000]
    if not head:
        raise Unreadable(1, "is empty")
    if head.startswith("{"):
        return parse_json_lines(text)
    if head.startswith("<"):
        return _xml(text) if _is_xml(head) else _page(text, html_lines(text))
    if _RIS.match(head):
        return parse_ris(text)
    if _BIBTEX.search(head):
        return parse_bibtex(text)
    return _page(text, lines_of(text))


def _is_xml(head: str) -> bool:
    first = _FIRST_ELEMENT.search(_COMMENT.sub("", head))
    name = first[1] if first else ""
    return name.lower() in _XML_ROOTS or (head.startswith("<?xml") and not _HTML.fullmatch(name))


def _xml(text: str) -> Iterator[RawEntry | Refusal]:
    root = parse_xml(text)
    name = local_name(root)
    if name not in _XML_ROOTS:
        raise Unreadable(
            root.line, f"XML of an unknown kind, <{name}>; what can be read is {KINDS}"
        )
    return _XML_ROOTS[name](root)


def _page(text: str, lines: list[Line]) -> tuple[RawEntry | Refusal, ...]:
    if page := parse_page(lines):
        return page.found
    if blocked := _BLOCKED.search(text):
        raise Unreadable(
            text.count("\n", 0, blocked.start()) + 1,
            f"holds no papers but says {blocked[0]!r}: the site refused to answer; fetch it again "
            "later",
        )
    raise Unreadable(1, f"holds no papers; what can be read is {KINDS}")
