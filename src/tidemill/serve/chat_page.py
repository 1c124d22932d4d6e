"""A page to talk with the model in a browser, from three files and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

PATHS = {
    "/": ("chat.html", "text/html; charset=utf-8"),
    "/chat.js": ("chat.js", "text/javascript; charset=utf-8"),
    "/chat.css": ("chat.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_chat_page(app: FastAPI) -> None:
    """Serve the page at ``/``."""
    folder = resources.files("tidemill.serve") / "page"
    for path, (name, kind) in PATHS.items():
        content = (folder / name).read_bytes()
        app.add_api_route(path, _answer(content, kind), include_in_schema=False)


def _answer(content: bytes, kind: str) -> Callable[[], Coroutine[None, None, Response]]:
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return file
