"""Atom, RSS 2.0 and RSS 1.0: arXiv's interface, arXiv's daily feeds, and anybody's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tidemill.feed.draft import Draft, split_names
from tidemill.feed.entry import Refusal
from tidemill.feed.formats.decoding import Unreadable
from tidemill.feed.formats.saved_html import html_lines
from tidemill.feed.formats.xml_tree import Element, children, text_of, texts_of
from tidemill.feed.identity import arxiv_id
from tidemill.feed.raw import RawEntry

_MARKUP = re.compile(
    r"</?(?:a|b|blockquote|br|code|div|em|figure|h[1-6]|i|img|li|ol|p|pre|span|strong|su[bp]|ul)"
    r"(?:\s[^<>]{0,2000})?/?>",
    re.IGNORECASE,
)
_NOTICE = re.compile(r"\s*arXiv:\S+\s+Announce Type:\s*([\w-]+)\s*(?:Abstract:)?\s*", re.IGNORECASE)
_OLD_TITLE = re.compile(r"\s*\(arXiv:(\S+)(?:\s\[[^\]]*\])?(?:\s+UPDATED)?\)\s*$")


def parse_atom(feed: Element) -> Iterator[RawEntry | Refusal]:
    """The entries of an Atom feed.

    Raises:
        Unreadable: It is arXiv's way of saying that something was wrong with the question.
    """
    for entry in children(feed, "entry"):
        where = [
            text_of(entry, "id"),
            *(
                link.get("href", "")
                for link in children(entry, "link")
                if link.get("rel", "alternate") in ("alternate", "related")
            ),
        ]
        if "/api/errors" in where[0]:
            raise Unreadable(entry.line, f"holds arXiv's answer {text_of(entry, 'summary')!r}")
        draft = Draft(
            line=entry.line,
            title=_plain(entry, "title"),
            abstract=_plain(entry, "summary", "content"),
            identifiers=where,
            authors=[text_of(author, "name") for author in children(entry, "author")],
            subjects=[
                term
                for category in children(entry, "primary_category", "category")
                if (term := category.get("term", ""))
                and not category.get("scheme", "").endswith("#")
            ],
        )
        _date(draft, entry, published=text_of(entry, "published", "updated"))
        draft.revised = "" if draft.announce_type else text_of(entry, "updated")
        yield _finished(draft, entry)


def parse_rss(root: Element) -> Iterator[RawEntry | Refusal]:
    """The items of an RSS 2.0 or RSS 1.0 (RDF) feed."""
    channel = next(iter(children(root, "channel")), root)
    for item in (*children(channel, "item"), *children(root, "item")):
        draft = Draft(
            line=item.line,
            title=_plain(item, "title"),
            abstract=_plain(item, "encoded", "description"),
            identifiers=texts_of(item, "guid", "link"),
            subjects=texts_of(item, "category", "subject"),
        )
        if old := _OLD_TITLE.search(draft.title):
            draft.title = draft.title[: old.start()]
            draft.identifiers.append(old[1])
        day = text_of(item, "pubdate", "date") or text_of(channel, "pubdate", "date")
        _date(draft, item, published=day)
        yield _finished(draft, item)


def _date(draft: Draft, element: Element, *, published: str) -> None:
    """Sort out what a feed's date means: a listing, a listing of a new version, a submission."""
    notice = _NOTICE.match(draft.abstract)
    if notice:
        draft.abstract = draft.abstract[notice.end() :]
    draft.announce_type = text_of(element, "announce_type") or (notice[1] if notice else "")
    is_from_interface = not draft.announce_type and any(
        (found := arxiv_id(text)) and found[1] and text.startswith("http")
        for text in draft.identifiers[:1]
    )
    if draft.announce_type.startswith("replace"):
        draft.about = published
    elif is_from_interface:
        draft.submitted = published
    else:
        draft.announced = published


def _finished(draft: Draft, element: Element) -> RawEntry | Refusal:
    creators = [name for text in texts_of(element, "creator") for name in split_names(_flat(text))]
    draft.authors = [name for name in draft.authors if name] or creators
    draft.doi = text_of(element, "doi")
    draft.journal_ref = text_of(element, "journal_ref")
    draft.comment = text_of(element, "comment")
    draft.license = text_of(element, "rights", "license")
    return draft.checked()


def _plain(element: Element, *names: str) -> str:
    """The text of a child, its HTML removed if it has any."""
    for name in names:
        for child in children(element, name):
            text = "".join(child.itertext())
            if text.strip():
                return _lines(text) if child.get("type") == "html" else _flat(text)
    return ""


def _flat(text: str) -> str:
    # "$x<y$" has an angle bracket and no markup: only elements known by name count
    return _lines(text) if _MARKUP.search(text) else text


def _lines(html: str) -> str:
    return " ".join(line.text for line in html_lines(html) if line.text)
