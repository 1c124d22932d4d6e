"""The two languages of the interface: catalogues, negotiation and the path prefix.

A page lives at ``/zh/…`` or ``/en/…``. `LanguagePrefix` takes the prefix off before routing, so
that every route is written once; a page asked for without prefix is redirected by the cookie of
the language switch, then by ``Accept-Language``. Machine formats are answered where they are.
"""

from __future__ import annotations

import gettext
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from urllib.parse import quote

from babel.messages.pofile import read_po
from starlette.datastructures import URL, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LANGUAGES = ("zh", "en")
TAGS = {"zh": "zh-CN", "en": "en"}
"""What ``lang`` attributes say."""
COOKIE = "tidemill_language"
_FILES = {"zh": "zh_CN.po", "en": "en.po"}
_PLACES_WITHOUT_LANGUAGE = ("/static/", "/healthz", "/favicon.ico", "/robots.txt", "/language/")
_FORMATS_WITHOUT_LANGUAGE = (".json", ".atom", ".bib", ".ris", ".svg", "/events")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The strings of one language; call it with a key and the values of its ``{fields}``."""

    language: str
    tag: str
    entries: Mapping[str, Sequence[str]]
    plural: Callable[[int], int]

    def __call__(self, key: str, **values: object) -> str:
        """The string for ``key``; ``n`` among the values picks the plural form.

        Raises:
            KeyError: No such key; a programming error that the tests look for.
        """
        forms = self.entries[key]
        count = values.get("n")
        form = forms[self.plural(count)] if isinstance(count, int) and len(forms) > 1 else forms[0]
        return form.format(**values) if values else form


def _forms(text: str | Sequence[str] | None) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text or ())


@cache
def catalogue(language: str) -> Catalogue:
    """The catalogue of "zh" or "en", read once per process."""
    file = resources.files("tidemill.web").joinpath("locale", _FILES[language])
    with file.open("rb") as stream:
        messages = read_po(stream, locale=_FILES[language].removesuffix(".po"))
    entries: dict[str, tuple[str, ...]] = {}
    for message in messages:
        if message.id:
            key = message.id if isinstance(message.id, str) else message.id[0]
            entries[key] = _forms(message.string)
    plural = gettext.c2py(messages.plural_expr)
    return Catalogue(language, TAGS[language], entries, plural)


def negotiate(cookie: str | None, accept_language: str) -> str:
    """The language for a reader: the cookie's, else the first of ``Accept-Language`` we have.

    A reader who names only other languages gets English, one who names none the digest's own
    Chinese.
    """
    if cookie in LANGUAGES:
        return cookie
    if not accept_language.strip():
        return "zh"
    wanted: list[tuple[float, str]] = []
    for part in accept_language[:1000].split(","):
        name, _, parameters = part.strip().partition(";")
        wanted.append((_quality(parameters), name.strip().lower()[:2]))
    wanted.sort(key=lambda pair: -pair[0])
    return next((name for quality, name in wanted if quality > 0 and name in LANGUAGES), "en")


def _quality(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def language_of(scope: Scope) -> str:
    """The language that `LanguagePrefix` found for this request."""
    return str(scope.get("state", {}).get("language", "zh"))


class LanguagePrefix:
    """ASGI middleware: takes ``/zh`` or ``/en`` off the path, or redirects to it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a redirect, or pass the request on with ``state.language`` set."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        first, slash, rest = path[1:].partition("/")
        if first in LANGUAGES and slash:
            await self._pass_on({**scope, "path": "/" + rest}, first, receive, send)
            return
        request = Request(scope)
        language = negotiate(
            request.cookies.get(COOKIE), request.headers.get("accept-language", "")
        )
        if first in LANGUAGES or not _answered_without_prefix(scope["method"], path):
            target = f"/{first}/" if first in LANGUAGES else f"/{language}{quote(path)}"
            url = URL(target).replace(query=scope["query_string"].decode("latin-1"))
            await RedirectResponse(str(url), 307)(scope, receive, _varying("/", send))
            return
        await self._pass_on({**scope}, language, receive, _varying(path, send))

    async def _pass_on(self, scope: Scope, language: str, receive: Receive, send: Send) -> None:
        scope["state"] = {**scope.get("state", {}), "language": language}
        await self._app(scope, receive, send)


def vary(headers: MutableHeaders, *names: str) -> None:
    """Say that an answer depends on these headers of its request, each once."""
    known = [name.strip() for name in headers.get("vary", "").split(",") if name.strip()]
    headers["vary"] = ", ".join(dict.fromkeys([*known, *names]))


def _varying(path: str, send: Send) -> Send:
    """``send`` for an answer whose words are in the language that was negotiated."""
    has_words = not path.startswith(_PLACES_WITHOUT_LANGUAGE)

    async def send_varying(message: Message) -> None:
        if message["type"] == "http.response.start" and (has_words or message["status"] >= 400):
            vary(MutableHeaders(scope=message), "Cookie", "Accept-Language")
        await send(message)

    return send_varying


def _answered_without_prefix(method: str, path: str) -> bool:
    return (
        method not in ("GET", "HEAD")
        or path.startswith(_PLACES_WITHOUT_LANGUAGE)
        or path.endswith(_FORMATS_WITHOUT_LANGUAGE)
    )
