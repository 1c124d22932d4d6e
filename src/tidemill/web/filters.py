"""What templates say of a paper, a system or a report, as plain functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tidemill.bench import System
from tidemill.bench.claim import Json
from tidemill.bench.settings import dumps
from tidemill.bench.wording import figure
from tidemill.feed.entry import Entry, Page
from tidemill.feed.identity import id_of, slug_of
from tidemill.web.language import TAGS

_AUTHORS_SHOWN = 6
_NEIGHBOURS = 2


def tag(entry: Entry) -> str:
    """The ``lang`` of the entry's own text."""
    return TAGS.get(entry.lang, entry.lang)


def script_tag(text: str) -> str:
    """The ``lang`` of a short text of unknown origin: Chinese if it has a Han character."""
    return TAGS["zh" if re.search("[\u4e00-\u9fff]", text) else "en"]


def unlinked(html: str) -> str:
    """Safe markup without its links, for what is itself a link.

    >>> unlinked('On <a href="https://example.org">this</a> page')
    'On this page'
    """
    return re.sub(r"</?a\b[^>]*>", "", html)


def authors(names: Sequence[str]) -> str:
    """The first six names; "…" stands for the rest."""
    shown = ", ".join(names[:_AUTHORS_SHOWN])
    return f"{shown}, …" if len(names) > _AUTHORS_SHOWN else shown


def page_numbers(page: Page) -> list[int | None]:
    """The pages to link to: first, last and the neighbours; None for a gap.

    >>> page_numbers(Page(entries=(), number=6, pages=12, total=240))
    [1, None, 4, 5, 6, 7, 8, None, 12]
    """
    near = range(page.number - _NEIGHBOURS, page.number + _NEIGHBOURS + 1)
    shown = sorted({1, page.pages, *(n for n in near if 1 <= n <= page.pages)})
    found: list[int | None] = []
    for before, number in zip([0, *shown], shown, strict=False):
        found += [None, number] if number > before + 1 else [number]
    return found


def paper_path(system: System) -> str:
    """Where the digest shows the paper of ``system``."""
    return f"/p/{slug_of(id_of(system.paper.arxiv_id, system.paper.title))}"


def import_line(system: System) -> str:
    """The line that brings the system into the reader's own code."""
    package = system.config.__module__.split(".")
    if package[:2] == ["tidemill", "systems"]:
        return f"from tidemill.systems import {package[2]}"
    return f"import {package[0]}"


def said(text: Mapping[str, str], language: str) -> str:
    """A `Text` that came as JSON, in ``language``."""
    return text.get(language) or text.get("en", "")


def fact(value: Json) -> str:
    """A fact of a report or a setting: a number with few digits, anything else as it is."""
    if isinstance(value, bool) or value is None or not isinstance(value, int | float | str):
        return dumps(value)
    return value if isinstance(value, str) else figure(value)
