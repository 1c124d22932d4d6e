"""What is derived from a paper: the full-text index, its subjects, links to near-duplicates.

Kept in step by whoever writes a paper, in the same transaction. Only papers that are shown are in
it; one that was merged into another is not.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from tidemill.bench.store import reading
from tidemill.errors import MissingCapability
from tidemill.feed.tables import (
    category,
    paper,
    paper_category,
    paper_shingle,
    paper_subject,
    paper_twin,
)
from tidemill.feed.text import split_han

SHINGLE_WORDS = 5
NEAR_DUPLICATE = 0.92
"""The Jaccard index of two abstracts' shingles from which on they are linked."""

_ANCHORS = 8
_SHARED_ANCHORS = 4  # of 8; at an index of 0.92 fewer are shared once in 7,000 pairs
_WORD = re.compile(r"\w+")
_SEARCHED = sa.text(
    "INSERT INTO paper_text(rowid, title, abstract, authors, notes) "
    "VALUES (:key, :title, :abstract, :authors, :notes)"
)
_UNSEARCHED = sa.text("DELETE FROM paper_text WHERE rowid = :key")


def require_full_text(engine: sa.Engine) -> None:
    """See whether the database can search text as is done here.

    Raises:
        MissingCapability: It is a SQLite without FTS5, or no SQLite at all.
        TidemillError: As `reading`, if it cannot be opened.
    """
    if engine.dialect.name != "sqlite":
        raise MissingCapability(
            f"search in {engine.dialect.name} — papers are searched with SQLite's FTS5 so far; "
            "set TIDEMILL_DB to a SQLite file."
        )
    try:
        with reading(engine) as connection:
            connection.exec_driver_sql("CREATE VIRTUAL TABLE temp.fts5_is_here USING fts5(text)")
            connection.exec_driver_sql("DROP TABLE temp.fts5_is_here")
    except OperationalError as error:
        if "no such module" not in str(error):
            raise
        raise MissingCapability(
            f"search — SQLite {sqlite3.sqlite_version} of this Python was built without FTS5; use "
            "a Python whose sqlite3 has it, as those of Debian, conda-forge and python.org do."
        ) from error


def keep(connection: sa.Connection, key: int, row: Mapping[str, Any]) -> None:
    """Index anew a paper whose words or categories changed; arguments as of `add`."""
    drop(connection, key)
    add(connection, key, row)


def add(connection: sa.Connection, key: int, row: Mapping[str, Any]) -> None:
    """Index a paper that is not in the index.

    Args:
        connection: In a writing transaction.
        key: Of the paper.
        row: Its row, or at least the columns with words.
    """
    listed = (
        sa.select(category.c.name_zh, category.c.name_en)
        .join(paper_category)
        .where(paper_category.c.paper == key)
    )
    names = [name for names in connection.execute(listed) for name in names]
    told = (row["id"].partition(":")[2], row["doi"], row["journal_ref"], row["comment"])
    notes = [*filter(None, told), *row["subjects"], *names]
    connection.execute(
        _SEARCHED,
        {
            "key": key,
            "title": split_han(row["title"]),
            "abstract": split_han(row["abstract"]),
            "authors": split_han(", ".join(row["authors"])),
            "notes": split_han(" · ".join(notes)),
        },
    )
    subjects = {subject.lower()[:100] for subject in row["subjects"]}
    if subjects:
        connection.execute(
            sa.insert(paper_subject), [{"subject": subject, "paper": key} for subject in subjects]
        )
    _link(connection, key, row["abstract"])


def drop(connection: sa.Connection, key: int) -> None:
    """Take the paper out of the index."""
    connection.execute(_UNSEARCHED, {"key": key})
    for table in (paper_subject, paper_shingle):
        connection.execute(sa.delete(table).where(table.c.paper == key))
    connection.execute(
        sa.delete(paper_twin).where((paper_twin.c.paper == key) | (paper_twin.c.other == key))
    )


def shingles(text: str) -> frozenset[str]:
    """The runs of `SHINGLE_WORDS` words; a Han character is a word; a shorter text is one run."""
    words = _WORD.findall(split_han(text.casefold()))
    last = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[at : at + SHINGLE_WORDS]) for at in range(last))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two sets of shingles, in [0, 1]."""
    return len(one & other) / len(one | other)


def _link(connection: sa.Connection, key: int, abstract: str) -> None:
    own = shingles(abstract)
    anchors = heapq.nsmallest(_ANCHORS, {_hash(shingle) for shingle in own})
    connection.execute(
        sa.insert(paper_shingle), [{"hash": anchor, "paper": key} for anchor in anchors]
    )
    alike = (
        sa.select(paper_shingle.c.paper)
        .where(paper_shingle.c.hash.in_(anchors), paper_shingle.c.paper != key)
        .group_by(paper_shingle.c.paper)
        .having(sa.func.count() >= min(_SHARED_ANCHORS, len(anchors)))
    )
    candidates = sa.select(paper.c.key, paper.c.abstract).where(paper.c.key.in_(alike))
    for other, text in connection.execute(candidates).all():
        index = likeness(own, shingles(text))
        if index >= NEAR_DUPLICATE:
            thousandths = round(1000 * index)
            pairs = ((key, other), (other, key))
            connection.execute(
                sa.insert(paper_twin),
                [{"paper": a, "other": b, "likeness": thousandths} for a, b in pairs],
            )


def _hash(shingle: str) -> int:
    digest = hashlib.blake2b(shingle.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
