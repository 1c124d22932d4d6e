"""What stands before the API: keys, and how large a body may be."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.serve.answers import error_json
from tidemill.serve.chat_page import PATHS

_OPEN = frozenset({"/health", *PATHS})


class Gate:
    """ASGI middleware.

    Args:
        app: What is guarded.
        keys: One of them must come as ``Authorization: Bearer``; empty for none.
        max_body_bytes: Larger bodies are refused before they are read.
    """

    def __init__(self, app: ASGIApp, *, keys: Collection[str], max_body_bytes: int) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._most = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["path"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, _Limited(receive, self._most), send)

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        if self._keys and path not in _OPEN and not self._is_known(headers):
            text = "an API key is needed, as `Authorization: Bearer KEY`"
            body = error_json(text, "invalid_request_error", code="invalid_api_key")
            return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12 or int(length) > self._most:
            text = f"the body has {length[:20]} bytes; at most {self._most} are taken"
            return JSONResponse(error_json(text, "invalid_request_error"), 413)
        return None

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        sent = key.strip().encode("utf-8", "surrogateescape")
        found = [hmac.compare_digest(sent, known) for known in self._keys]
        return scheme.lower() == "bearer" and any(found)


class _Limited:
    """A body that ends the request when it grows beyond what was said."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                return {"type": "http.disconnect"}
        return message
