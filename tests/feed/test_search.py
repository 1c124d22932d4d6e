"""Searching: every form of a word, every Han run, and nothing that the user types is an error."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paper_builders import ABSTRACT, Clock, given_papers, raw

from tidemill.feed import Library
from tidemill.feed.query import LONGEST_QUERY, MOST_TERMS, Query, Term, parse_query
from tidemill.feed.raw import RawEntry

PAPERS = (
    raw(
        "Tides",
        f"KV-cache quantization saves memory bandwidth. {ABSTRACT}",
        arxiv_id="2606.24417",
    ),
    raw(
        "Mills",
        f"键值缓存量化与训练系统的系统进展 quantized caches of memory. {ABSTRACT}",
        arxiv_id="2606.00002",
        subjects=("cs.LG", "stat.ML"),
        authors=("Ada Lovelace", "Wei Li"),
        announced=date(2026, 6, 22),
        category="PyTorch / SP / CP / 系统进展",
        why="x",
    ),
    raw(
        "Memory",
        f"Nothing of the sort, but memory. {ABSTRACT}",
        authors=("Kurt Gödel",),
        announced=date(2026, 5, 31),
        subjects=("cs.DC",),
        comment="12 pages",
        doi="10.1000/xyz",
    ),
)


@pytest.fixture
def stocked(library: Library) -> Library:
    library.take(given_papers(*PAPERS))
    return library


def found(library: Library, query: str) -> list[str]:
    return sorted(entry.title for entry in library.search(query).entries)


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("缓存", ["Mills"]), ("键值缓存", ["Mills"]), ("训练系统", ["Mills"]),
        ("系统进展", ["Mills"]),
        ("存缓", []), ("quantized", ["Mills", "Tides"]),
        ("KV-cache", ["Tides"]),
        ("kv cache", ["Tides"]), ('"memory bandwidth"', ["Tides"]), ('"bandwidth memory"', []),
        ("memory", ["Memory", "Mills", "Tides"]), ("memory -quantized", ["Memory"]),
        ('-"memory bandwidth"', ["Memory", "Mills"]), ("-memory", []),
        ("MEMORY", ["Memory", "Mills", "Tides"]),
        ("godel", ["Memory"]), ("by:Gödel", ["Memory"]), ('by:"ada lovelace"', ["Mills"]),
        ("by:tides", []), ("-by:ada memory", ["Memory", "Tides"]), ("by:ada by:li", ["Mills"]),
        ("cat:systems", ["Mills"]), ("cat:Systems quantized", ["Mills"]), ("cat:cs.LG", ["Mills"]),
        ('cat:"PyTorch / SP / CP / 系统进展"', ["Mills"]), ("cat:cs", ["Memory", "Mills"]),
        ("-cat:systems", ["Memory", "Tides"]), ("cat:nothing", []), ("-cat:cs memory", ["Tides"]),
        ("after:2026-06-22", ["Mills", "Tides"]), ("before:2026-06-22", ["Memory"]),
        ("after:2026-06 before:2026-07", ["Mills", "Tides"]), ("-after:2026", []),
        ("after:2026 memory", ["Memory", "Mills", "Tides"]), ("before:2026", []),
        ("has:system", ["Tides"]), ("-has:system", ["Memory", "Mills"]), ("has:system 键", []),
        ("2606.00002", ["Mills"]), ("10.1000/xyz", ["Memory"]), ('"12 pages"', ["Memory"]),
        ("", ["Memory", "Mills", "Tides"]), ("tide mill", ["Memory", "Mills", "Tides"]),
        ("“memory bandwidth”", ["Tides"]), ("OR", []), ("NOT memory", []),
        ("memory NEAR bandwidth", []), ("mem*", []), ("title:memory", []),
    ],
)  # fmt: skip
def test_the_matrix_of_queries(stocked: Library, query: str, titles: list[str]) -> None:
    assert found(stocked, query) == titles


def test_a_hit_in_the_title_weighs_more_than_one_in_the_abstract(stocked: Library) -> None:
    assert stocked.search("memory").entries[0].title == "Memory"


def test_without_words_the_newest_come_first(stocked: Library) -> None:
    assert [e.title for e in stocked.search("before:2027").entries] == ["Tides", "Mills", "Memory"]


def test_a_snippet_marks_what_was_found(stocked: Library) -> None:
    assert "<mark>缓存</mark>量化" in stocked.search("缓存").entries[0].snippet_html
    entry = stocked.search('"kv cache"').entries[0]
    assert entry.snippet_html.startswith("<mark>KV-cache</mark> quantization")
    assert stocked.search("has:system").entries[0].snippet_html == ""
    assert stocked.page().entries[0].snippet_html == ""


def test_a_claim_is_known_to_the_caller_alone(stocked: Library) -> None:
    asked: list[str] = []

    def claims(word: str) -> Collection[str] | None:
        asked.append(word)
        return {"holds": {"toy"}, "fails": set[str]()}.get(word)

    assert [e.title for e in stocked.search("claim:Holds", claims=claims).entries] == ["Tides"]
    assert stocked.search("claim:fails", claims=claims).total == 0
    assert stocked.search("-claim:holds", claims=claims).total == 2
    unknown = stocked.search("claim:shines bandwidth -claim:x", claims=claims)
    assert unknown.ignored == ("claim:shines", "-claim:x")
    assert [e.title for e in unknown.entries] == ["Tides"]
    assert asked == ["holds", "fails", "holds", "shines", "x"]
    assert stocked.search("claim:holds").ignored == ("claim:holds",)


@pytest.mark.parametrize(
    "part",
    ["after:yesterday", "before:2026-02-30", "has:wings", "cat:", "-By:", 'by:""', "-", "++", '"',
     "(", "☃", "claim:holds"],
)  # fmt: skip
def test_what_means_nothing_is_left_out_and_told(stocked: Library, part: str) -> None:
    page = stocked.search(f"bandwidth {part}")
    assert [entry.title for entry in page.entries] == ["Tides"]
    assert (page.query, page.ignored) == (f"bandwidth {part}", (part,))


def test_a_query_reads_into_terms() -> None:
    query = parse_query('KV -"not this" cat:"a b" -by:x HAS:system after:2026 http://x.example -')
    assert query == Query(
        (
            Term("", "KV"),
            Term("", "not this", True),
            Term("cat", "a b"),
            Term("by", "x", True),
            Term("has", "system"),
            Term("after", "2026"),
            Term("", "http://x.example"),
        ),
        ("-",),
    )
    assert query.match() == ('"KV" AND "http://x.example"', '"not this" OR authors : "x"')
    assert [term.field for term in query.filters()] == ["cat", "has", "after"]


def test_a_query_is_read_to_a_length() -> None:
    assert len(parse_query("a " * MOST_TERMS * 2).terms) == MOST_TERMS
    assert parse_query("a " * MOST_TERMS * 2).ignored
    query = parse_query("a" * LONGEST_QUERY + "b c")
    assert (len(query.terms[0].value), query.ignored) == (LONGEST_QUERY, ("b c",))


def test_the_index_follows_every_change(stocked: Library, clock: Clock) -> None:
    def put(entry: RawEntry) -> None:
        clock.advance(days=1)
        stocked.take(given_papers(entry))

    revised = raw("Tides", f"Wholly new. {ABSTRACT}", arxiv_id="2606.24417", version=2)
    put(revised)
    assert found(stocked, "bandwidth") == []
    assert found(stocked, "wholly") == ["Tides"]
    put(replace(revised, authors=("Grace",)))
    assert found(stocked, "by:grace") == ["Tides"]
    put(replace(revised, subjects=("cs.AR",)))
    assert found(stocked, "cat:cs.AR") == found(stocked, "cs.AR") == ["Tides"]


grammar = st.lists(
    st.sampled_from(
        ["memory", "键值", '"', '""', "'", "-", "--", "*", "(", ")", "^", ":", "+", "\\", ";", "%",
         "_", "AND", "OR", "NOT", "NEAR(", "cat:", "by:", "after:", "before:", "has:", "claim:",
         "authors:", "{a b}:", "2026-06", "system", "\x00", "\ud800", "\u202e", "☃", "１", "ﬁ",
         "a" * 1200, " ", "rowid"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(grammar | st.text(max_size=60))
def test_whatever_is_typed_is_answered(stocked: Library, query: str) -> None:
    page = stocked.search(query, claims=lambda word: {"toy"} if word == "system" else None)
    assert 0 <= page.total <= 3
    assert len(page.entries) == page.total
