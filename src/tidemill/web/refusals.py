"""What cannot be answered, as a page with a way back (or as JSON for a machine)."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

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
        return answer(request, Refused(error.status_code, key))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, _error: RequestValidationError) -> Response:
        return answer(request, Refused(400, "bad_request"))

    @app.exception_handler(TidemillError)
    def failed(request: Request, error: TidemillError) -> Response:
        status = 503 if isinstance(error, ResourceError) else 500
        _LOG.error("%s %s: %s", request.method, request.scope["path"], error)
        return answer(request, Refused(status, "failed", str(error)))

    @app.exception_handler(Exception)
    def bug(request: Request, _error: Exception) -> Response:
        return answer(request, Refused(500, "failed"))


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
