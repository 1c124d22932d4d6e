"""Errors as answers: JSON of OpenAI's shape, which does not show what the server is made of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tidemill.errors import ResourceError, TidemillError
from tidemill.serve.answering import Unanswered
from tidemill.serve.answers import error_json
from tidemill.serve.async_engine import EngineDown
from tidemill.serve.scheduler import QueueFull

if TYPE_CHECKING:
    from starlette.responses import Response

_log = logging.getLogger("tidemill.serve")
RETRY_AFTER_S = 1


def install_error_handlers(app: FastAPI) -> None:
    """Have all errors of ``app`` answered."""
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(TidemillError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _malformed(_: Request, error: Exception) -> Response:
    first = cast("RequestValidationError", error).errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    text = f"{where or 'body'} — {first['msg'].removeprefix('Value error, ')}"
    return JSONResponse(error_json(text, "invalid_request_error", param=where or None), 400)


async def _refused(_: Request, error: Exception) -> Response:
    from tidemill.serve.api import UnknownModel

    text = str(error)
    if isinstance(error, UnknownModel):
        body = error_json(text, "invalid_request_error", param="model", code="model_not_found")
        return JSONResponse(body, 404)
    if isinstance(error, QueueFull):
        body = error_json(text, "rate_limit_error", code="queue_full")
        return JSONResponse(body, 429, {"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, Unanswered):
        return JSONResponse(error_json(text, "server_error"), 500)
    if isinstance(error, ResourceError):
        later = str(error.retry_after_s if isinstance(error, EngineDown) else 5)
        return JSONResponse(error_json(text, "server_error"), 503, {"Retry-After": later})
    return JSONResponse(error_json(text, "invalid_request_error"), 400)


async def _http(_: Request, raised: Exception) -> Response:
    error = cast("HTTPException", raised)
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(error_json(str(error.detail), kind), error.status_code, error.headers)


async def _unexpected(_: Request, error: Exception) -> Response:
    _log.error("a request failed", exc_info=error)
    return JSONResponse(error_json("the server failed; its log says why", "server_error"), 500)
