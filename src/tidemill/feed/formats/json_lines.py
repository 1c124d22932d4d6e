"""JSON lines: tidemill's own, and those of the arXiv data set on Kaggle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from typing import cast

from tidemill.feed.draft import Draft, split_names
from tidemill.feed.entry import Refusal
from tidemill.feed.raw import RawEntry


def parse_json_lines(text: str) -> Iterator[RawEntry | Refusal]:
    """The papers, one object a line; a line that is none is refused alone."""
    for number, line in enumerate(StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line.strip())
        except (ValueError, RecursionError) as error:
            yield Refusal(number, f"not JSON: {str(error) or 'nested too deep'}")
            continue
        if isinstance(row, dict):
            yield _paper(number, _Row(cast("dict[str, object]", row)))
        else:
            yield Refusal(number, f"a JSON {type(row).__name__}, must be an object")


class _Row:
    """An object whose values may be of any type."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def text(self, *names: str) -> str:
        """The first of these values that is a text or number and not empty."""
        for name in names:
            value = self._values.get(name)
            if isinstance(value, str | int | float) and str(value).strip():
                return str(value)
        return ""

    def texts(self, *names: str, split: Callable[[str], list[str]]) -> list[str]:
        """The texts of the first of these lists, or of one text split; authors may be objects."""
        for name in names:
            value = self._values.get(name)
            if isinstance(value, str) and value.strip():
                return split(value)
            if isinstance(value, list) and value:
                return [_name_of(item) for item in cast("list[object]", value)]
        return []

    def rows(self, name: str) -> list[_Row]:
        """The objects of a list."""
        value = self._values.get(name)
        items = cast("list[object]", value) if isinstance(value, list) else []
        return [_Row(cast("dict[str, object]", item)) for item in items if isinstance(item, dict)]


def _name_of(item: object) -> str:
    if isinstance(item, dict):
        return _Row(cast("dict[str, object]", item)).text("name")
    if isinstance(item, list):  # Kaggle's [family, given, suffix]
        parts = [str(part) for part in cast("list[object]", item)[:3]]
        return " ".join((*parts[1:2], *parts[:1], *parts[2:]))
    return str(item)


def _paper(line: int, row: _Row) -> RawEntry | Refusal:
    versions = row.rows("versions")
    is_dump = bool(versions)
    draft = Draft(
        line=line,
        title=row.text("title"),
        abstract=row.text("abstract", "summary"),
        identifiers=[row.text("arxiv_id", "id"), row.text("url", "link")],
        authors=row.texts("authors_parsed", "authors", "author", split=split_names),
        subjects=row.texts("subjects", "categories", split=str.split),
        submitted=versions[0].text("created") if is_dump else row.text("submitted"),
        revised=versions[-1].text("created") if is_dump else row.text("revised", "updated"),
        version=versions[-1].text("version") if is_dump else row.text("version"),
        doi=row.text("doi"),
        journal_ref=row.text("journal_ref", "journal-ref"),
        comment=row.text("comment", "comments"),
        license=row.text("license"),
        links=row.texts("links", split=str.split),
        origin=row.text("origin"),
        announce_type=row.text("announce_type"),
        category=row.text("category"),
        why=row.text("why"),
    )
    day = row.text("announced", "date", "published", "update_date")
    if row.text("certainty") == "about":
        draft.about = day
    elif not is_dump and row.text("certainty") != "reckoned":
        draft.announced = day
    return draft.checked()
