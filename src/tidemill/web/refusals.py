"""What cannot be answered, as a page with a way back (or as JSON for a machine)."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.errors import ResourceError, TidemillError
from tidemill.feed.entry import PageOutOfRange, UnknownCategory
from tidemill.web.language import catalogue, language_of
from tidemill.web.site import Reader, page

_LOG = logging.getLogger(__name__)
_KEYS = {400: "bad_request", 403: "forbidden", 404: "not_found", 405: "not_allowed"}


class Refused(Exception):
    """A request that is answered with a status and a reason instead of a page.

    Args:
        status: The HTTP status.
        key: Of the title, ``refused.<key>`` in the catalogues.
        reason: One sentence of the house in English; "" if the title says it.
        back: A path that leads on.
    """

    def __init__(self, status: int, key: str, reason: str = "", back: str = "/") -> None:
        super().__init__(reason or key)
        self.status = status
        self.key = key
        self.reason = reason
        self.back = back


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` in the reader's language."""

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:
        return answer(request, error)

    @app.exception_handler(PageOutOfRange)
    def past_the_end(request: Request, error: PageOutOfRange) -> Response:
        last = str(request.url.include_query_params(page=error.last).query)
        back = f"{request.scope['path']}?{last}"
        return answer(request, Refused(404, "past_the_end", str(error), back))

    @app.exception_handler(UnknownCategory)
    def no_category(request: Request, error: UnknownCategory) -> Response:
        return answer(request, Refused(404, "not_found", str(error)))

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        key = _KEYS.get(error.status_code, "bad_request")
        refusal = answer(request, Refused(error.status_code, key))
        refusal.headers.update(error.headers or {})  # as Allow, of a 405
        return refusal

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, _error: RequestValidationError) -> Response:
        return answer(request, Refused(400, "bad_request"))

    @app.exception_handler(TidemillError)
    def failed(request: Request, error: TidemillError) -> Response:
        status = 503 if isinstance(error, ResourceError) else 500
        _LOG.error("%s %s: %s", request.method, request.scope["path"], error)
        return answer(request, Refused(status, "failed", str(error)))


class LastResort:
    """ASGI middleware: a bug, too, is answered with a page of the site.

    An exception handler for all exceptions would do it outside of all middleware: without the
    headers of safety, and in no reader's language.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer instead of what raised before it began to answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if has_begun:
                raise
            request = Request(scope)
            _LOG.exception("%s %s", request.method, scope["path"])
            await answer(request, Refused(500, "failed"))(scope, receive, send)


def answer(request: Request, error: Refused) -> Response:
    """The refusal as a page, or as JSON where JSON was asked for."""
    path = str(request.scope["path"])
    t = catalogue(language_of(request.scope))
    title = t(f"refused.{error.key}")
    if path.endswith(".json"):
        return JSONResponse({"error": error.reason or title}, error.status)
    back_key = "refused.home" if error.back == "/" else "refused.back"
    return page(
        request,
        "refusal.html",
        {
            "code": error.status,
            "title": title,
            "reason": error.reason,
            "back": Reader(request).link(error.back),
            "back_label": t(back_key),
        },
        status=error.status,
        place=error.back,
    )
