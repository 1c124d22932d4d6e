"""Feeds and JSON out, as pure functions of a page or an entry; citations: `citations`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time

from tidemill import __version__
from tidemill.bench.claim import Json
from tidemill.feed.entry import Entry, Page

_ATOM = "http://www.w3.org/2005/Atom"
_BEFORE_ALL = datetime(2026, 1, 1, tzinfo=UTC)
"""When a list without entries last changed."""


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
    ET.register_namespace("", _ATOM)
    feed = ET.Element(f"{{{_ATOM}}}feed", {"xml:lang": channel.language})
    _add(feed, "id", _tag(channel.name))
    _add(feed, "title", channel.title)
    _add(feed, "updated", _moment(max((e.updated for e in page.entries), default=_BEFORE_ALL)))
    _add(feed, "link", rel="self", type="application/atom+xml", href=channel.feed_url)
    _add(feed, "link", rel="alternate", type="text/html", href=channel.home_url)
    _add(_add(feed, "author"), "name", "tidemill")
    _add(feed, "generator", "tidemill", version=__version__)
    for entry in page.entries:
        item = ET.SubElement(feed, f"{{{_ATOM}}}entry", {"xml:lang": entry.lang})
        _add(item, "id", _tag(entry.tag))
        _add(item, "title", entry.title_html, type="html")
        _add(item, "updated", _moment(entry.updated))
        _add(item, "published", _moment(_midnight(entry)))
        for name in entry.authors:
            _add(_add(item, "author"), "name", name)
        _add(item, "link", rel="alternate", type="text/html", href=channel.paper_url(entry))
        for link in entry.links:
            _add(item, "link", rel="related", title=link.name, href=link.url)
        for placing in entry.categories:
            name = placing.category.name(channel.language)
            _add(item, "category", term=placing.category.slug, label=name)
        for subject in entry.subjects:
            _add(item, "category", term=subject)
        _add(item, "summary", entry.abstract_html, type="html")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(feed, encoding="unicode")


def json_feed(page: Page, channel: Channel) -> dict[str, Json]:
    """The page as a JSON Feed 1.1, served as ``application/feed+json``."""
    return {
        "version": "https://jsonfeed.org/version/1.1",
        "title": channel.title,
        "home_page_url": channel.home_url,
        "feed_url": channel.feed_url,
        "language": channel.language,
        "authors": [{"name": "tidemill"}],
        "items": [_json_item(entry, channel) for entry in page.entries],
    }


def _json_item(entry: Entry, channel: Channel) -> Json:
    item: dict[str, Json] = {
        "id": _tag(entry.tag),
        "url": channel.paper_url(entry),
        "title": entry.title,
        "content_html": entry.abstract_html,
        "date_published": _moment(_midnight(entry)),
        "date_modified": _moment(entry.updated),
        "language": entry.lang,
        "tags": [*(placing.category.slug for placing in entry.categories), *entry.subjects],
    }
    if entry.authors:
        item["authors"] = [{"name": name} for name in entry.authors]
    if entry.links:
        item["external_url"] = entry.links[0].url
    return item


def entry_json(entry: Entry) -> dict[str, Json]:
    """All that is known of an entry, for programs."""
    return {
        "id": entry.id,
        "arxiv_id": entry.arxiv_id,
        "version": entry.version,
        "title": entry.title,
        "abstract": entry.abstract,
        "lang": entry.lang,
        "authors": [*entry.authors],
        "announced": entry.announced.isoformat(),
        "submitted": entry.submitted and _moment(entry.submitted),
        "updated": _moment(entry.updated),
        "subjects": [*entry.subjects],
        "categories": [
            {
                "slug": placing.category.slug,
                "name": {"en": placing.category.name_en, "zh": placing.category.name_zh},
                "why": placing.why,
            }
            for placing in entry.categories
        ],
        "links": [{"name": link.name, "url": link.url} for link in entry.links],
        "doi": entry.doi,
        "journal_ref": entry.journal_ref,
        "comment": entry.comment,
        "license": entry.license,
        "origin": entry.origin,
        "system": entry.system,
    }


def _add(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, f"{{{_ATOM}}}{tag}", attributes)
    element.text = text
    return element


def _tag(name: str) -> str:
    return f"tag:tidemill,2026:{name}"


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _midnight(entry: Entry) -> datetime:
    return datetime.combine(entry.announced, time(), UTC)
