"""`Library`: the papers of the digest in the house's database."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from tidemill.bench import System, usable
from tidemill.bench.store import Store, migrate, reading, writing
from tidemill.errors import ConfigError
from tidemill.feed import index, merging, tables
from tidemill.feed.entry import (
    Category,
    Day,
    Entry,
    ImportReport,
    Page,
    PageOutOfRange,
    Refusal,
    Version,
)
from tidemill.feed.identity import arxiv_id, id_of
from tidemill.feed.intake import Intake, Outcome
from tidemill.feed.query import parse_query
from tidemill.feed.raw import RawEntry, Source
from tidemill.feed.search import Search
from tidemill.feed.shelf import Shelf, categories, category_of, entries
from tidemill.feed.sources import FirstPage, PaperFile, SystemPapers

MOST_PER_PAGE = 200
_SHORT_SLUG = re.compile(r"t-[0-9a-f]{8,39}")


def _now() -> datetime:
    return datetime.now(UTC)


class Library:
    """Papers, their categories and their search index; thread-safe, as its store is.

    Args:
        store: A store, or what `Store` takes; default the user's own.
        systems: The installed systems, for `Entry.system` and ``has:system``.
        clock: Gives the present time in UTC.
    """

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        systems: Callable[[], Iterable[System]] = usable,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self._systems = systems
        self._clock = clock

    def migrate(self) -> None:
        """Create or update the tables; idempotent, safe from several processes at once.

        Raises:
            MissingCapability: The SQLite library lacks FTS5, or the database is no SQLite.
            TidemillError: As `tidemill.bench.store.migrate`.
        """
        index.require_full_text(self.store.engine)
        migrate(self.store.engine, "tidemill.feed:migrations", "alembic_version_feed")

    def import_file(self, path: Path | str) -> ImportReport:
        """Read a page, feed, bibliography or dump, its kind told by its content.

        All of the file or nothing: one transaction. Importing it again changes nothing.

        Raises:
            InputError: The whole file cannot be used; the text names file, line and reason.
            TidemillError: As `tidemill.bench.store.writing`; nothing of the file was imported.
        """
        return self.take(PaperFile(Path(path)))

    def import_shipped(self) -> ImportReport:
        """Read the first page, which is part of the package, and the papers of the systems."""
        pages, papers = self.take(FirstPage()), self.take(SystemPapers(self._systems))
        return pages + papers

    def take(self, source: Source) -> ImportReport:
        """Take in everything a source has, in one transaction.

        Raises:
            InputError: From the source.
            TidemillError: As `tidemill.bench.store.writing`; nothing was imported.
        """
        found = list(source.fetch(None))  # before the database is locked for others
        started = self._clock()
        refused = tuple(item for item in found if isinstance(item, Refusal))
        with writing(self.store.engine) as connection:
            key = _source_key(connection, source)
            intake = Intake(connection, key, started)
            outcomes = Counter(intake.take(raw) for raw in found if isinstance(raw, RawEntry))
            report = ImportReport(
                len(found), outcomes[Outcome.NEW], outcomes[Outcome.CHANGED], refused
            )
            ended = self._clock()
            connection.execute(
                sa.insert(tables.update_run).values(
                    source=key,
                    started=started,
                    ended=ended,
                    read=report.read,
                    new=report.new,
                    changed=report.changed,
                    refused=len(refused),
                )
            )
            is_source = tables.source.c.key == key
            connection.execute(sa.update(tables.source).where(is_source).values(last_ok=ended))
        return report

    def page(
        self,
        *,
        category: str | None = None,
        day: date | None = None,
        since: date | None = None,
        number: int = 1,
        per_page: int = 20,
    ) -> Page:
        """A page of all papers, of a category, of a day or since a day, newest first.

        Raises:
            PageOutOfRange: ``number`` is past the last page.
            UnknownCategory: There is no such category.
            ConfigError: ``number`` is below 1, or ``per_page`` not in [1, 200].
        """
        with reading(self.store.engine) as connection:
            key, shown = (None, None) if category is None else category_of(connection, category)
            shelf = Shelf(connection, category=key, day=day, since=since)
            keys, pages, total = _cut(shelf, number, per_page)
            return Page(
                entries=entries(connection, keys, self._built),
                number=number,
                pages=pages,
                total=total,
                category=shown and replace(shown, count=total),
                day=day,
            )

    def search(
        self,
        query: str,
        *,
        number: int = 1,
        per_page: int = 20,
        claims: Callable[[str], Collection[str] | None] | None = None,
    ) -> Page:
        """Papers that match ``query``, best first; see `tidemill.feed.query` for its grammar.

        Args:
            query: What the user typed; nothing in it is an error.
            number: From 1.
            per_page: In [1, 200].
            claims: For ``claim:WORD``: the names of the systems of which WORD ("holds") is true,
                None if it means nothing.

        Raises:
            PageOutOfRange: ``number`` is past the last page.
            ConfigError: ``number`` is below 1, or ``per_page`` not in [1, 200].
        """
        with reading(self.store.engine) as connection:
            search = Search(connection, parse_query(query), self._built, claims)
            keys, pages, total = _cut(search, number, per_page)
            return Page(
                entries=entries(connection, keys, self._built, search.snippets(keys)),
                number=number,
                pages=pages,
                total=total,
                query=query,
                ignored=tuple(search.ignored),
            )

    def paper(self, paper_id: str) -> Entry | None:
        """The paper with that id or slug, also one it had before a merge; None if there is none.

        ``Entry.id`` is its present id: where it differs from what was asked, redirect. An arXiv id
        may be written in any of its ways, a slug be cut short to ten characters.
        """
        with reading(self.store.engine) as connection:
            key = _shown_key(connection, paper_id)
            return None if key is None else entries(connection, [key], self._built)[0]

    def near_duplicates(self, paper_id: str) -> tuple[Entry, ...]:
        """Papers whose abstract is nearly the same, most alike first."""
        twin = tables.paper_twin
        with reading(self.store.engine) as connection:
            key = _shown_key(connection, paper_id)
            alike = sa.select(twin.c.other).where(twin.c.paper == key)
            ordered = alike.order_by(twin.c.likeness.desc(), twin.c.other)
            return entries(connection, list(connection.execute(ordered).scalars()), self._built)

    def versions(self, paper_id: str) -> tuple[Version, ...]:
        """Every text of a paper that was ever seen here, the present one first, then the newest."""
        with reading(self.store.engine) as connection:
            key = _shown_key(connection, paper_id)
            return () if key is None else merging.versions(connection, key)

    def merged(self, paper_id: str) -> tuple[str, ...]:
        """The ids that a paper had before, each of which `split` can give back."""
        paper = tables.paper
        with reading(self.store.engine) as connection:
            key = _shown_key(connection, paper_id)
            ids = sa.select(paper.c.id).where(paper.c.merged_into == key).order_by(paper.c.key)
            return tuple(connection.execute(ids).scalars())

    def split(self, old_id: str) -> None:
        """Take the merge of a paper into another back; it is not repeated by itself.

        Raises:
            InputError: No paper of that id was merged into another.
        """
        with writing(self.store.engine) as connection:
            merging.split(connection, old_id, now=self._clock())

    def categories(self) -> tuple[Category, ...]:
        """The categories, in the order in which they came to be, each with its count."""
        with reading(self.store.engine) as connection:
            return categories(connection)

    def days(self) -> tuple[Day, ...]:
        """The days with announcements, newest first."""
        day = tables.paper.c.announced
        counted = (
            sa.select(day, sa.func.count())
            .where(tables.paper.c.merged_into.is_(None))
            .group_by(day)
            .order_by(day.desc())
        )
        with reading(self.store.engine) as connection:
            return tuple(Day(*row) for row in connection.execute(counted))

    @cached_property
    def _built(self) -> dict[str, str]:
        """Name of the installed system by the identity of its paper."""
        return {
            id_of(system.paper.arxiv_id, system.paper.title): system.name
            for system in self._systems()
        }


class _List(Protocol):
    def total(self) -> int: ...
    def keys(self, *, offset: int, limit: int) -> list[int]: ...


def _cut(found: _List, number: int, per_page: int) -> tuple[list[int], int, int]:
    """The keys of one page, the number of pages, and that of all entries."""
    if number < 1:
        raise ConfigError.of("number", number, "at least 1", "pages are counted from 1")
    if not 1 <= per_page <= MOST_PER_PAGE:
        raise ConfigError.of("per_page", per_page, f"in [1, {MOST_PER_PAGE}]")
    total = found.total()
    pages = max(1, -(-total // per_page))
    if number > pages:
        raise PageOutOfRange(number, pages)
    return found.keys(offset=(number - 1) * per_page, limit=per_page), pages, total


def _shown_key(connection: sa.Connection, paper_id: str) -> int | None:
    """The key of the paper of that id or slug, or of the one it was merged into."""
    found = arxiv_id(paper_id)
    wanted = f"arxiv:{found[0]}" if found else paper_id
    paper = tables.paper
    is_it = (paper.c.id == wanted) | (paper.c.slug == paper_id)
    if _SHORT_SLUG.fullmatch(paper_id):
        is_it = paper.c.slug.between(paper_id, f"{paper_id}g")
    known = sa.select(sa.func.coalesce(paper.c.merged_into, paper.c.key)).where(is_it).limit(2)
    keys = list(connection.execute(known).scalars())
    return keys[0] if len(keys) == 1 else None


def _source_key(connection: sa.Connection, source: Source) -> int:
    table = tables.source
    known = sa.select(table.c.key).where(table.c.kind == source.kind, table.c.name == source.name)
    found = connection.execute(known).scalar()
    if found is not None:
        return found
    made = sa.insert(table).values(kind=source.kind, name=source.name).returning(table.c.key)
    return connection.execute(made).scalar_one()
