"""From rows to entries, and the lists in which they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from urllib.parse import quote, urlsplit

import sqlalchemy as sa

from tidemill.feed.entry import Category, Entry, Link, Placing, UnknownCategory
from tidemill.feed.identity import arxiv_id
from tidemill.feed.spans import Address, spans
from tidemill.feed.tables import category, paper, paper_category

_LONGEST_LABEL = 60
_SAME = (
    "id", "slug", "tag", "title", "title_html", "abstract", "abstract_html", "announced", "updated",
    "lang", "submitted", "version", "doi", "journal_ref", "comment", "license",
)  # fmt: skip


class Shelf:
    """A list of papers, newest first: all of them or those of a category, of a day, since a day.

    Args:
        connection: For reading.
        category: Key of a category.
        day: Their day of announcement.
        since: The first such day.
    """

    def __init__(
        self,
        connection: sa.Connection,
        *,
        category: int | None = None,
        day: date | None = None,
        since: date | None = None,
    ) -> None:
        self._connection = connection
        self._conditions: list[sa.ColumnElement[bool]]
        if category is None:
            self._table, self._key = paper, paper.c.key
            self._conditions = [paper.c.merged_into.is_(None)]
        else:
            self._table, self._key = paper_category, paper_category.c.paper
            self._conditions = [paper_category.c.category == category]
        if day is not None:
            self._conditions.append(self._table.c.announced == day)
        if since is not None:
            self._conditions.append(self._table.c.announced >= since)

    def total(self) -> int:
        """How many papers stand in the list."""
        counted = sa.select(sa.func.count()).select_from(self._table).where(*self._conditions)
        return self._connection.execute(counted).scalar_one()

    def keys(self, *, offset: int, limit: int) -> list[int]:
        """Some of them, in order."""
        ordered = (
            sa.select(self._key)
            .where(*self._conditions)
            .order_by(self._table.c.announced.desc(), self._table.c.place)
        )
        return list(self._connection.execute(ordered.offset(offset).limit(limit)).scalars())


def category_of(connection: sa.Connection, slug: str) -> tuple[int, Category]:
    """The key of a category and the category.

    Raises:
        UnknownCategory: There is none; the text lists those there are.
    """
    known = connection.execute(sa.select(category)).mappings().all()
    for row in known:
        if row["slug"] == slug:
            return row["key"], _category(row)
    names = ", ".join(row["slug"] for row in known) or "(none yet)"
    raise UnknownCategory(f"category {slug!r} — there is none; there are {names}.")


def categories(connection: sa.Connection) -> tuple[Category, ...]:
    """All categories with their counts, the oldest first."""
    counts = (
        sa.select(paper_category.c.category, sa.func.count())
        .group_by(paper_category.c.category)
    )  # fmt: skip
    by_key = dict(connection.execute(counts).all())
    rows = connection.execute(sa.select(category).order_by(category.c.key)).mappings()
    return tuple(_category(row, by_key.get(row["key"], 0)) for row in rows)


def entries(
    connection: sa.Connection,
    keys: Sequence[int],
    systems: Mapping[str, str],
    snippets: Mapping[int, str] | None = None,
) -> tuple[Entry, ...]:
    """The papers with these keys, in their order.

    Args:
        connection: For reading.
        keys: Of papers.
        systems: Name of the installed system by the identity of its paper.
        snippets: What a search found, by key.
    """
    placings: dict[int, list[Placing]] = defaultdict(list)
    placed = (
        sa.select(paper_category.c.paper, paper_category.c.why, category)
        .join(category)
        .where(paper_category.c.paper.in_(keys))
        .order_by(category.c.key)
    )
    for row in connection.execute(placed).mappings():
        placings[row["paper"]].append(Placing(_category(row), row["why"]))
    rows = {
        row["key"]: row
        for row in connection.execute(sa.select(paper).where(paper.c.key.in_(keys))).mappings()
    }
    return tuple(
        _entry(rows[key], placings[key], systems, (snippets or {}).get(key, "")) for key in keys
    )


def _category(row: sa.RowMapping, count: int = 0) -> Category:
    return Category(row["slug"], row["name_zh"], row["name_en"], count)


def _entry(
    row: sa.RowMapping, placings: list[Placing], systems: Mapping[str, str], snippet: str
) -> Entry:
    found = arxiv_id(row["id"])
    number = found[0] if found else None
    return Entry(
        **{name: row[name] for name in _SAME},
        snippet_html=snippet,
        authors=tuple(row["authors"]),
        subjects=tuple(row["subjects"]),
        categories=tuple(placings),
        links=_links(row, number),
        arxiv_id=number,
        origin=_origin(row, number),
        system=systems.get(row["id"]),
    )


def _links(row: sa.RowMapping, number: str | None) -> tuple[Link, ...]:
    links = [] if number is None else [
        Link("arXiv", f"https://arxiv.org/abs/{number}"),
        Link("PDF", f"https://arxiv.org/pdf/{number}"),
    ]  # fmt: skip
    if row["doi"]:
        links.append(Link("DOI", f"https://doi.org/{quote(row['doi'], safe='/:;()')}"))
    in_abstract = [part.url for part in spans(row["abstract"]) if isinstance(part, Address)]
    links += [
        Link(_host(url) or url[:_LONGEST_LABEL], url)
        for url in dict.fromkeys([*row["links"], *in_abstract])
    ]
    return tuple(links)


def _origin(row: sa.RowMapping, number: str | None) -> str:
    """Where the paper was announced; an address in its abstract says nothing about that."""
    if number is not None:
        return "arXiv"
    journal = row["journal_ref"] or ""
    if said := row["origin"] or (journal if len(journal) <= _LONGEST_LABEL else ""):
        return said
    if row["doi"]:
        return "DOI"
    return next((host for url in row["links"] if (host := _host(url))), "")


def _host(url: str) -> str:
    """Of an address that was written by others; "" if it has none."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # "https://[" passes for an address until it is taken apart
        return ""
    return host.removeprefix("www.")[:_LONGEST_LABEL]
