"""The pages one reads: papers by category, day and search, one paper, and what this site is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.bench import System
from tidemill.bench.claim import Json
from tidemill.feed import citations, out
from tidemill.feed.entry import Entry, Page
from tidemill.web.board import Note, Standing
from tidemill.web.figures import machine_line, memory
from tidemill.web.formats import (
    BIBTEX,
    HTML,
    JSON,
    LIST_FORMATS,
    RIS,
    Place,
    as_json,
    as_list,
    format_links,
    format_of,
    split_format,
)
from tidemill.web.refusals import Refused
from tidemill.web.site import Reader, Site, conditional, page, site_of

router = APIRouter()
_READ = ["GET", "HEAD"]
PageNumber = Annotated[str, Query(alias="page")]


def number_of(text: str) -> int:
    """A page number from an address.

    Raises:
        Refused: It is no number from 1 to 999999.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise Refused(400, "bad_request", f"page={text[:40]!r} — must be a number from 1.")
    return int(text)


@router.api_route("/", methods=_READ)
@router.api_route("/index.{suffix}", methods=_READ)
def home(request: Request, suffix: str = HTML, number: PageNumber = "1") -> Response:
    """The newest papers of the first category, as the digest's front page."""
    kind = format_of(suffix, LIST_FORMATS)
    library = site_of(request).library
    categories = library.categories()
    first = categories[0] if categories else None
    listing = library.page(category=first.slug if first else None, number=number_of(number))
    reader = Reader(request)
    place = Place(reader.t("home.title"), f"/c/{first.slug}" if first else "/", "/index")
    heading = first.name(reader.language) if first else ""
    context = {"lede": reader.t("home.lede"), "heading": heading}
    return _list(request, kind, listing, place, context=context)


@router.api_route("/c/{name}", methods=_READ)
def category(request: Request, name: str, number: PageNumber = "1") -> Response:
    """The papers of one category, newest first."""
    slug, kind = split_format(name, LIST_FORMATS)
    listing = site_of(request).library.page(category=slug, number=number_of(number))
    title = listing.category.name(Reader(request).language) if listing.category else slug
    return _list(request, kind, listing, Place(title, f"/c/{slug}", f"/c/{slug}"))


@router.api_route("/d/{name}", methods=_READ)
def day(request: Request, name: str, number: PageNumber = "1") -> Response:
    """The papers announced on one day."""
    text, kind = split_format(name, LIST_FORMATS)
    try:
        wanted = date.fromisoformat(text)
    except ValueError as error:
        raise Refused(400, "bad_request", f"day={text[:40]!r} — must be YYYY-MM-DD.") from error
    library = site_of(request).library
    listing = library.page(day=wanted, number=number_of(number))
    if not listing.total:
        newest = next((d.date.isoformat() for d in library.days() if d.date < wanted), None)
        back = f"/d/{newest}" if newest else "/"
        raise Refused(404, "quiet_day", f"Nothing was announced on {wanted}.", back)
    path = f"/d/{wanted.isoformat()}"
    return _list(request, kind, listing, Place(wanted.isoformat(), path, path))


@router.api_route("/search", methods=_READ)
@router.api_route("/search.{suffix}", methods=_READ)
def search(
    request: Request,
    suffix: str = HTML,
    query: Annotated[str, Query(alias="q")] = "",
    number: PageNumber = "1",
) -> Response:
    """What matches a query, best first; without one, how to ask."""
    kind = format_of(suffix, LIST_FORMATS)
    site, wanted = site_of(request), number_of(number)
    query = query.strip()[:500]
    listing = Page(entries=(), number=1, pages=1, total=0)
    if query:
        listing = site.library.search(query, number=wanted, claims=_systems_by_claims(site))
    categories = site.library.categories()
    place = Place(query, "/search", "/search", {"q": query})
    context = {"example_category": categories[0].slug if categories else "systems"}
    return _list(request, kind, listing, place, template="search.html", context=context)


