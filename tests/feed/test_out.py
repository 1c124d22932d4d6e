"""Feeds and citations out: valid, stable, and read back by our own importer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import feedparser  # pyright: ignore[reportMissingTypeStubs]
import pytest
from paper_builders import ABSTRACT, DAY, FULL, Clock, given_papers, raw

from tidemill.bench.settings import dumps
from tidemill.feed import Entry, Library, Page, out

CHANNEL = out.Channel(
    name="c/systems",
    title="tidemill · 系统进展 <&>",
    home_url="http://127.0.0.1:8321/zh/c/systems",
    feed_url="http://127.0.0.1:8321/zh/c/systems.atom?a=1&b=2",
    paper_url=lambda entry: f"http://127.0.0.1:8321/zh/p/{entry.slug}",
    language="zh-CN",
)


def parsed(page: Page) -> Any:
    feed = cast(Any, feedparser).parse(out.atom(page, CHANNEL))
    assert feed.bozo == 0, feed.bozo_exception
    assert feed.version == "atom10"
    return feed


@pytest.fixture
def full(library: Library) -> Library:
    library.take(given_papers(FULL))
    return library


def test_atom_of_the_seed_is_valid_and_complete(library: Library, seed: Path) -> None:
    library.import_file(seed)
    page = library.page()
    feed = parsed(page)
    assert [item.title for item in feed.entries] == [entry.title for entry in page.entries]
    assert len({item.id for item in feed.entries}) == 20
    assert all(item.id.startswith("tag:tidemill,2026:title:") for item in feed.entries)
    assert feed.feed.id == "tag:tidemill,2026:c/systems"
    assert feed.feed.updated == "2026-06-23T00:00:00Z"


def test_an_atom_entry_tells_all_that_is_known(full: Library) -> None:
    feed = parsed(full.page())
    (item,) = feed.entries
    assert feed.feed.title == CHANNEL.title
    assert {link.rel: link.href for link in feed.feed.links} == {
        "self": CHANNEL.feed_url,
        "alternate": CHANNEL.home_url,
    }
    assert item.id == "tag:tidemill,2026:arxiv:2606.24417"
    assert item.link == "http://127.0.0.1:8321/zh/p/2606.24417"
    assert [author.name for author in item.authors] == [*FULL.authors]
    assert [(tag.term, tag.label) for tag in item.tags] == [
        ("systems", "PyTorch / SP / CP / 系统进展"),
        ("cs.LG", None),
        ("cs.DC", None),
    ]
    assert (item.published, item.updated) == ("2026-06-23T00:00:00Z", "2026-06-23T00:00:00Z")
    assert "10.4" in item.summary
    assert r"\(" not in item.summary
    related = [link.href for link in item.links if link.rel == "related"]
    assert related[:2] == ["https://arxiv.org/abs/2606.24417", "https://arxiv.org/pdf/2606.24417"]


def test_mathml_stands_in_the_feed_as_html(full: Library) -> None:
    assert '&lt;math display="inline"&gt;' in out.atom(full.page(), CHANNEL)


def test_unchanged_content_is_the_same_feed_byte_for_byte(full: Library, clock: Clock) -> None:
    before = out.atom(full.page(), CHANNEL)
    clock.advance(days=5)
    full.take(given_papers(FULL, raw("x", arxiv_id=None, abstract=ABSTRACT, announced=DAY)))
    after = out.atom(full.page(day=DAY, per_page=1), CHANNEL)
    assert after == before


def test_a_revised_abstract_moves_updated_and_not_the_id(full: Library, clock: Clock) -> None:
    (before,) = parsed(full.page()).entries
    clock.advance(days=5)
    full.take(given_papers(raw(FULL.title, f"New. {ABSTRACT}", arxiv_id="2606.24417", version=3)))
    (after,) = parsed(full.page()).entries
    assert (after.id, after.published) == (before.id, before.published)
    assert after.updated == "2026-06-29T12:00:00Z" > before.updated


def test_getting_an_arxiv_id_does_not_make_a_second_item(library: Library) -> None:
    library.take(given_papers(raw()))
    (before,) = parsed(library.page()).entries
    library.take(given_papers(raw(arxiv_id="2606.24417")))
    (after,) = parsed(library.page()).entries
    assert (after.id, after.updated) == (before.id, before.updated)


def test_an_empty_list_is_a_valid_feed(library: Library) -> None:
    assert parsed(library.page()).entries == []
    assert out.json_feed(library.page(), CHANNEL)["items"] == []


def test_json_feed_1_1(full: Library) -> None:
    feed = json.loads(dumps(out.json_feed(full.page(), CHANNEL)))
    assert feed["version"] == "https://jsonfeed.org/version/1.1"
    assert {"title", "home_page_url", "feed_url", "language", "items"} <= feed.keys()
    (item,) = feed["items"]
    assert (item["id"], item["url"]) == (
        "tag:tidemill,2026:arxiv:2606.24417",
        CHANNEL.paper_url(entry_of(full)),
    )
    assert item["authors"] == [{"name": name} for name in FULL.authors]
    assert item["tags"] == ["systems", "cs.LG", "cs.DC"]
    assert item["external_url"] == "https://arxiv.org/abs/2606.24417"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", item["date_published"])
    assert "<math" in item["content_html"]
    assert all(isinstance(item[name], str) for name in ("title", "date_modified", "language"))


def entry_of(library: Library) -> Entry:
    return library.page().entries[0]


def test_an_entry_as_json_holds_what_its_page_shows(full: Library) -> None:
    found = json.loads(dumps(out.entry_json(entry_of(full))))
    assert found["id"] == "arxiv:2606.24417"
    assert found["categories"][0]["slug"] == "systems"
    assert found["links"][0] == {"name": "arXiv", "url": "https://arxiv.org/abs/2606.24417"}
    assert found["submitted"] is None
