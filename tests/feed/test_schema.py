"""The tables under the library: made by migrations, told when they cannot be."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from paper_builders import given_papers, raw

from tidemill.bench.store import Store
from tidemill.errors import InputError, MissingCapability
from tidemill.feed import ImportReport, Library
from tidemill.feed.index import require_full_text
from tidemill.feed.tables import metadata


def definitions(path: Path) -> dict[str, set[str]]:
    """What SQLite was told of each table and index of the library: the parts, in no order."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, tbl_name, sql FROM sqlite_master").fetchall()
    connection.close()
    return {
        name: {part.strip().lower() for part in re.split(r",(?![^(]*\))|\n", sql) if part.strip()}
        for name, table, sql in rows
        if table in metadata.tables and sql
    }


def test_migrations_make_exactly_the_tables_that_the_code_expects(
    library: Library, tmp_path: Path
) -> None:
    plain = sa.create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    metadata.create_all(plain)
    plain.dispose()
    migrated, expected = definitions(tmp_path / "papers.db"), definitions(tmp_path / "plain.db")
    assert migrated.keys() == expected.keys()
    spaces = re.compile(r"[\s\"(),]+")
    for name, parts in expected.items():
        ours, theirs = (
            sorted(spaces.sub(" ", " ".join(sorted(some))).split())
            for some in (migrated[name], parts)
        )
        assert [word for word in ours if word != "primary"] == [
            word for word in theirs if word != "primary"
        ], name


def test_results_and_papers_live_in_one_database_and_migrate_apart(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "all.db"))
    library = Library(store, systems=list)
    library.migrate()
    store.migrate()
    library.migrate()
    assert library.take(given_papers(raw())) == ImportReport(1, 1)
    assert store.outcomes("toy") == []
    store.close()


def test_a_library_that_was_never_migrated_says_so(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "papers.db"), systems=list)
    with pytest.raises(InputError, match="lacks tables of tidemill"):
        library.page()
    library.store.close()


class CursorWithoutFts5(sqlite3.Cursor):
    """A cursor of a SQLite that was built without FTS5."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if "fts5" in sql:
            raise sqlite3.OperationalError("no such module: fts5")
        return super().execute(sql, *arguments)


class WithoutFts5(sqlite3.Connection):
    def cursor(self, factory: Any = CursorWithoutFts5) -> Any:
        return super().cursor(factory)


def test_a_sqlite_without_fts5_is_told_in_one_sentence() -> None:
    engine = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(":memory:", factory=WithoutFts5)
    )
    with pytest.raises(MissingCapability, match="built without FTS5; use a Python whose sqlite3"):
        require_full_text(engine)
    engine.dispose()


def test_another_database_than_sqlite_is_told_in_one_sentence() -> None:
    elsewhere = sa.create_mock_engine("postgresql://", lambda *_: None)
    with pytest.raises(MissingCapability, match=r"search in postgresql — .* to a SQLite file"):
        require_full_text(cast(sa.Engine, elsewhere))


def test_a_database_that_cannot_be_opened_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "papers.db"
    path.write_text("this is no database, and long enough to be looked at as one")
    library = Library(str(path), systems=list)
    with pytest.raises(InputError, match="is not a usable SQLite database"):
        library.migrate()
    library.store.close()
