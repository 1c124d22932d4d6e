"""Taking entries in: who is it, is anything new about it, and what is kept of the old.

Its laws: an entry that was seen before, wherever, changes nothing; a text once seen is never lost
and never comes back over a newer one; one paper has one row that is shown.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from enum import StrEnum
from typing import Any, cast

import sqlalchemy as sa

from tidemill.feed import index, merging
from tidemill.feed.categories import category_key
from tidemill.feed.identity import content_hash, slug_of, text_hash, title_key
from tidemill.feed.markup import render
from tidemill.feed.raw import RawEntry
from tidemill.feed.tables import paper, paper_category, paper_version, sighting
from tidemill.feed.text import language

_FIELDS = ("authors", "subjects", "doi", "journal_ref", "comment", "license", "origin")
_NEVER = datetime(1, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


class Outcome(StrEnum):
    """What an entry meant for the library."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"


class Intake:
    """One import, within one writing transaction.

    Args:
        connection: In that transaction.
        source: Key of the source of the entries.
        now: The present time in UTC.
    """

    def __init__(self, connection: sa.Connection, source: int, now: datetime) -> None:
        self._connection = connection
        self._source = source
        self._now = now
        last = connection.execute(sa.select(sa.func.max(paper.c.place))).scalar()
        self._place = last or 0

    def take(self, raw: RawEntry) -> Outcome:
        """Take in one entry; cost: about 2 ms, most of it SQL."""
        own = self._row(paper.c.id == raw.id)
        if own is None:
            own, outcome = self._add(raw)
        elif self._was_seen(own["key"], raw):
            return Outcome.SAME
        else:
            outcome = self._update(own, raw)
        self._connection.execute(
            sa.insert(sighting).values(
                paper=own["key"],
                fingerprint=raw.fingerprint,
                source=self._source,
                line=raw.line,
                announce_type=raw.announce_type,
                seen=self._now,
            )
        )
        return outcome

    def _row(self, condition: sa.ColumnElement[bool]) -> Row | None:
        found = self._connection.execute(sa.select(paper).where(condition)).mappings().first()
        return None if found is None else {**found}

    def _was_seen(self, key: int, raw: RawEntry) -> bool:
        same = (sighting.c.paper == key) & (sighting.c.fingerprint == raw.fingerprint)
        return self._connection.execute(sa.select(sighting.c.line).where(same)).first() is not None

    def _add(self, raw: RawEntry) -> tuple[Row, Outcome]:
        row = self._fresh(raw)
        made = sa.insert(paper).values(row).returning(paper.c.key)
        row["key"] = self._connection.execute(made).scalar_one()
        partner = merging.partner(self._connection, row)
        self._put_in_category(row, raw)
        if partner is None or raw.arxiv_id:
            index.add(self._connection, row["key"], row)
        if partner is None:
            return row, Outcome.NEW
        if raw.arxiv_id:
            merging.merge(self._connection, partner, row, now=self._now, is_new=True)
            return row, Outcome.CHANGED
        keys = merging.family(self._connection, partner["key"])
        merging.merge(self._connection, row, partner, now=self._now)
        self._revise(partner, raw, keys)
        return row, Outcome.CHANGED

    def _fresh(self, raw: RawEntry) -> Row:
        self._place += 1
        row: Row = {
            "id": raw.id,
            "slug": slug_of(raw.id),
            "tag": raw.id,
            "merged_into": None,
            "announced": raw.announced,
            "certainty": int(raw.certainty),
            "place": self._place,
            "submitted": raw.submitted,
            "revised": raw.revised,
            "updated": raw.revised or datetime.combine(raw.announced, time(), UTC),
            "version": raw.version,
            "links": list(raw.links),
            "first_seen": self._now,
            **{name: _stored(getattr(raw, name)) for name in _FIELDS},
            **self._words(raw),
        }
        return row | {"content_hash": content_hash(row)}

    def _words(self, raw: RawEntry) -> Row:
        return {
            "title": raw.title,
            "abstract": raw.abstract,
            "title_html": render(raw.title),
            "abstract_html": render(raw.abstract),
            "lang": language(raw.abstract),
            "title_key": title_key(raw.title),
            "text_hash": text_hash(raw.title, raw.abstract),
            "text_seen": self._now,
        }

    def _update(self, own: Row, raw: RawEntry) -> Outcome:
        """Bring a known paper up to date: the row that is shown, and a merged one behind it."""
        shown = own
        if own["merged_into"] is not None:
            shown = self._row(paper.c.key == own["merged_into"]) or own
        keys = merging.family(self._connection, shown["key"])
        has_changed = self._revise(shown, raw, keys)
        is_listed = self._put_in_category(shown, raw)
        if is_listed:
            index.keep(self._connection, shown["key"], shown)  # the category's name is searched too
            has_changed = True
        if shown is not own:
            self._revise(own, raw, [own["key"]])
            if raw.category:
                category = category_key(self._connection, raw.category)
                placing = {"category": category, "why": raw.why, "by": "page", "added": is_listed}
                merging.remember_placing(self._connection, own["key"], placing)
        elif (other := merging.partner(self._connection, shown)) is not None:
            old, into = (other, shown) if shown["id"].startswith("arxiv:") else (shown, other)
            merging.merge(self._connection, old, into, now=self._now)
            has_changed = True
        return Outcome.CHANGED if has_changed else Outcome.SAME

    def _revise(self, row: Row, raw: RawEntry, keys: list[int]) -> bool:
        """Write into ``row`` what is new; ``keys`` are the rows whose texts count as known."""
        before = {**row}
        row.update(self._changes(row, raw, keys))
        row["content_hash"] = content_hash(row)
        if row["content_hash"] != before["content_hash"]:
            row["updated"] = merging.moved_on(before["updated"], self._now)
        changed = {name: value for name, value in row.items() if value != before[name]}
        if not changed:
            return False
        self._connection.execute(sa.update(paper).where(paper.c.key == row["key"]).values(changed))
        if row["merged_into"] is None:
            self._reflect(row, changed)
        return True

    def _changes(self, row: Row, raw: RawEntry, keys: list[int]) -> Row:
        lead = _lead(row, raw)
        changes = self._changed_words(row, raw, lead, keys)
        for name in _FIELDS:
            value = _stored(getattr(raw, name))
            if value and (lead >= 0 or not row[name]):
                changes[name] = value
        changes["links"] = list(dict.fromkeys([*row["links"], *raw.links]))
        changes["version"] = max(filter(None, (row["version"], raw.version)), default=None)
        changes["revised"] = max(filter(None, (row["revised"], raw.revised)), default=None)
        changes["submitted"] = min(filter(None, (row["submitted"], raw.submitted)), default=None)
        better = merging.better_day(
            (row["announced"], row["certainty"]), (raw.announced, int(raw.certainty))
        )
        changes["announced"], changes["certainty"] = better
        return changes

    def _changed_words(self, row: Row, raw: RawEntry, lead: int, keys: list[int]) -> Row:
        """Columns of the new text if it is one; the text that is not shown goes to the versions."""
        new_hash = text_hash(raw.title, raw.abstract)
        if new_hash == row["text_hash"]:
            return {}
        is_known = merging.is_known_text(self._connection, keys, new_hash)
        if lead > 0 or (lead == 0 and not is_known):
            self._archive(row["key"], row["text_hash"], row, row["text_seen"])
            return self._words(raw)
        if not is_known:
            words = {"title": raw.title, "abstract": raw.abstract, "version": raw.version}
            self._archive(row["key"], new_hash, words, self._now)
        return {}

    def _archive(self, key: int, hashed: str, words: Row, seen: datetime) -> None:
        known = (paper_version.c.paper == key) & (paper_version.c.text_hash == hashed)
        self._connection.execute(sa.delete(paper_version).where(known))
        self._connection.execute(
            sa.insert(paper_version).values(
                paper=key,
                text_hash=hashed,
                version=words["version"],
                title=words["title"],
                abstract=words["abstract"],
                seen=seen,
            )
        )

    def _reflect(self, row: Row, changed: Row) -> None:
        """Carry a change of the paper into what is derived from it."""
        if changed.keys() & {"title", "abstract", *_FIELDS}:
            index.keep(self._connection, row["key"], row)
        if "announced" in changed:
            merging.date_categories(self._connection, row)

    def _put_in_category(self, row: Row, raw: RawEntry) -> bool:
        """Whether the source lists the paper where it was not listed before."""
        if not raw.category:
            return False
        category = category_key(self._connection, raw.category)
        listed = (paper_category.c.category == category) & (paper_category.c.paper == row["key"])
        if self._connection.execute(sa.select(paper_category.c.by).where(listed)).first():
            return False
        self._connection.execute(
            sa.insert(paper_category).values(
                category=category,
                paper=row["key"],
                announced=row["announced"],
                place=row["place"],
                why=raw.why,
                by="page",
            )
        )
        return True


def _lead(row: Row, raw: RawEntry) -> int:
    """1 if the source is ahead of what is stored, -1 if it is behind, 0 if neither can tell."""
    theirs = raw.version or 0, raw.revised or _NEVER
    ours = row["version"] or 0, row["revised"] or _NEVER
    return (theirs > ours) - (theirs < ours)


def _stored(value: object) -> object:
    return list(cast("tuple[str, ...]", value)) if isinstance(value, tuple) else value
