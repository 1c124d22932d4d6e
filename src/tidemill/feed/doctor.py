"""Whether a library is sound: what must always be true of its tables, checked from outside."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tidemill.bench.store import reading, writing
from tidemill.errors import CorruptFile
from tidemill.feed.library import Library
from tidemill.feed.raw import RawEntry
from tidemill.feed.sources import FirstPage
from tidemill.feed.tables import metadata, paper, update_run

_MUST_BE_EMPTY = {
    "every shown paper can be searched": (
        "SELECT id FROM paper WHERE merged_into IS NULL "
        "AND key NOT IN (SELECT rowid FROM paper_text)"
    ),
    "nothing else can be found": (
        "SELECT rowid FROM paper_text "
        "WHERE rowid NOT IN (SELECT key FROM paper WHERE merged_into IS NULL)"
    ),
    "categories list shown papers on their days": (
        "SELECT paper.id FROM paper_category JOIN paper ON paper.key = paper_category.paper "
        "WHERE paper.merged_into IS NOT NULL OR paper.announced <> paper_category.announced "
        "OR paper.place <> paper_category.place"
    ),
    "merged papers lead to a shown one": (
        "SELECT old.id FROM paper old JOIN paper new ON new.key = old.merged_into "
        "WHERE new.merged_into IS NOT NULL"
    ),
    "references between the tables": "SELECT * FROM pragma_foreign_key_check",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Args:
        check: What is expected.
        ok: Whether it is so.
        found: What was found instead, or in all.
    """

    check: str
    ok: bool
    found: str


def examine(library: Library) -> list[Finding]:
    """Check a migrated library; cost: about a second per 100,000 papers.

    Raises:
        TidemillError: As `tidemill.bench.store.writing`.
    """
    findings = [_search_index(library)]
    with reading(library.store.engine) as connection:
        said = connection.execute(sa.text("PRAGMA quick_check")).scalars().all()
        findings.append(Finding("the database file", said == ["ok"], "; ".join(said)[:200]))
        for check, query in _MUST_BE_EMPTY.items():
            rows = [str(row[0]) for row in connection.execute(sa.text(query)).all()]
            found = f"{len(rows)} not so: {', '.join(rows[:3])}" if rows else "so it is"
            findings.append(Finding(check, not rows, found))
        count = connection.execute(sa.select(sa.func.count()).select_from(paper)).scalar_one()
        last = connection.execute(sa.select(sa.func.max(update_run.c.ended))).scalar()
        told = f"{count} rows in {len(metadata.tables)} tables, last import {last or 'never'}"
        findings.append(Finding("papers", True, told))
    missing = [
        raw.title
        for raw in FirstPage().fetch(None)
        if isinstance(raw, RawEntry) and library.paper(raw.id) is None
    ]
    found = f"{len(missing)} missing; `tidemill up` brings them in" if missing else "all there"
    findings.append(Finding("the first page", True, found))
    return findings


def _search_index(library: Library) -> Finding:
    """FTS5 compares its index with the texts it holds."""
    check = "the search index in itself"
    try:
        with writing(library.store.engine) as connection:
            connection.execute(
                sa.text("INSERT INTO paper_text(paper_text) VALUES ('integrity-check')")
            )
    except CorruptFile as error:
        return Finding(check, False, str(error))
    return Finding(check, True, "so it is")
