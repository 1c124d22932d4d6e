"""The tables of the library; `migrations` makes them, a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from tidemill.bench.tables import UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _number() -> Column[int]:
    return Column("key", Integer, primary_key=True, autoincrement=True)


def _of(table: str, name: str | None = None, *, is_key: bool = False) -> Column[int]:
    return Column(
        name or table, Integer, ForeignKey(f"{table}.key"), primary_key=is_key, nullable=False
    )


paper = Table(
    "paper",
    metadata,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    Column("slug", String(64), nullable=False, unique=True),
    Column("tag", String(64), nullable=False),
    # the row that took this one over; it keeps its id and its own words, so that ids stay known
    # and the merge can be undone
    Column("merged_into", Integer, ForeignKey("paper.key")),
    Column("title", Text, nullable=False),
    Column("abstract", Text, nullable=False),
    Column("title_html", Text, nullable=False),
    Column("abstract_html", Text, nullable=False),
    Column("lang", String(2), nullable=False),
    Column("title_key", String(40), nullable=False),
    Column("text_hash", String(64), nullable=False),
    Column("text_seen", UtcDateTime, nullable=False),
    Column("announced", Date, nullable=False),
    Column("certainty", Integer, nullable=False),
    Column("place", BigInteger, nullable=False),  # within a day, in the order of the source
    Column("submitted", UtcDateTime),
    Column("revised", UtcDateTime),
    Column("updated", UtcDateTime, nullable=False),
    Column("version", Integer),
    Column("authors", JSON, nullable=False),
    Column("subjects", JSON, nullable=False),
    Column("links", JSON, nullable=False),
    Column("doi", Text),
    Column("journal_ref", Text),
    Column("comment", Text),
    Column("license", Text),
    Column("origin", Text),  # who announced it, as a page of a digest says
    Column("content_hash", String(64), nullable=False),
    Column("first_seen", UtcDateTime, nullable=False),
    Index("ix_paper_title_key", "title_key"),
    sqlite_autoincrement=True,
)
# lists, their counts, days and merged rows are all read from this index alone; two partial ones
# instead sent SQLite through the whole table, 570 ms for a page of 100,000 papers
Index("ix_paper_shown", paper.c.merged_into, paper.c.announced.desc(), paper.c.place)

# texts that are not the present one of their paper: replaced, or older when they arrived
paper_version = Table(
    "paper_version",
    metadata,
    _of("paper", is_key=True),
    Column("text_hash", String(64), primary_key=True),
    Column("version", Integer),
    Column("title", Text, nullable=False),
    Column("abstract", Text, nullable=False),
    Column("seen", UtcDateTime, nullable=False),
)

paper_subject = Table(
    "paper_subject",
    metadata,
    Column("subject", String(100), primary_key=True),
    _of("paper", is_key=True),
    Index("ix_paper_subject_paper", "paper"),
    sqlite_with_rowid=False,
)

category = Table(
    "category",
    metadata,
    _number(),
    Column("slug", String(64), nullable=False, unique=True),
    Column("name_zh", Text, nullable=False, unique=True),
    Column("name_en", Text, nullable=False),
    sqlite_autoincrement=True,
)

# day and place are those of the paper: a page of a category is then one walk along an index
paper_category = Table(
    "paper_category",
    metadata,
    _of("category", is_key=True),
    _of("paper", is_key=True),
    Column("announced", Date, nullable=False),
    Column("place", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("by", String(10), nullable=False),
    Index("ix_paper_category_paper", "paper"),
    sqlite_with_rowid=False,
)
Index(
    "ix_paper_category_shown",
    paper_category.c.category,
    paper_category.c.announced.desc(),
    paper_category.c.place,
)

source = Table(
    "source",
    metadata,
    _number(),
    Column("kind", String(20), nullable=False),
    Column("name", Text, nullable=False),
    Column("last_ok", UtcDateTime),
    UniqueConstraint("kind", "name"),
    sqlite_autoincrement=True,
)

update_run = Table(
    "update_run",
    metadata,
    _number(),
    _of("source"),
    Column("started", UtcDateTime, nullable=False),
    Column("ended", UtcDateTime),
    Column("read", Integer, nullable=False),
    Column("new", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    sqlite_autoincrement=True,
)

sighting = Table(
    "sighting",
    metadata,
    _of("paper", is_key=True),
    Column("fingerprint", String(64), primary_key=True),
    _of("source"),
    Column("line", Integer, nullable=False),
    Column("announce_type", String(20)),
    Column("seen", UtcDateTime, nullable=False),
    sqlite_with_rowid=False,
)

paper_merge = Table(
    "paper_merge",
    metadata,
    _number(),
    _of("paper", "old"),
    _of("paper", "into"),
    Column("at", UtcDateTime, nullable=False),
    Column("undone", UtcDateTime),
    Column("filled", JSON, nullable=False),  # what `into` took over, and what it had there before
    Column("moved", JSON, nullable=False),  # categories that went along: those `into` did not have
    Index("ix_paper_merge_old", "old"),
    sqlite_autoincrement=True,
)

paper_shingle = Table(
    "paper_shingle",
    metadata,
    Column("hash", BigInteger, primary_key=True),
    _of("paper", is_key=True),
    Index("ix_paper_shingle_paper", "paper"),
    sqlite_with_rowid=False,
)

paper_twin = Table(
    "paper_twin",
    metadata,
    _of("paper", is_key=True),
    _of("paper", "other", is_key=True),
    Column("likeness", Integer, nullable=False),  # Jaccard index in thousandths
    sqlite_with_rowid=False,
)
