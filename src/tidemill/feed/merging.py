"""One paper under two ids: finding that out, merging the rows, and taking it back.

A paper known by its title becomes one with an arXiv id as soon as any source gives that id with the
same normal title around the same day. The row of the old id stays, hidden, with its own words.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from tidemill.errors import InputError
from tidemill.feed import index
from tidemill.feed.entry import Version
from tidemill.feed.identity import content_hash
from tidemill.feed.raw import Certainty
from tidemill.feed.tables import paper, paper_category, paper_merge, paper_version

WINDOW_DAYS = 14
"""How far apart two sources may date the announcement of one paper."""
_MONTH_DAYS = 31

_FILLED = ("authors", "subjects", "links", "doi", "journal_ref", "comment", "license", "submitted")

Row = dict[str, Any]
Day = tuple[date, int]


def better_day(one: Day, other: Day) -> Day:
    """The more certain of two days of announcement, the earlier if they are equally certain."""
    return max(one, other, key=lambda day: (day[1], -day[0].toordinal()))


def moved_on(updated: datetime, now: datetime) -> datetime:
    """When a paper changed that had ``updated`` before; later also if the clock was set back."""
    return max(now, updated + timedelta(seconds=1))


def family(connection: sa.Connection, key: int) -> list[int]:
    """The keys of a shown paper and of the rows merged into it, the shown one first."""
    merged = sa.select(paper.c.key).where(paper.c.merged_into == key).order_by(paper.c.key)
    return [key, *connection.execute(merged).scalars()]


def is_known_text(connection: sa.Connection, keys: Collection[int], text_hash: str) -> bool:
    """Whether any of these rows has or had that text."""
    shown = sa.select(paper.c.key).where(paper.c.key.in_(keys), paper.c.text_hash == text_hash)
    old = sa.select(paper_version.c.paper).where(
        paper_version.c.paper.in_(keys), paper_version.c.text_hash == text_hash
    )
    return connection.execute(shown.union_all(old).limit(1)).first() is not None


def partner(connection: sa.Connection, row: Row) -> Row | None:
    """The shown row of the other kind of id that is the same paper; None if none or several are."""
    kind = "title:%" if row["id"].startswith("arxiv:") else "arxiv:%"
    undone = sa.select(paper_merge.c.key).where(
        paper_merge.c.undone.is_not(None),
        paper_merge.c.old.in_((paper.c.key, row["key"])),
        paper_merge.c.into.in_((paper.c.key, row["key"])),
    )
    same_title = sa.select(paper).where(
        paper.c.title_key == row["title_key"],
        paper.c.merged_into.is_(None),
        paper.c.id.like(kind),
        ~undone.exists(),
    )
    found = [
        {**other}
        for other in connection.execute(same_title).mappings()
        if _are_near(
            other["announced"], row["announced"], min(other["certainty"], row["certainty"])
        )
    ]
    return found[0] if len(found) == 1 else None


def _are_near(one: date, other: date, certainty: int) -> bool:
    slack = _MONTH_DAYS if certainty == Certainty.ABOUT else 0
    return abs((one - other).days) <= WINDOW_DAYS + slack


def merge(
    connection: sa.Connection, old: Row, into: Row, *, now: datetime, is_new: bool = False
) -> None:
    """Hide ``old`` behind ``into``, which takes over what it lacks, and write down how.

    Args:
        connection: In a writing transaction.
        old: Row of the paper known by its title.
        into: Row of the paper with an arXiv id; it is brought up to date too.
        now: The present time.
        is_new: ``into`` was made just now; it then takes over the place in the lists and the
            feeds' tag, so that readers see a known paper and no second one.
    """
    after = {name: old[name] for name in _FILLED if old[name] and not into[name]}
    after["announced"], after["certainty"] = better_day(
        (into["announced"], into["certainty"]), (old["announced"], old["certainty"])
    )
    known = old if is_new else into
    after["content_hash"] = content_hash({**into, **after})
    after["updated"] = known["updated"]
    if after["content_hash"] != known["content_hash"]:
        after["updated"] = moved_on(known["updated"], now)
    if is_new:
        after |= {"tag": old["tag"], "place": old["place"]}
    after = {name: value for name, value in after.items() if value != into[name]}
    before = {name: into[name] for name in after}
    into.update(after)
    old["merged_into"] = into["key"]
    _set(connection, old["key"], {"merged_into": into["key"]})
    _set(connection, into["key"], after)
    moved = _move_categories(connection, old, into)
    index.drop(connection, old["key"])
    index.keep(connection, into["key"], into)
    connection.execute(
        sa.insert(paper_merge).values(
            old=old["key"],
            into=into["key"],
            at=now,
            filled={name: [_json(before[name]), _json(after[name])] for name in after},
            moved=moved,
        )
    )


def split(connection: sa.Connection, old_id: str, *, now: datetime) -> None:
    """Take the merge of a paper back; the two are not merged again by themselves.

    Args:
        connection: In a writing transaction.
        old_id: Its id before the merge.
        now: The present time.

    Raises:
        InputError: No paper of that id was merged into another.
    """
    found = connection.execute(sa.select(paper).where(paper.c.id == old_id)).mappings().first()
    if found is None or found["merged_into"] is None:
        raise InputError(
            f"split {old_id!r} — no paper of that id was merged into another; give the id that "
            "begins with title:, as `tidemill feed show ID --json` lists it under merged."
        )
    old = {**found}
    done = _last_merge(connection, old["key"])
    into = {
        **connection.execute(sa.select(paper).where(paper.c.key == done["into"])).mappings().one()
    }
    back = {
        name: _from_json(name, before)
        for name, (before, after) in done["filled"].items()
        if _json(into[name]) == after
    }
    into.update(back)
    old["merged_into"] = None
    _set(connection, old["key"], {"merged_into": None})
    _set(connection, into["key"], back)
    for item in done["moved"]:
        if item["added"]:
            _take_off(connection, item["category"], into["key"])
        _put_on(connection, item, old)
    date_categories(connection, into)
    index.keep(connection, old["key"], old)
    index.keep(connection, into["key"], into)
    connection.execute(
        sa.update(paper_merge).where(paper_merge.c.key == done["key"]).values(undone=now)
    )


def remember_placing(connection: sa.Connection, old_key: int, placing: dict[str, Any]) -> None:
    """Note that a merged paper was listed in a category too, so that `split` gives it back."""
    done = _last_merge(connection, old_key)
    if placing["category"] not in {item["category"] for item in done["moved"]}:
        connection.execute(
            sa.update(paper_merge)
            .where(paper_merge.c.key == done["key"])
            .values(moved=[*done["moved"], placing])
        )


def _last_merge(connection: sa.Connection, old_key: int) -> sa.RowMapping:
    last = (
        sa.select(paper_merge)
        .where(paper_merge.c.old == old_key, paper_merge.c.undone.is_(None))
        .order_by(paper_merge.c.key.desc())
    )
    return connection.execute(last).mappings().one()


def versions(connection: sa.Connection, key: int) -> tuple[Version, ...]:
    """Every text of a paper and of the rows merged into it, the one shown first."""
    keys = family(connection, key)
    now = sa.select(
        paper.c.title, paper.c.abstract, paper.c.version, paper.c.text_seen, paper.c.key == key
    ).where(paper.c.key.in_(keys))
    old = sa.select(
        paper_version.c.title,
        paper_version.c.abstract,
        paper_version.c.version,
        paper_version.c.seen,
        sa.false(),
    ).where(paper_version.c.paper.in_(keys))
    rows = [Version(*row) for query in (now, old) for row in connection.execute(query)]
    rows.sort(key=lambda row: (row.current, row.version or 0, row.seen), reverse=True)
    by_text = {(row.title, row.abstract): row for row in reversed(rows)}
    return tuple(sorted(by_text.values(), key=rows.index))


def _move_categories(connection: sa.Connection, old: Row, into: Row) -> list[dict[str, Any]]:
    date_categories(connection, into)
    of = sa.select(paper_category).order_by(paper_category.c.category)
    has = connection.execute(of.where(paper_category.c.paper == into["key"])).mappings()
    had = {item["category"] for item in has}
    moved: list[dict[str, Any]] = []
    for item in connection.execute(of.where(paper_category.c.paper == old["key"])).mappings().all():
        added = item["category"] not in had
        moved.append({name: item[name] for name in ("category", "why", "by")} | {"added": added})
        _take_off(connection, item["category"], old["key"])
        if added:
            _put_on(connection, moved[-1], into)
    return moved


def _put_on(connection: sa.Connection, item: dict[str, Any], row: Row) -> None:
    connection.execute(
        sa.insert(paper_category).values(
            category=item["category"],
            paper=row["key"],
            announced=row["announced"],
            place=row["place"],
            why=item["why"],
            by=item["by"],
        )
    )


def _take_off(connection: sa.Connection, category: int, key: int) -> None:
    connection.execute(
        sa.delete(paper_category).where(
            paper_category.c.category == category, paper_category.c.paper == key
        )
    )


def date_categories(connection: sa.Connection, row: Row) -> None:
    """Give the paper's places in categories its day and place, by which they are ordered."""
    connection.execute(
        sa.update(paper_category)
        .where(paper_category.c.paper == row["key"])
        .values(announced=row["announced"], place=row["place"])
    )


def _set(connection: sa.Connection, key: int, values: Row) -> None:
    if values:
        connection.execute(sa.update(paper).where(paper.c.key == key).values(values))


def _json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def _from_json(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in ("announced", "updated", "submitted"):
        return value
    return date.fromisoformat(value) if name == "announced" else datetime.fromisoformat(value)
