"""`Library`: the papers of the digest in the house's database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime
from pathlib import Path

from tidemill.bench import System, discover
from tidemill.bench.store import Store
from tidemill.feed.entry import Category, Day, Entry, ImportReport, Page, Version


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
        systems: Callable[[], Iterable[System]] = discover,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self._systems = systems
        self._clock = clock

    def migrate(self) -> None:
        """Create or update the tables; idempotent, safe from several processes at once.

        Raises:
            MissingCapability: The SQLite library lacks FTS5.
        """
        raise NotImplementedError

    def import_file(self, path: Path | str) -> ImportReport:
        """Read a page, feed, bibliography or dump, its kind told by its content.

        All of the file or nothing: one transaction. Importing it again changes nothing.

        Raises:
            InputError: The whole file cannot be used; the text names file, line and reason.
        """
        raise NotImplementedError

    def import_shipped(self) -> ImportReport:
        """Read the first page, which is part of the package, and the papers of the systems."""
        raise NotImplementedError

    def page(
        self,
        *,
        category: str | None = None,
        day: date | None = None,
        number: int = 1,
        per_page: int = 20,
    ) -> Page:
        """A page of all papers, of a category or of a day, newest first.

        Raises:
            PageOutOfRange: ``number`` is past the last page.
            UnknownCategory: There is no such category.
            ConfigError: ``number`` is below 1, or ``per_page`` not in [1, 200].
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def paper(self, paper_id: str) -> Entry | None:
        """The paper with that id or slug, also one it had before a merge; None if there is none.

        ``Entry.id`` is its present id: where it differs from what was asked, redirect.
        """
        raise NotImplementedError

    def near_duplicates(self, paper_id: str) -> tuple[Entry, ...]:
        """Papers whose abstract is nearly the same, most alike first."""
        raise NotImplementedError

    def versions(self, paper_id: str) -> tuple[Version, ...]:
        """Every text of a paper that was ever seen here, the present one first."""
        raise NotImplementedError

    def categories(self) -> tuple[Category, ...]:
        """The categories, in the order in which they came to be, each with its count."""
        raise NotImplementedError

    def days(self) -> tuple[Day, ...]:
        """The days with announcements, newest first."""
        raise NotImplementedError
