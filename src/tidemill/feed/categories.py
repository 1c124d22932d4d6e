"""The digest's categories: their names in both languages and in URLs."""

from __future__ import annotations

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import count

import sqlalchemy as sa

from tidemill.feed.tables import category

_PART = re.compile(r"[a-z0-9]+")


@cache
def _known() -> dict[str, dict[str, str]]:
    text = files("tidemill.feed").joinpath("categories.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def category_key(connection: sa.Connection, name: str) -> int:
    """The key of the category that a page calls ``name``; made if there is none yet."""
    found = connection.execute(sa.select(category.c.key).where(category.c.name_zh == name)).scalar()
    if found is not None:
        return found
    known = _known().get(name, {})
    wanted = known.get("slug") or slug(name)
    taken = set(connection.execute(sa.select(category.c.slug)).scalars())
    free = next(text for text in _numbered(wanted) if text not in taken)
    row = {"slug": free, "name_zh": name, "name_en": known.get("en", name)}
    return connection.execute(
        sa.insert(category).values(row).returning(category.c.key)
    ).scalar_one()


def slug(name: str) -> str:
    """A name for URLs: its Latin letters and digits; a hash if it has none."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = "-".join(_PART.findall(folded))[:50]
    return words or f"c-{hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()[:10]}"


def _numbered(wanted: str) -> Iterator[str]:
    yield wanted
    yield from (f"{wanted}-{number}" for number in count(2))
