"""The same content for machines, and no byte twice to those who have it."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from visitor import Visitor

ATOM = "{http://www.w3.org/2005/Atom}"
LISTS = ("/zh/index", "/zh/c/systems", "/zh/d/2026-06-23", "/zh/search")


@pytest.mark.parametrize("place", LISTS)
def test_a_list_is_there_as_json_atom_and_json_feed(visitor: Visitor, place: str) -> None:
    query = "?q=memory" if place.endswith("search") else ""
    content = visitor.get(f"{place}.json{query}")
    assert content.headers["content-type"] == "application/json"
    titles = [entry["title"] for entry in content.json()["entries"]]
    assert titles

    answer = visitor.get(f"{place}.atom{query}")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    feed = ET.fromstring(answer.content)
    assert len(feed.findall(f"{ATOM}entry")) == len(titles)
    links = [link.get("href") or "" for link in feed.findall(f"{ATOM}link")]
    assert f"http://localhost{place}.atom{query}" in links
    assert "last-modified" in answer.headers

    answer = visitor.get(f"{place}.feed.json{query}")
    assert answer.headers["content-type"].startswith("application/feed+json")
    assert len(answer.json()["items"]) == len(titles)


def test_machines_need_no_language(visitor: Visitor) -> None:
    assert visitor.get("/c/systems.json").status_code == 200
    assert visitor.get("/index.atom").status_code == 200
    assert visitor.get("/p/2606.00001.bib").status_code == 200


def test_a_feed_names_its_entries_the_same_in_both_languages(visitor: Visitor) -> None:
    ids = [
        [e.findtext(f"{ATOM}id") for e in ET.fromstring(visitor.get(path).content)]
        for path in ("/zh/index.atom", "/en/index.atom")
    ]
    assert ids[0] == ids[1]


def test_a_paper_is_there_as_bibtex_ris_and_json(visitor: Visitor) -> None:
    assert "A Wheel That Lifts Water" in visitor.get("/en/p/2606.00001.bib").text
    assert "TY  - " in visitor.get("/en/p/2606.00001.ris").text
    paper = visitor.get("/en/p/2606.00001.json").json()
    listed = visitor.get("/en/index.json").json()["entries"]
    assert paper.keys() - {"claims"} == listed[0].keys() > {"url", "lang", "subjects", "license"}
    assert paper["id"] == "arxiv:2606.00001"
    assert [claim["claim"] for claim in paper["claims"]] == ["lift", "loss", "noise"]
    assert paper["claims"][0]["measured"] is None


@pytest.mark.parametrize(
    "path",
    ["/s/cusbf.json", "/s/waterwheel.json", "/claims.json", "/about.json"],
)
def test_other_pages_are_there_as_json(visitor: Visitor, path: str) -> None:
    answer = visitor.get(path)
    assert answer.status_code == 200
    json.loads(answer.content)


@pytest.mark.parametrize(
    "path",
    [
        "/zh/",
        "/zh/c/systems",
        "/zh/index.atom",
        "/zh/index.feed.json",
        "/index.json",
        "/en/p/2606.00001",
        "/en/p/2606.00001.bib",
        "/en/s/waterwheel",
        "/en/claims",
        "/en/about",
    ],
)
def test_who_has_it_already_is_not_sent_it_again(visitor: Visitor, path: str) -> None:
    visitor.get(path)  # the reader's first page also brings the cookie that forms are bound to
    first = visitor.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = visitor.get(path, **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    changed = visitor.get(path, **{"If-None-Match": 'W/"something-else"'})
    assert changed.status_code == 200


def test_files_of_the_site_are_kept_for_ever_since_their_names_change(visitor: Visitor) -> None:
    page = visitor.get("/zh/").text
    address = page.partition('<link rel="stylesheet" href="')[2].partition('"')[0]
    answer = visitor.get(address)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert "?v=" in address


def test_the_front_page_is_light(visitor: Visitor) -> None:
    """Under 60 KB for the page and 150 KB with all it needs, as sent."""

    def sent(path: str) -> int:
        return int(visitor.get(path, **{"Accept-Encoding": "gzip"}).headers["content-length"])

    page = visitor.get("/zh/").text
    files = {part.partition('"')[0] for part in page.split('="/static/')[1:]}
    assert sent("/zh/") < 60_000
    assert sent("/zh/") + sum(sent(f"/static/{file}") for file in files) < 150_000


def test_the_health_check_looks_at_the_database(visitor: Visitor) -> None:
    assert visitor.get("/healthz").json() == {"status": "ok"}
