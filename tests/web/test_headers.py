"""What every answer carries: the headers of safety, the reader's language, what it depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from house import House
from visitor import Visitor

from tidemill.bench.events import EventLog
from tidemill.feed.entry import Category
from tidemill.feed.library import Library
from tidemill.web import create_app

SAFETY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
RUN_ID = "RUN"


class BrokenLibrary(Library):
    """A library with a bug: it raises what nobody expects."""

    def categories(self) -> tuple[Category, ...]:
        raise LookupError("a bug, planted")


@pytest.fixture
def run_id(house: House, tmp_path: Path) -> str:
    """A run that has ended and can be watched."""
    events = str(tmp_path / "run.jsonl")
    log = EventLog(events)
    log.append("end", {"state": "done", "error": ""})
    run = house.store.create_run(
        system="waterwheel", config={}, kind="run", budget=None, events_path=events
    )
    return run.id


@pytest.fixture
def broken(house: House, visit: Callable[..., Visitor]) -> Visitor:
    """A visitor of a site whose front page has a bug."""
    return visit(create_app(house.store, BrokenLibrary(house.store), house.queue))


def varies(visitor: Visitor, path: str, **headers: str) -> set[str]:
    said = visitor.get(path, **headers).headers.get("vary", "")
    names = [name.strip() for name in said.split(",") if name.strip()]
    assert len(names) == len(set(names)), said
    return set(names) - {"Accept-Encoding"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 307),
        ("/zh/", 200),
        ("/zh/search?q=memory", 200),
        ("/zh/p/2606.00001", 200),
        ("/zh/p/arxiv:2606.00001", 308),
        ("/zh/p/2606.00001.json", 200),
        ("/zh/p/2606.00001.bib", 200),
        ("/zh/p/2606.00001.ris", 200),
        ("/index.json", 200),
        ("/index.atom", 200),
        ("/index.feed.json", 200),
        ("/zh/s/waterwheel", 200),
        ("/zh/s/waterwheel/claims.svg", 200),
        ("/zh/r/RUN", 200),
        ("/r/RUN/events", 200),
        ("/static/site.js", 200),
        ("/static/nothing.css", 404),
        ("/favicon.ico", 308),
        ("/robots.txt", 200),
        ("/healthz", 200),
        ("/language/en", 303),
        ("/zh/nowhere", 404),
        ("/nowhere.json", 404),
        ("/zh/c/nothing", 404),
        ("/zh/?page=x", 400),
        ("/zh/s/waterwheel/runs", 405),
    ],
)
def test_every_answer_carries_the_headers_of_safety(
    visitor: Visitor, run_id: str, path: str, status: int
) -> None:
    answer = visitor.get(path.replace(RUN_ID, run_id))
    assert answer.status_code == status
    assert_safe(answer.headers, is_chart=path.endswith(".svg"))
    if status == 405:
        assert answer.headers["allow"] == "POST"


def assert_safe(headers: object, *, is_chart: bool = False) -> None:
    found = dict(headers)  # type: ignore[call-overload]
    assert {name: found.get(name) for name in SAFETY} == SAFETY
    default = "default-src 'none'" if is_chart else "default-src 'self'"
    assert found["content-security-policy"].startswith(default)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/zh/", "出了点问题"),
        ("/en/", "Something went wrong here"),
        ("/en/index.atom", "Something went wrong here"),
        ("/zh/index.json", "出了点问题"),
        ("/healthz", "出了点问题"),
    ],
)
def test_a_bug_is_answered_safely_and_in_the_readers_language(
    broken: Visitor, path: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = broken.get(path)
    assert answer.status_code == 500
    assert said in answer.text
    assert "planted" not in answer.text
    assert_safe(answer.headers)
    assert "LookupError: a bug, planted" in caplog.text


def test_a_posted_form_meets_a_bug_as_safely(house: House, visit: Callable[..., Visitor]) -> None:
    app = create_app(house.store, house.library, house.queue)

    @app.post("/broken")
    def broken_form() -> None:
        raise LookupError("a bug, planted")

    answer = visit(app).post("/en/broken", {"a": "b"})
    assert answer.status_code == 500
    assert '<html lang="en">' in answer.text
    assert_safe(answer.headers)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/p/2606.00001.json",
        "/p/2606.00001.bib",
        "/p/arxiv:2606.00001.bib",
        "/index.json",
        "/index.atom",
        "/s/waterwheel.json",
        "/s/waterwheel/claims.svg",
        "/c/nothing.json",
        "/static/nothing.css",
    ],
)
def test_what_is_negotiated_says_so(visitor: Visitor, path: str) -> None:
    assert varies(visitor, path) == {"Cookie", "Accept-Language"}


def test_what_is_not_negotiated_can_be_shared(visitor: Visitor) -> None:
    assert varies(visitor, "/static/site.js") == set()
    assert varies(visitor, "/en/p/2606.00001.json") == set()
    assert varies(visitor, "/en/p/2606.00001") == {"Cookie"}


def test_an_answer_without_a_body_varies_as_the_one_with(visitor: Visitor) -> None:
    etag = visitor.get("/index.json").headers["etag"]
    answer = visitor.get("/index.json", **{"If-None-Match": etag})
    assert answer.status_code == 304
    assert answer.headers["vary"] == "Accept-Encoding, Cookie, Accept-Language"
    assert_safe(answer.headers)
