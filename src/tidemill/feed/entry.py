"""What the digest hands out: entries, pages of them, categories, days, and import reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from tidemill.errors import InputError


class PageOutOfRange(InputError):
    """A page past the last one was asked for.

    Args:
        number: The page asked for, from 1.
        last: The last page there is.
    """

    def __init__(self, number: int, last: int) -> None:
        super().__init__(f"page {number} — the last one is {last}; ask for 1 to {last}.")
        self.number = number
        self.last = last


class UnknownCategory(InputError):
    """There is no category with that slug."""


@dataclass(frozen=True, slots=True)
class Category:
    """A shelf of the digest.

    Args:
        slug: Its name in URLs and in ``cat:``.
        name_zh: Its name as the page that listed it prints it.
        name_en: The same for readers of English.
        count: Papers on it, where it was counted: in `Library.categories` and on its page.
    """

    slug: str
    name_zh: str
    name_en: str
    count: int = 0

    def name(self, language: str) -> str:
        """The name in ``language`` ("zh…" is Chinese, anything else English)."""
        return self.name_zh if language.startswith("zh") else self.name_en


@dataclass(frozen=True, slots=True)
class Placing:
    """A category of a paper and why it is there ("每日文章 1 / 4": the page that listed it)."""

    category: Category
    why: str


@dataclass(frozen=True, slots=True)
class Link:
    """A way to the paper or its code; ``url`` is http or https, ``name`` says what it is."""

    name: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One paper of the digest, ready to be shown.

    Args:
        id: ``arxiv:2606.24417``, or ``title:<sha1>`` while no arXiv id is known.
        slug: The id in the form that stands in a URL.
        tag: Never changes, not even when the arXiv id becomes known; for feeds.
        title: As the source wrote it, LaTeX included; untrusted text.
        abstract: Likewise.
        title_html: Safe markup: text escaped, math as MathML, addresses as links.
        abstract_html: Likewise.
        snippet_html: The part that a search found, with ``<mark>``; empty outside of searches.
        lang: Language of title and abstract, "en" or "zh".
        announced: The day on which it was announced.
        submitted: When its first version was submitted, if a source said so.
        updated: When its content last changed; moves for nothing else.
        version: Of the arXiv paper, if known.
        subjects: arXiv's own categories, the primary one first.
        categories: The digest's categories, each with why.
        arxiv_id: Without version.
        origin: Where it was announced, as its date line begins: "arXiv", a journal, else
            the host of its address; "" if no source said.
        system: Name of the installed system that builds this paper.
    """

    id: str
    slug: str
    tag: str
    title: str
    title_html: str
    abstract: str
    abstract_html: str
    announced: date
    updated: datetime
    lang: str = "en"
    snippet_html: str = ""
    submitted: datetime | None = None
    authors: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    categories: tuple[Placing, ...] = ()
    links: tuple[Link, ...] = ()
    arxiv_id: str | None = None
    version: int | None = None
    doi: str | None = None
    journal_ref: str | None = None
    comment: str | None = None
    license: str | None = None
    origin: str = ""
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the entries of a list, newest first (of a search: best first).

    Args:
        number: From 1.
        pages: How many there are; at least 1, also when nothing is listed.
        total: Entries in the whole list.
        category: The category listed, if one was asked for.
        day: The day listed, if one was asked for.
        query: The query, if this is the answer to a search.
        ignored: Parts of the query that mean nothing here, as ``after:yesterday``.
    """

    entries: tuple[Entry, ...]
    number: int
    pages: int
    total: int
    category: Category | None = None
    day: date | None = None
    query: str = ""
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """A day with announcements and how many there are."""

    date: date
    count: int


@dataclass(frozen=True, slots=True)
class Version:
    """One text of a paper: the present one or one that was replaced.

    Args:
        version: arXiv's number, if the source gave one.
        seen: When it was first seen here.
        current: Whether it is the text shown.
    """

    title: str
    abstract: str
    version: int | None
    seen: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """An entry that was left out: the line of the file where it begins, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did; what is neither new, changed nor refused was there already."""

    read: int = 0
    new: int = 0
    changed: int = 0
    refused: tuple[Refusal, ...] = field(default=())

    def __add__(self, other: ImportReport) -> ImportReport:
        return ImportReport(
            self.read + other.read,
            self.new + other.new,
            self.changed + other.changed,
            self.refused + other.refused,
        )

    def __str__(self) -> str:
        return (
            f"{self.read} read, {self.new} new, {self.changed} changed, {len(self.refused)} refused"
        )
