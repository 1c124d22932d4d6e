"""Feeds and citations out, as pure functions of a page or an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tidemill.bench.claim import Json
from tidemill.feed.entry import Entry, Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where a list is published.

    Args:
        name: What stands behind ``tag:tidemill,2026:`` in the feed's id ("c/systems"); stable.
        title: For the reader.
        home_url: The list as a page, absolute.
        feed_url: The feed itself, absolute.
        paper_url: The absolute address of an entry's page.
        language: "zh-CN" or "en".
    """

    name: str
    title: str
    home_url: str
    feed_url: str
    paper_url: Callable[[Entry], str]
    language: str = "en"


def atom(page: Page, channel: Channel) -> str:
    """The page as an Atom feed (RFC 4287), served as ``application/atom+xml``."""
    raise NotImplementedError


def json_feed(page: Page, channel: Channel) -> dict[str, Json]:
    """The page as a JSON Feed 1.1, served as ``application/feed+json``."""
    raise NotImplementedError


def bibtex(entry: Entry) -> str:
    """The entry as BibTeX."""
    raise NotImplementedError


def ris(entry: Entry) -> str:
    """The entry as RIS."""
    raise NotImplementedError
