"""The same content for machines: JSON, Atom, JSON Feed; and the links that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import format_datetime
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from tidemill.bench.claim import Json
from tidemill.bench.settings import dumps
from tidemill.feed import out
from tidemill.feed.entry import Entry, Page
from tidemill.web.refusals import Refused
from tidemill.web.site import Reader, conditional

HTML, JSON, ATOM, JSON_FEED, BIBTEX, RIS = "html", "json", "atom", "feed.json", "bib", "ris"
LIST_FORMATS = (JSON, ATOM, JSON_FEED)
_NAMES = {
    JSON: ("JSON", "application/json"),
    ATOM: ("Atom", "application/atom+xml"),
    JSON_FEED: ("JSON Feed", "application/feed+json"),
    BIBTEX: ("BibTeX", "application/x-bibtex"),
    RIS: ("RIS", "application/x-research-info-systems"),
}

FormatLinks = list[tuple[str, str, str]]
"""Name, address and media type."""


def split_format(name: str, formats: Sequence[str]) -> tuple[str, str]:
    """The last part of a path without and with its format: ``systems.atom`` is two things.

    >>> split_format("2606.24417.bib", (JSON, BIBTEX)), split_format("2606.24417", (JSON,))
    (('2606.24417', 'bib'), ('2606.24417', 'html'))

    Raises:
        Refused: An ending that names a format the page does not have (``index.bib``).
    """
    for kind in sorted(formats, key=len, reverse=True):
        if name.endswith(f".{kind}"):
            return name.removesuffix(f".{kind}"), kind
    stem, _, ending = name.rpartition(".")
    if stem and ending in _NAMES:
        raise Refused(404, "not_found", f"format {ending!r} — this page has {', '.join(formats)}.")
    return name.removesuffix(f".{HTML}"), HTML


def format_of(suffix: str, formats: Sequence[str]) -> str:
    """The format of a page whose name is fixed; ``suffix`` is what follows its dot.

    Raises:
        Refused: The page does not have that format.
    """
    if suffix != HTML and suffix not in formats:
        reason = f"format {suffix[:20]!r} — this page has {', '.join(formats)}."
        raise Refused(404, "not_found", reason)
    return suffix


def format_links(
    reader: Reader, place: str, formats: Sequence[str], query: Mapping[str, str] | None = None
) -> FormatLinks:
    """Where ``place`` is found in each of ``formats``, in the reader's language."""
    return [
        (_NAMES[kind][0], reader.link(f"{place}.{kind}", **(query or {})), _NAMES[kind][1])
        for kind in formats
    ]


def as_json(request: Request, content: Mapping[str, Json]) -> Response:
    """Answer with ``content``; 304 if the reader has it."""
    return conditional(request, dumps(content).encode(), "application/json")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a list is found, for its pages and its feeds.

    Args:
        title: Of the list.
        page: The path of its pages.
        feed: The path of its other formats, without their endings.
        query: What all addresses carry along.
    """

    title: str
    page: str
    feed: str
    query: Mapping[str, str] = field(default_factory=dict[str, str])


def as_list(request: Request, kind: str, listing: Page, place: Place) -> Response:
    """Answer with the list as a feed of ``kind``, dated by its newest change."""
    reader, base = Reader(request), str(request.base_url).rstrip("/")

    def paper_url(entry: Entry) -> str:
        return base + reader.link(f"/p/{entry.slug}")

    query = f"?{urlencode(place.query)}" if place.query else ""
    channel = out.Channel(
        name=place.feed.removeprefix("/") + query,
        title=f"tidemill · {place.title}",
        home_url=base + reader.link(place.page, **place.query),
        feed_url=base + reader.link(f"{place.feed}.{kind}", **place.query),
        paper_url=paper_url,
        language=reader.tag,
    )
    content = out.atom(listing, channel) if kind == ATOM else dumps(out.json_feed(listing, channel))
    answer = conditional(request, content.encode(), _NAMES[kind][1])
    if listing.entries:
        newest = max(entry.updated for entry in listing.entries)
        answer.headers["Last-Modified"] = format_datetime(newest, usegmt=True)
    return answer