@router.api_route("/p/{name}", methods=_READ)
def paper(request: Request, name: str) -> Response:
    """One paper: abstract, claims, how to run and import it, its versions."""
    site, reader = site_of(request), Reader(request)
    asked, kind = split_format(name, (JSON, BIBTEX, RIS))
    entry = site.library.paper(asked)
    if entry is None:
        raise Refused(404, "not_found", f"paper {asked[:80]!r} — is not in this digest.")
    if asked != entry.slug:
        ending = "" if kind == HTML else f".{kind}"
        return RedirectResponse(reader.link(f"/p/{entry.slug}{ending}"), 308)
    if kind == BIBTEX:
        return conditional(request, citations.bibtex(entry).encode(), "application/x-bibtex")
    if kind == RIS:
        media_type = "application/x-research-info-systems"
        return conditional(request, citations.ris(entry).encode(), media_type)
    system = site.systems.get(entry.system or "")
    note = _note(site, system) if system else None
    if kind == JSON:
        claims: list[Json] = [row.to_json() for row in note.rows] if note else []
        return as_json(request, {**_entry_json(entry, reader), "claims": claims})
    return page(
        request,
        "paper.html",
        {
            "entry": entry,
            "note": note,
            "versions": site.library.versions(entry.id),
            "similar": site.library.near_duplicates(entry.id),
            "machine": machine_line(site.environment.machine),
            "feeds": format_links(reader, f"/p/{entry.slug}", (JSON, BIBTEX, RIS)),
        },
    )


@router.api_route("/about", methods=_READ)
@router.api_route("/about.{suffix}", methods=_READ)
def about(request: Request, suffix: str = HTML) -> Response:
    """What this site is, how to read its figures, and the machine it runs on."""
    kind = format_of(suffix, (JSON,))
    site, reader = site_of(request), Reader(request)
    machine, days = site.environment.machine, site.library.days()
    if kind == JSON:
        listed: list[Json] = [{"date": d.date.isoformat(), "count": d.count} for d in days]
        return as_json(request, {"machine": machine, "code": site.environment.code, "days": listed})
    shown = ("cpu", "cores", "kernel", "compiler", "native_level", "python")
    facts = [(name, machine[name]) for name in shown if machine[name]]
    facts.insert(2, ("memory", memory(site.environment.memory_bytes)))
    return page(
        request,
        "about.html",
        {
            "facts": [*facts, ("code", site.environment.code)],
            "days": days[:30],
            "feeds": format_links(reader, "/about", (JSON,)),
        },
    )


def _entry_json(entry: Entry, reader: Reader) -> dict[str, Json]:
    """An entry as the ``.json`` pages give it: all that is known, and its page."""
    return {**out.entry_json(entry), "url": reader.link(f"/p/{entry.slug}")}


def _list(
    request: Request,
    kind: str,
    listing: Page,
    place: Place,
    *,
    template: str = "listing.html",
    context: Mapping[str, object] | None = None,
) -> Response:
    """A list as a page, or in the format asked for."""
    reader = Reader(request)
    if kind == JSON:
        entries: list[Json] = [_entry_json(entry, reader) for entry in listing.entries]
        counts: dict[str, Json] = {
            "total": listing.total,
            "page": listing.number,
            "pages": listing.pages,
        }
        return as_json(request, {**counts, "entries": entries})
    if kind != HTML:
        return as_list(request, kind, listing, place)

    def page_href(number: int) -> str:
        return reader.link(place.page, **place.query, page=number if number > 1 else None)

    site = site_of(request)
    current = listing.category.slug if listing.category else ""
    tabs = [
        (item.name(reader.language), reader.link(f"/c/{item.slug}"), item.slug == current)
        for item in site.library.categories()
    ]
    shown: dict[str, object] = {
        "listing": listing,
        "title": place.title,
        "lede": "",
        "heading": "",
        "tabs": tabs,
        "page_href": page_href,
        "notes_by_system": _notes(site, listing.entries),
        "feeds": format_links(reader, place.feed, LIST_FORMATS, place.query),
    }
    return page(request, template, {**shown, **(context or {})})


def _note(site: Site, system: System) -> Note:
    return Note.of(system, site.store, site.environment)


def _notes(site: Site, entries: Iterable[Entry]) -> dict[str | None, Note]:
    names = {entry.system for entry in entries if entry.system in site.systems}
    return {name: _note(site, site.systems[name]) for name in names if name}


def _systems_by_claims(site: Site) -> Callable[[str], Collection[str] | None]:
    """For ``claim:WORD`` in a query: the systems with at least one claim of that kind here."""
    kinds: dict[str, Callable[[Standing], bool]] = {
        "holds": lambda row: row.verdict_here == "yes",
        "fails": lambda row: row.verdict_here == "no",
        "unclear": lambda row: row.verdict_here == "unclear",
        "measured": lambda row: row.verdict_here is not None,
    }

    def systems(word: str) -> Collection[str] | None:
        fits = kinds.get(word.lower())
        if fits is None:
            return None
        notes = (_note(site, system) for system in site.systems.values())
        return {note.system.name for note in notes if any(fits(row) for row in note.rows)}

    return systems
