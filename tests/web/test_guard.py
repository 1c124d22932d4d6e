"""Who may ask, who may not, and what every answer carries."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from visitor import Visitor

from tidemill.errors import ConfigError
from tidemill.web import check_bind
from tidemill.web.guard import CSRF_COOKIE, LARGEST_FORM_BYTES, Csrf, Guard

Visit = Callable[..., Visitor]


def guarded(auth: str | None = None, hosts: tuple[str, ...] = ()) -> FastAPI:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def anything(path: str) -> Response:
        return PlainTextResponse(f"here is {path}")

    app.add_middleware(Guard, auth=auth, hosts=set(hosts))
    return app


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8321", 200),
        ("127.9.9.9", 200),
        ("[::1]:8321", 200),
        ("tide.localhost:8321", 200),
        ("localhost.", 200),
        ("evil.example", 421),
        ("evil.example:8321", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.5", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_machine_are_answered(host: str, status: int, visit: Visit) -> None:
    assert visit(guarded()).get("/", Host=host).status_code == status


def test_further_names_are_answered_when_named(visit: Visit) -> None:
    named = visit(guarded(hosts=("Digest.example",)))
    assert named.get("/", Host="digest.example:80").status_code == 200
    assert visit(guarded(hosts=("*",))).get("/", Host="anything.example").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:9999"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_a_form_of_another_site_cannot_act(
    headers: dict[str, str], status: int, visit: Visit
) -> None:
    visitor = visit(guarded())
    assert visitor.post("/s/x/runs", {"a": "b"}, **headers).status_code == status
    assert visitor.get("/", **headers).status_code == 200


def test_a_form_is_small(visit: Visit) -> None:
    answer = visit(guarded()).post("/", {"a": "x" * LARGEST_FORM_BYTES})
    assert answer.status_code == 413
    assert visit(guarded()).post("/", {"a": "b"}, **{"Content-Length": "9" * 30}).status_code == 413
    assert visit(guarded()).post("/", {"a": "b"}, **{"Content-Length": "-1"}).status_code == 411


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        ("Bearer sesame", 200),
        ("bearer sesame", 200),
        ("Bearer sesame!", 401),
        ("Basic " + base64.b64encode(b"anyone:sesame").decode(), 200),
        ("Basic " + base64.b64encode(b"sesame").decode(), 401),
        ("Basic %%%", 401),
        ("Basic \xe9".encode("latin-1"), 401),
        ("Basic " + base64.b64encode(b"\xff\xfe").decode(), 401),
        ("Digest sesame", 401),
    ],
)
def test_a_token_is_asked_for_everywhere_but_at_the_health_check(
    authorization: str | bytes, status: int, visit: Visit
) -> None:
    visitor = visit(guarded(auth="sesame"))
    answer = visitor.get("/zh/", Authorization=authorization)
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) is (status == 401)
    assert visitor.get("/healthz").status_code == 200


def test_every_answer_forbids_inline_code_and_framing(visit: Visit) -> None:
    for host in ("localhost", "evil.example"):
        headers = visit(guarded()).get("/", Host=host).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        for part in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
            assert part in policy
        assert headers["x-content-type-options"] == "nosniff"


def request_with(cookie: str) -> Request:
    headers = [(b"cookie", f"{CSRF_COOKIE}={cookie}".encode())] if cookie else []
    return Request({"type": "http", "headers": headers})


def test_a_form_token_holds_only_for_the_reader_it_was_made_for() -> None:
    csrf = Csrf("key")
    mine, other = request_with("a" * 24), request_with("b" * 24)
    token = csrf.token("a" * 24)
    assert csrf.holds(mine, token)
    assert not csrf.holds(other, token)
    assert not csrf.holds(request_with(""), token)
    assert not csrf.holds(mine, token + "x")
    assert not csrf.holds(mine, "")
    assert not csrf.holds(mine, None)
    assert not Csrf("another key").holds(mine, token)
    assert csrf.token("a" * 24) == token


def test_a_planted_cookie_of_odd_size_is_replaced() -> None:
    assert Csrf.nonce(request_with("a" * 24)) == "a" * 24
    assert Csrf.nonce(request_with("short")) != "short"
    assert len(Csrf.nonce(request_with("x" * 500))) < 64


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    check_bind(host, read_only=False, auth=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "digest.example", ""])
def test_any_other_address_needs_read_only_or_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--read-only or --auth"):
        check_bind(host, read_only=False, auth=None)
    with pytest.raises(ConfigError):
        check_bind(host, read_only=False, auth="")
    check_bind(host, read_only=True, auth=None)
    check_bind(host, read_only=False, auth="sesame")
