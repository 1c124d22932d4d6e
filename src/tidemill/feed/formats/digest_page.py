"""A page of a digest as text: a heading, then title, ``source date`` and abstract, repeated.

What holds the page together is its dated lines ("arXiv 2026-06-23"): the line before one is a
title, what follows is an abstract. Blank lines help and may be missing; the wording of the heading
does not matter, only that counts hold numbers and that a tagline ends like a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tidemill.feed.calendar import parse_date
from tidemill.feed.draft import SHORTEST_ABSTRACT, Draft
from tidemill.feed.entry import Refusal
from tidemill.feed.raw import RawEntry

_LINE = re.compile(r"\S[^\n]*")
_BETWEEN = re.compile(r"[\s·|,:,:–—-]+")
_NUMERIC = re.compile(r"\d{2,4}\s*[-/.年]\s*\d{1,2}\s*[-/.月]\s*\d{1,4}\s*日?")
_ENDS_A_SENTENCE = re.compile(r"[.。!!??;;::,,…]$")
_NUMBER_OF_PAGES = re.compile(r"(?<![\d/])(\d{1,6})\s*/\s*(\d{1,6})(?![\d/])")
_TOTAL = re.compile(
    r"(\d[\d,]*)\s*(?:篇|papers?\b|articles?\b|entries\b|results?\b)", re.IGNORECASE
)
_LONGEST_DATED_LINE = 80
_LONGEST_NAME = 80
_MOST_WORDS_OF_A_SOURCE = 3
_LONGEST_WRAPPED_TITLE = 300


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page; its text is stripped, empty for a blank one.

    Args:
        number: In the file, from 1.
        links: Addresses behind it, on a saved page.
    """

    number: int
    text: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What stands above the first title."""

    title: str = ""
    category: str = ""
    total: int | None = None
    number: int | None = None
    pages: int | None = None

    @property
    def name(self) -> str:
        """How to call the page: ``每日文章 1 / 4``."""
        return f"{self.title} {self.number} / {self.pages}" if self.pages else self.title


@dataclass(frozen=True, slots=True)
class DigestPage:
    """A page as read: its heading and its entries or what is wrong with them, in order."""

    heading: Heading
    found: tuple[RawEntry | Refusal, ...]


def lines_of(text: str) -> list[Line]:
    """The lines of a text file, one blank line for any number of them."""
    lines: list[Line] = []
    number, done = 1, 0
    for found in _LINE.finditer(text):
        passed = text.count("\n", done, found.start())
        if passed > 1 and lines:
            lines.append(Line(number + 1, ""))
        number, done = number + passed, found.end()
        lines.append(Line(number, found.group().rstrip()))
    return lines


def parse_page(lines: Sequence[Line]) -> DigestPage | None:
    """Read a page; None if it has no dated line, so is no page of a digest."""
    dated = _dated_lines(lines)
    if not dated:
        return None
    blocks = [
        _paragraphs(lines[start + 1 : end])
        for start, end in zip([-1, *dated], [*dated, len(lines)], strict=True)
    ]
    titles = [_take_title(block) for block in blocks[:-1]]
    _drop_footer(blocks[-1])
    heading = _heading([line for paragraph in blocks[0] for line in paragraph])
    found: list[RawEntry | Refusal] = []
    for (at, (source, day)), title, abstract in zip(dated.items(), titles, blocks[1:], strict=True):
        body = [line for paragraph in abstract for line in paragraph]
        draft = Draft(
            line=(title or [lines[at]])[0].number,
            title=_joined(title),
            abstract=_joined(body),
            announced=day,
            identifiers=[source, *_links([*title, lines[at]])],
            links=list(_links(body)),
            origin=source,
            category=heading.category,
            why=heading.name,
        )
        found.append(draft.checked())
    return DigestPage(heading, tuple(found))


def _dated_lines(lines: Sequence[Line]) -> dict[int, tuple[str, str]]:
    """Source and date of each dated line, by its place; a date may still be wrong.

    A line that stands alone and names a known source counts too: were "arXiv yesterday" passed
    over, its entry would disappear in the abstract before it.
    """
    sure = {at: found for at, line in enumerate(lines) if (found := _dated(line.text))}
    sources = {source for source, _ in sure.values()}
    for at, line in enumerate(lines[1:-1], 1):
        source, _, day = line.text.partition(" ")
        is_alone = not lines[at - 1].text and not lines[at + 1].text
        if at not in sure and is_alone and source in sources and _is_name(line.text):
            sure[at] = source, day
    return dict(sorted(sure.items()))


def _dated(text: str) -> tuple[str, str] | None:
    if len(text) > _LONGEST_DATED_LINE or not text[:1].isalpha():
        return None
    for between in _BETWEEN.finditer(text):
        source, day = text[: between.start()], text[between.end() :]
        if source.count(" ") >= _MOST_WORDS_OF_A_SOURCE:
            break
        # "on June 23, 2026" is a wrapped line of an abstract, "Nature June 23, 2026" a dated one
        if _NUMERIC.fullmatch(day) or (source != source.lower() and parse_date(day)):
            return source, day
    return None


def _paragraphs(lines: Sequence[Line]) -> list[list[Line]]:
    paragraphs: list[list[Line]] = [[]]
    for line in lines:
        if line.text:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return [paragraph for paragraph in paragraphs if paragraph]


def _take_title(block: list[list[Line]]) -> list[Line]:
    """Cut the title off the end of what stands before a dated line."""
    if not block:
        return []
    last = block[-1]
    if len(block) > 1 and len(_joined(last)) <= _LONGEST_WRAPPED_TITLE:
        return block.pop()
    title = [last.pop()]
    if not last:
        block.pop()
    return title


def _drop_footer(block: list[list[Line]]) -> None:
    """Cut "下一页" and its like off the end of the last abstract."""
    while len(block) > 1 and _is_name(_joined(block[-1])):
        if "://" in _joined(block[-1]):  # "Code: https://…" belongs to the abstract
            return
        if sum(len(_joined(paragraph)) for paragraph in block[:-1]) < SHORTEST_ABSTRACT:
            return
        block.pop()


def _heading(lines: list[Line]) -> Heading:
    counts = [line for line in lines if _is_count(line.text)]
    names = [line for line in lines if line not in counts and _is_name(line.text)]
    counted = " ".join(line.text for line in counts)
    total, place = _TOTAL.search(counted), _NUMBER_OF_PAGES.search(counted)
    return Heading(
        title=lines[0].text if lines and lines[0] not in counts else "",
        category=names[-1].text if names and names[-1] is not lines[0] else "",
        total=int(total[1].replace(",", "")) if total else None,
        number=int(place[1]) if place else None,
        pages=int(place[2]) if place else None,
    )


def _is_count(text: str) -> bool:
    found = _NUMBER_OF_PAGES.search(text) or _TOTAL.search(text)
    return len(text) <= _LONGEST_NAME and found is not None


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and not _ENDS_A_SENTENCE.search(text)


def _joined(lines: list[Line]) -> str:
    return " ".join(line.text for line in lines)


def _links(lines: list[Line]) -> Iterator[str]:
    for line in lines:
        yield from line.links
