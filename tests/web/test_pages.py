"""Pages for readers: what they show, in which language, and what is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urldefrag

import pytest
from house import House
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from visitor import Visitor

from tidemill.bench.store import Store
from tidemill.feed.library import Library
from tidemill.web import create_app
from tidemill.web.language import catalogue

LEDE = "为您提供AIGC最新文章论文,让你不miss掉每日更新。"
WHEEL = "2606.00001"


class Outline(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def text_of(html: str) -> str:
    return " ".join(Outline(html).text.split())


def a_page_of(count: int) -> str:
    """A page of ``count`` further papers in the form of the seed."""
    entries = "".join(
        f"\n\nPaper Number {n}: On Things\n\narXiv 2026-06-{23 - n // 20:02d}\n\n"
        f"We present thing number {n}, which is long enough to be an abstract of a paper."
        for n in range(count)
    )
    return (
        f"每日文章\n\n{LEDE}\n\n{count} 篇文章 1 / 1 页\n\nPyTorch / SP / CP / 系统进展{entries}\n"
    )


def test_an_address_without_language_leads_to_the_readers_own(visitor: Visitor) -> None:
    answer = visitor.get("/c/systems?page=1", **{"Accept-Language": "en-GB"})
    assert (answer.status_code, answer.headers["location"]) == (307, "/en/c/systems?page=1")
    assert answer.headers["vary"] == "Cookie, Accept-Language"
    assert visitor.get("/").headers["location"] == "/zh/"
    assert visitor.get("/zh").headers["location"] == "/zh/"
    assert visitor.get("/en").headers["location"] == "/en/"


def test_the_language_switch_is_remembered_and_leads_nowhere_else(visitor: Visitor) -> None:
    page = Outline(visitor.get("/zh/claims?status=measured").text)
    switch = next(a["href"] for a in page.all("a") if a.get("class") == "language")
    answer = visitor.get(switch or "")
    assert (answer.status_code, answer.headers["location"]) == (303, "/en/claims?status=measured")
    assert visitor.get("/", **{"Accept-Language": "zh"}).headers["location"] == "/en/"
    for target in ("//evil.example/", "https://evil.example", "/\\evil.example", "/zh/"):
        answer = visitor.get(f"/language/en?to={target}")
        assert answer.headers["location"] == "/en/"
    assert visitor.get("/language/fr").status_code == 404


def test_the_front_page_is_the_digests_own(visitor: Visitor) -> None:
    html = visitor.get("/zh/").text
    page = Outline(html)
    text = text_of(html)
    assert "<h1>每日文章</h1>" in html
    assert LEDE in text
    assert "20 篇文章 1 / 1 页" in text
    assert "<h2>PyTorch / SP / CP / 系统进展</h2>" in html
    dates = re.findall(r"arXiv (2026-06-2[0-9])", text)
    assert dates == ["2026-06-23"] * 6 + ["2026-06-22"] * 14
    assert page.all("html")[0]["lang"] == "zh-CN"
    assert "\\(" not in text
    assert "10.4" in text


def test_sixty_five_papers_are_four_pages(
    house: House, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    file = tmp_path / "page.txt"
    file.write_text(a_page_of(45), encoding="utf-8")
    house.library.import_file(file)
    visitor = visit(create_app(house.store, house.library, None))
    slug = house.library.categories()[0].slug  # which has the 20 shipped papers already
    counts = []
    for number in (1, 2, 3, 4):
        text = text_of(visitor.get(f"/zh/c/{slug}?page={number}").text)
        assert f"65 篇文章 {number} / 4 页" in text
        counts.append(len(re.findall("arXiv 2026-06-", text)))
    assert counts == [20, 20, 20, 5]
    answer = visitor.get(f"/zh/c/{slug}?page=5")
    assert answer.status_code == 404
    assert f"/zh/c/{slug}?page=4" in answer.text


@pytest.mark.parametrize("page", ["abc", "-1", "0", "1.5", "9" * 40, "", " 2", "٣", "1e3", "%00"])
def test_a_page_number_that_is_none_is_the_askers_mistake(visitor: Visitor, page: str) -> None:
    for path in ("/zh/", "/en/search?q=a", "/zh/index.atom", "/zh/d/2026-06-23"):
        joint = "&" if "?" in path else "?"
        assert visitor.get(f"{path}{joint}page={page}").status_code == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/zh/?page=99", 404),
        ("/zh/c/nothing", 404),
        ("/zh/d/2026-13-99", 400),
        ("/zh/d/2001-01-01", 404),
        ("/zh/p/2606.99999", 404),
        ("/zh/p/..%2f..%2fetc%2fpasswd", 404),
        ("/zh/s/nothing", 404),
        ("/zh/s/cusbf?from=nothing", 404),
        ("/zh/s/cusbf/charts/nothing.svg", 404),
        ("/zh/r/nothing", 404),
        ("/zh/r/" + "0" * 32, 404),
        ("/zh/r/" + "0" * 32 + "/charts/x.svg", 400),
        ("/r/" + "0" * 32 + "/events", 404),
        ("/zh/claims?status=lovely", 400),
        ("/zh/claims?system=nothing", 400),
        ("/zh/index.exe", 404),
        ("/zh/claims.atom", 404),
        ("/zh/nowhere", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/static/nothing.css", 404),
    ],
)
def test_what_is_not_there_is_said_with_a_way_back(
    visitor: Visitor, path: str, status: int
) -> None:
    answer = visitor.get(path)
    assert answer.status_code == status
    page = Outline(answer.text)
    assert any((a.get("href") or "").startswith("/") for a in page.all("a"))
    assert len(page.all("h1")) == 1


def test_a_machine_is_refused_in_json(visitor: Visitor) -> None:
    answer = visitor.get("/c/nothing.json")
    assert answer.status_code == 404
    assert "nothing" in answer.json()["error"]


def test_only_a_paper_with_a_system_can_be_run_and_imported(visitor: Visitor) -> None:
    html = visitor.get("/zh/").text
    entries = html.split('<article class="entry"')[1:]
    with_system = [entry for entry in entries if "/runs" in entry]
    imported = {found for e in with_system for found in re.findall(r"systems import (\w+)", e)}
    assert imported >= {"cusbf"}
    assert len(imported) == len(with_system)
    others = [entry for entry in entries if entry not in with_system]
    assert not [entry for entry in others if re.search("cusbf|系统 [·✓]|<form|<code", entry)]


def test_a_paper_page_shows_abstract_claims_import_and_citation(visitor: Visitor) -> None:
    html = visitor.get(f"/en/p/{WHEEL}").text
    page, text = Outline(html), text_of(html)
    assert "We present a wheel that lifts water" in text
    assert "import tidemill_waterwheel" in text
    assert "system · 3 claims, none measured here yet" in text
    assert "It lifts up to 2.2x more than a bucket" in text
    assert "tidemill claims waterwheel --only lift" in text
    meta = {m.get("name"): m.get("content") for m in page.all("meta")}
    assert meta["citation_title"] == "A Wheel That Lifts Water"
    assert meta["citation_arxiv_id"] == WHEEL
    assert meta["citation_online_date"] == "2026/06/24"


def test_an_old_name_of_a_paper_leads_to_the_present_one(visitor: Visitor) -> None:
    answer = visitor.get(f"/en/p/arxiv:{WHEEL}")
    assert (answer.status_code, answer.headers["location"]) == (308, f"/en/p/{WHEEL}")
    answer = visitor.get(f"/en/p/arxiv:{WHEEL}.bib")
    assert answer.headers["location"] == f"/en/p/{WHEEL}.bib"


def test_a_paper_keeps_its_address_when_its_arxiv_id_becomes_known(
    house: House, visitor: Visitor, tmp_path: Path
) -> None:
    entries = house.library.page(category="systems").entries
    old = next(e for e in entries if e.arxiv_id is None)  # of no system: those tell it
    file = tmp_path / "known.jsonl"
    known = {"id": "2606.12345", "title": old.title, "abstract": old.abstract, "date": "2026-06-23"}
    file.write_text(json.dumps(known) + "\n", encoding="utf-8")
    house.library.import_file(file)
    answer = visitor.get(f"/zh/p/{old.slug}")
    assert (answer.status_code, answer.headers["location"]) == (308, "/zh/p/2606.12345")
    assert "20 篇文章" in visitor.get("/zh/").text


def test_an_empty_digest_says_how_to_fill_it(tmp_path: Path, visit: Callable[..., Visitor]) -> None:
    store = Store(f"sqlite:///{tmp_path / 'empty.db'}")
    store.migrate()
    library = Library(store)
    library.migrate()
    visitor = visit(create_app(store, library, None))
    for path in ("/zh/", "/en/", "/en/search?q=a", "/en/about", "/en/index.atom", "/index.json"):
        assert visitor.get(path).status_code == 200, path
    assert "tidemill feed import FILE" in visitor.get("/en/").text
    store.close()


def test_what_a_paper_or_a_reader_writes_is_never_markup(visitor: Visitor) -> None:
    attack = "<script>alert(1)</script>"
    for path in (f"/en/p/{WHEEL}", f"/en/search?q={attack}", f"/en/{attack}", f"/en/p/{attack}"):
        html = visitor.get(path).text
        assert attack not in html
        assert all(script.get("src") for script in Outline(html).all("script"))


def test_a_search_finds_keeps_the_question_and_says_what_it_ignored(visitor: Visitor) -> None:
    text = visitor.get('/zh/search?q="KV cache" has:system -MoE').text
    assert 'value="&#34;KV cache&#34; has:system -MoE"' in text
    assert "cuSBF" in visitor.get("/zh/search?q=minimizer").text
    assert "没有匹配的文章" in visitor.get("/zh/search?q=zzzzqqq").text
    assert "after:yesterday" in visitor.get("/en/search?q=wheel after:yesterday").text
    assert visitor.get("/zh/search").status_code == 200


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=60), st.sampled_from(["", ".json", ".atom", ".feed.json"]))
def test_no_question_breaks_the_search(visitor: Visitor, query: str, ending: str) -> None:
    answer = visitor.get(f"/en/search{ending}", params={"q": query})
    assert answer.status_code == 200


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from("cdprs"), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_no_address_breaks_the_site(visitor: Visitor, kind: str, rest: str) -> None:
    answer = visitor.get(f"/en/{kind}/{quote(rest)}")
    assert answer.status_code < 500


def walk(visitor: Visitor, language: str) -> Iterator[tuple[str, str]]:
    """Every page that can be reached by links without changing the language."""
    start = f"/{language}/"
    seen, todo = {start}, [start]
    while todo:
        path = todo.pop()
        answer = visitor.get(path)
        while answer.is_redirect:
            answer = visitor.get(answer.headers["location"])
        assert answer.status_code == 200, path
        if "text/html" not in answer.headers["content-type"]:
            continue
        if path.startswith(start):
            yield path, answer.text
        for tag, attributes in Outline(answer.text).tags:
            link = attributes.get("href" if tag in ("a", "link") else "src") or ""
            link = urldefrag(link).url
            if link.startswith((f"/{language}/", "/static/")) and link not in seen:
                seen.add(link)
                todo.append(link)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_link_leads_somewhere_and_every_page_is_in_order(
    visitor: Visitor, language: str
) -> None:
    tag = {"zh": "zh-CN", "en": "en"}[language]
    other = catalogue({"zh": "en", "en": "zh"}[language])
    foreign = {other("nav.claims"), other("nav.about"), other("run"), other("claims.how")}
    pages = 0
    for path, html in walk(visitor, language):
        pages += 1
        page = Outline(html)
        assert page.all("html") == [{"lang": tag}], path
        assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1, path
        assert page.all("a")[0]["href"] == "#main", path
        assert all(image.get("width") and image.get("height") for image in page.all("img")), path
        assert all("alt" in image for image in page.all("img")), path
        assert not [a for _, a in page.tags if "style" in a or any(n.startswith("on") for n in a)]
        assert all(script.get("src") for script in page.all("script")), path
        assert not page.all("style"), path
        words = {w for w in re.split(r"\s{2,}|\n", page.text)}
        assert not words & foreign, path
    assert pages > 25
