"""Papers, their categories, sources and merges, and the search index."""

import sqlalchemy as sa
from alembic import op

from tidemill.bench.tables import UtcDateTime

revision = "f001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "category",
        sa.Column("key", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("name_zh", sa.Text, nullable=False),
        sa.Column("name_en", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_category"),
        sa.UniqueConstraint("name_zh", name="uq_category_name_zh"),
        sa.UniqueConstraint("slug", name="uq_category_slug"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "paper",
        sa.Column("key", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("tag", sa.String(64), nullable=False),
        sa.Column("merged_into", sa.Integer),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("abstract", sa.Text, nullable=False),
        sa.Column("title_html", sa.Text, nullable=False),
        sa.Column("abstract_html", sa.Text, nullable=False),
        sa.Column("lang", sa.String(2), nullable=False),
        sa.Column("title_key", sa.String(40), nullable=False),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("text_seen", UtcDateTime, nullable=False),
        sa.Column("announced", sa.Date, nullable=False),
        sa.Column("certainty", sa.Integer, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("submitted", UtcDateTime),
        sa.Column("revised", UtcDateTime),
        sa.Column("updated", UtcDateTime, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("authors", sa.JSON, nullable=False),
        sa.Column("subjects", sa.JSON, nullable=False),
        sa.Column("links", sa.JSON, nullable=False),
        sa.Column("doi", sa.Text),
        sa.Column("journal_ref", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("license", sa.Text),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("first_seen", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_paper"),
        sa.ForeignKeyConstraint(["merged_into"], ["paper.key"], name="fk_paper_merged_into"),
        sa.UniqueConstraint("id", name="uq_paper_id"),
        sa.UniqueConstraint("slug", name="uq_paper_slug"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_paper_shown", "paper", ["merged_into", sa.text("announced DESC"), "place"])
    op.create_index("ix_paper_title_key", "paper", ["title_key"])
    op.create_table(
        "source",
        sa.Column("key", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("last_ok", UtcDateTime),
        sa.PrimaryKeyConstraint("key", name="pk_source"),
        sa.UniqueConstraint("kind", "name", name="uq_source_kind_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "paper_category",
        sa.Column("category", sa.Integer, nullable=False),
        sa.Column("paper", sa.Integer, nullable=False),
        sa.Column("announced", sa.Date, nullable=False),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("by", sa.String(10), nullable=False),
        sa.PrimaryKeyConstraint("category", "paper", name="pk_paper_category"),
        sa.ForeignKeyConstraint(["category"], ["category.key"], name="fk_paper_category_category"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_paper_category_paper"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_paper_category_paper", "paper_category", ["paper"])
    op.create_index(
        "ix_paper_category_shown",
        "paper_category",
        ["category", sa.text("announced DESC"), "place"],
    )
    op.create_table(
        "paper_merge",
        sa.Column("key", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("old", sa.Integer, nullable=False),
        sa.Column("into", sa.Integer, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.Column("undone", UtcDateTime),
        sa.Column("filled", sa.JSON, nullable=False),
        sa.Column("moved", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_paper_merge"),
        sa.ForeignKeyConstraint(["into"], ["paper.key"], name="fk_paper_merge_into"),
        sa.ForeignKeyConstraint(["old"], ["paper.key"], name="fk_paper_merge_old"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_paper_merge_old", "paper_merge", ["old"])
    op.create_table(
        "paper_shingle",
        sa.Column("hash", sa.BigInteger, nullable=False),
        sa.Column("paper", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("hash", "paper", name="pk_paper_shingle"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_paper_shingle_paper"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_paper_shingle_paper", "paper_shingle", ["paper"])
    op.create_table(
        "paper_subject",
        sa.Column("subject", sa.String(100), nullable=False),
        sa.Column("paper", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("subject", "paper", name="pk_paper_subject"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_paper_subject_paper"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_paper_subject_paper", "paper_subject", ["paper"])
    op.create_table(
        "paper_twin",
        sa.Column("paper", sa.Integer, nullable=False),
        sa.Column("other", sa.Integer, nullable=False),
        sa.Column("likeness", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("paper", "other", name="pk_paper_twin"),
        sa.ForeignKeyConstraint(["other"], ["paper.key"], name="fk_paper_twin_other"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_paper_twin_paper"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "paper_version",
        sa.Column("paper", sa.Integer, nullable=False),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("abstract", sa.Text, nullable=False),
        sa.Column("seen", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("paper", "text_hash", name="pk_paper_version"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_paper_version_paper"),
    )
    op.create_table(
        "sighting",
        sa.Column("paper", sa.Integer, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("source", sa.Integer, nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("announce_type", sa.String(20)),
        sa.Column("seen", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("paper", "fingerprint", name="pk_sighting"),
        sa.ForeignKeyConstraint(["paper"], ["paper.key"], name="fk_sighting_paper"),
        sa.ForeignKeyConstraint(["source"], ["source.key"], name="fk_sighting_source"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "update_run",
        sa.Column("key", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("source", sa.Integer, nullable=False),
        sa.Column("started", UtcDateTime, nullable=False),
        sa.Column("ended", UtcDateTime),
        sa.Column("read", sa.Integer, nullable=False),
        sa.Column("new", sa.Integer, nullable=False),
        sa.Column("changed", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_update_run"),
        sa.ForeignKeyConstraint(["source"], ["source.key"], name="fk_update_run_source"),
        sqlite_autoincrement=True,
    )
    op.execute(
        "CREATE VIRTUAL TABLE paper_text USING fts5(title, abstract, authors, notes, "
        "tokenize='porter unicode61 remove_diacritics 2')"
    )
    op.execute(
        "INSERT INTO paper_text(paper_text, rank) VALUES ('rank', 'bm25(5.0, 1.0, 2.0, 1.0)')"
    )
