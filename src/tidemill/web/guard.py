"""Who may ask, and what every answer says: hosts, origins, access token, CSRF and headers.

The site runs programs, so on a loopback address it must not be reachable through a name that some
other page had resolved to 127.0.0.1 (DNS rebinding), nor through a form on another site.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from itsdangerous import BadSignature, Signer
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.errors import ConfigError

CSRF_COOKIE = "tidemill_form"
CSRF_FIELD = "csrf"
LARGEST_FORM_BYTES = 64 * 1024
ANY_HOST = "*"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_CHART_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def check_bind(host: str, read_only: bool, auth: str | None) -> None:
    """Refuse to serve the Run button to a network without a token.

    Raises:
        ConfigError: ``host`` is not a loopback address and neither ``read_only`` nor ``auth`` is
            given.
    """
    if is_loopback(host) or read_only or auth:
        return
    raise ConfigError.of(
        "host",
        host,
        "a loopback address (127.0.0.1, ::1, localhost) unless --read-only or --auth-file is given",
        "whoever reaches this site could run programs on this machine",
    )


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Csrf:
    """Form tokens bound to a cookie: no server state, valid as long as the cookie and the key.

    A token carries no time, so a page's bytes stay equal for one reader and its ETag works.
    """

    def __init__(self, key: str) -> None:
        self._signer = Signer(key, salt="tidemill form")

    def token(self, nonce: str) -> str:
        """The token to put into a form for the reader whose cookie holds ``nonce``."""
        return self._signer.get_signature(nonce).decode("ascii")

    def holds(self, request: Request, token: object) -> bool:
        """Whether ``token`` was made for the reader who sent ``request``."""
        nonce = request.cookies.get(CSRF_COOKIE, "")
        if not nonce or not isinstance(token, str):
            return False
        try:
            self._signer.unsign(f"{nonce}.{token}")
        except BadSignature:
            return False
        return True

    @staticmethod
    def nonce(request: Request) -> str:
        """The reader's nonce, a fresh one if there is none yet; `remember` sends it."""
        known = request.cookies.get(CSRF_COOKIE, "")
        return known if 20 <= len(known) <= 64 and known.isascii() else secrets.token_urlsafe(18)

    @staticmethod
    def remember(request: Request, response: Response, nonce: str) -> None:
        """Set the cookie unless the reader has it."""
        if request.cookies.get(CSRF_COOKIE) != nonce:
            secure = request.url.scheme == "https"
            response.set_cookie(CSRF_COOKIE, nonce, httponly=True, samesite="lax", secure=secure)


class Guard:
    """ASGI middleware: refuses foreign hosts, origins and tokens; sets the headers of safety.

    Args:
        app: What is guarded.
        auth: The access token, taken as HTTP Basic password (any user) or Bearer; None for none.
        hosts: Further names the site answers to; `ANY_HOST` among them admits all.
    """

    def __init__(self, app: ASGIApp, *, auth: str | None, hosts: Collection[str]) -> None:
        self._app = app
        self._auth = auth
        self._hosts = _LOOPBACK_NAMES | {name.lower() for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _set_headers(MutableHeaders(scope=message))
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        name = _host_name(host)
        if ANY_HOST not in self._hosts and name not in self._hosts and not _is_local(name):
            text = f"host {host!r} — this site answers to localhost only; name others at start.\n"
            return PlainTextResponse(text, 421)
        if self._auth and scope["path"] != "/healthz" and not _has_token(headers, self._auth):
            challenge = {"WWW-Authenticate": 'Basic realm="tidemill", charset="UTF-8"'}
            return PlainTextResponse("an access token is needed.\n", 401, challenge)
        return None if scope["method"] in _SAFE_METHODS else _refusal_of_form(headers, host)


def _refusal_of_form(headers: Headers, host: str) -> Response | None:
    if not _is_own_origin(headers, host):
        return PlainTextResponse("a form of another site cannot act here.\n", 403)
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("the length of the form is missing.\n", 411)
    if len(length) > 9 or int(length) > LARGEST_FORM_BYTES:
        return PlainTextResponse(f"a form has at most {LARGEST_FORM_BYTES} bytes.\n", 413)
    return None


def _host_name(host: str) -> str:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name.strip("[]").lower().removesuffix(".")


def _is_local(name: str) -> bool:
    return name.endswith(".localhost") or is_loopback(name)


def _is_own_origin(headers: Headers, host: str) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:  # "http://[" is no address
        return False


def _has_token(headers: Headers, auth: str) -> bool:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except ValueError:  # no Base64, not ASCII, or no UTF-8 within
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.encode(), auth.encode())


def _set_headers(headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    is_chart = headers.get("content-type", "").startswith("image/svg")
    headers["Content-Security-Policy"] = _CHART_POLICY if is_chart else _POLICY
