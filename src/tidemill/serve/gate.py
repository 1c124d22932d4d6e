"""What stands before the API: keys and their limits, and how large a body may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.serve.answers import error_json
from tidemill.serve.api_keys import Account, Accounts, ApiKey, OverLimit
from tidemill.serve.chat_page import PATHS

_OPEN = frozenset({"/health", *PATHS})
_HANG_UP = {"Connection": "close"}
"""With it the rest of a body need not be read."""
ACCOUNT = "tidemill.account"
"""Where the account of a request's key stands in its ASGI scope."""


class Gate:
    """ASGI middleware.

    Args:
        app: What is guarded.
        keys: One of them must come as ``Authorization: Bearer``; empty for none.
        max_body_bytes: Larger bodies are refused before they are read.
        on_limited: Is told the name of a limit by which a request was refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Collection[ApiKey],
        max_body_bytes: int,
        on_limited: Callable[[str], None] = lambda limit: None,
    ) -> None:
        self._app = app
        self._accounts = Accounts(keys)
        self._most = max_body_bytes
        self._on_limited = on_limited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        account = self._account(headers)
        refusal = self._refusal(scope["path"], headers, account)
        counted = account if scope["method"] == "POST" else None
        if refusal is None and counted is not None:
            refusal = self._over_limit(counted)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        try:
            await self._app({**scope, ACCOUNT: account}, _Limited(receive, self._most), send)
        finally:
            if counted is not None:
                counted.leave()

    def _over_limit(self, account: Account) -> Response | None:
        try:
            account.enter()
        except OverLimit as error:
            self._on_limited(error.limit)
            document = error_json(
                str(error), "rate_limit_error", param=error.limit, code="rate_limit_exceeded"
            )
            later = str(max(1, math.ceil(error.retry_after_s)))
            return JSONResponse(document, 429, {"Retry-After": later})
        return None

    def _account(self, headers: Headers) -> Account | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        return self._accounts.find(key.strip()) if scheme.lower() == "bearer" else None

    def _refusal(self, path: str, headers: Headers, account: Account | None) -> Response | None:
        if self._accounts and path not in _OPEN and account is None:
            text = "an API key is needed, as `Authorization: Bearer KEY`"
            body = error_json(text, "invalid_request_error", code="invalid_api_key")
            return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12 or int(length) > self._most:
            text = f"the body has {length[:20]} bytes; at most {self._most} are taken"
            return JSONResponse(error_json(text, "invalid_request_error"), 413, _HANG_UP)
        return None


class _Limited:
    """A body that is refused when it grows beyond what was said, or what is taken."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._read = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._most:
                text = f"the body has more than {self._most} bytes, which are the most taken"
                raise HTTPException(413, text, _HANG_UP)
        return message
