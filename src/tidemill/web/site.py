"""What all routes share: the store, the library, the queue, the systems, and how a page is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

import jinja2
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import Response

from tidemill import __version__
from tidemill.bench import System, Text, wording
from tidemill.bench.environment import Environment
from tidemill.bench.store import Store
from tidemill.feed.library import Library
from tidemill.web import board, figures, filters
from tidemill.web.guard import CSRF_FIELD, Csrf
from tidemill.web.language import TAGS, Catalogue, catalogue, language_of, vary
from tidemill.web.live import LiveRuns

if TYPE_CHECKING:
    from tidemill.bench.queue import RunQueue

OTHER_LANGUAGE = {"zh": "en", "en": "zh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the routes work on; one per application.

    Args:
        store: Results and runs.
        library: Papers.
        queue: Starts and cancels runs; None on an instance that shows only.
        read_only: Whether Run is shown as a command instead of a button.
        systems: The installed systems by name.
        environment: This machine.
        csrf: Makes and checks form tokens.
        live: Follows the event files of runs.
    """

    store: Store
    library: Library
    queue: RunQueue | None
    read_only: bool
    systems: Mapping[str, System]
    environment: Environment
    csrf: Csrf
    live: LiveRuns

    @property
    def can_run(self) -> bool:
        """Whether readers may start runs here."""
        return self.queue is not None and not self.read_only


def site_of(request: Request) -> Site:
    """The site that answers ``request``."""
    return cast(Site, request.app.state.site)


class Reader:
    """One request as templates see it: language, links, the form token."""

    def __init__(self, request: Request, place: str = "") -> None:
        self._request = request
        self._site = site_of(request)
        self._nonce = ""
        self.language = language_of(request.scope)
        self.tag = TAGS[self.language]
        self.t: Catalogue = catalogue(self.language)
        self.path: str = place or request.scope["path"]
        self._query: str = "" if place else request.scope["query_string"].decode("latin-1")

    def link(self, path: str, **query: object) -> str:
        """A link within the site, in this reader's language."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return str(URL(f"/{self.language}{path}").include_query_params(**given))

    def here_in(self, language: str) -> str:
        """This very page in ``language``."""
        return f"/{language}{quote(self.path)}" + (f"?{self._query}" if self._query else "")

    @property
    def other(self) -> str:
        """The language to switch to."""
        return OTHER_LANGUAGE[self.language]

    @property
    def switch(self) -> str:
        """Where the language switch leads: it remembers the choice, then shows this page."""
        return f"/language/{self.other}?{urlencode({'to': self.here_in(self.other)})}"

    def say(self, text: Text) -> str:
        """``text`` in this reader's language."""
        return text.in_language(self.language)

    @property
    def csrf_name(self) -> str:
        """Name of the hidden field."""
        return CSRF_FIELD

    @property
    def csrf_token(self) -> str:
        """This reader's form token; asking for it makes the answer set the cookie."""
        self._nonce = self._nonce or self._site.csrf.nonce(self._request)
        return self._site.csrf.token(self._nonce)

    def remember(self, response: Response) -> None:
        """Set the cookie that the token on this page is bound to, if there is one."""
        if self._nonce:
            self._site.csrf.remember(self._request, response, self._nonce)


def page(
    request: Request,
    template: str,
    context: Mapping[str, object],
    *,
    status: int = 200,
    place: str = "",
) -> Response:
    """A page made from a template; unchanged since the reader's copy, it is a 304.

    Args:
        request: Who asks.
        template: Its file name.
        context: What the template needs besides ``reader``, ``t`` and ``site``.
        status: The HTTP status.
        place: The path this page is found at, if it is not the one asked for (after a POST).
    """
    reader = Reader(request, place)
    given = {"reader": reader, "t": reader.t, "site": site_of(request), **context}
    html = _templates().get_template(template).render(given)
    response = conditional(request, html.encode(), "text/html; charset=utf-8", status=status)
    vary(response.headers, "Cookie")  # which the form tokens on the page are bound to
    reader.remember(response)
    return response


def conditional(request: Request, body: bytes, media_type: str, *, status: int = 200) -> Response:
    """``body`` with an ETag of its content, or 304 if the reader has it."""
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if status == 200 and _knows(request.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers={**headers, "Vary": "Accept-Encoding"})
    return Response(body, status, headers if status == 200 else None, media_type)


def _knows(if_none_match: str, etag: str) -> bool:
    known = {item.strip().removeprefix("W/") for item in if_none_match.split(",")}
    return etag.removeprefix("W/") in known or "*" in known


@cache
def static_url(name: str) -> str:
    """The address of a file of ours, with a mark of its content: it may be kept for ever."""
    content = resources.files("tidemill.web").joinpath("static", name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:10]}"


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tidemill.web"),
        autoescape=True,
        auto_reload=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known: dict[str, object] = {"static": static_url, "version": __version__, "tags": TAGS}
    environment.globals.update(known)  # pyright: ignore[reportUnknownMemberType]
    functions: tuple[Callable[..., object], ...] = (
        *(wording.figure, figures.quantity, figures.interval, figures.target, figures.span),
        *(figures.memory, figures.minute, figures.code_name, figures.machine_line),
        *(figures.span_of, filters.tag, filters.unlinked, filters.authors, filters.paper_path),
        *(filters.page_numbers, filters.import_line, filters.said, filters.fact),
        *(filters.script_tag, board.passages),
    )
    named = {function.__name__: function for function in functions}
    environment.filters.update(named)  # pyright: ignore[reportUnknownMemberType]
    return environment
