"""The lists of the digest: newest first, the source's order within a day, 20 on a page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from paper_builders import ABSTRACT, DAY, given_papers, page_of, raw, system

from tidemill.errors import ConfigError
from tidemill.feed import Day, Library, Link, PageOutOfRange, UnknownCategory


def fill(library: Library, count: int) -> None:
    library.take(
        given_papers(
            *(
                raw(f"Paper {n:02}", announced=DAY - timedelta(days=n // 10), category="Serving")
                for n in range(count)
            )
        )
    )


def titles(library: Library, **page: object) -> list[str]:
    return [entry.title for entry in library.page(**page).entries]  # type: ignore[arg-type]


def test_the_library_shows_the_seed_in_its_own_order(library: Library, seed: Path) -> None:
    library.import_file(seed)
    lines = [line for line in seed.read_text(encoding="utf-8").split("\n") if line]
    page = library.page()
    assert [entry.title for entry in page.entries] == lines[4::3]
    assert [f"arXiv {entry.announced}" for entry in page.entries] == lines[5::3]
    assert [entry.abstract for entry in page.entries] == lines[6::3]
    assert (page.total, page.number, page.pages) == (20, 1, 1)
    assert page.entries == library.page(category="systems").entries


def test_65_papers_are_pages_of_20_20_20_and_5(library: Library) -> None:
    fill(library, 65)
    for category in (None, "serving"):
        pages = [library.page(category=category, number=number) for number in (1, 2, 3, 4)]
        assert [len(page.entries) for page in pages] == [20, 20, 20, 5]
        assert {(page.total, page.pages) for page in pages} == {(65, 4)}
        shown = [entry.title for page in pages for entry in page.entries]
        assert shown == [f"Paper {n:02}" for n in range(65)]


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (1, 1), (20, 1), (21, 2), (40, 2), (41, 3)])
def test_a_page_past_the_last_is_refused_with_the_last(
    library: Library, count: int, pages: int
) -> None:
    fill(library, count)
    assert library.page().pages == library.search("paper").pages == pages
    for ask in (library.page, lambda number: library.search("paper", number=number)):
        with pytest.raises(
            PageOutOfRange, match=f"the last one is {pages}; ask for 1 to"
        ) as refused:
            ask(number=pages + 1)
        assert (refused.value.number, refused.value.last) == (pages + 1, pages)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"number": 0}, "number=0 — must be at least 1"),
        ({"number": -5}, "number=-5 — must be at least 1"),
        ({"per_page": 0}, r"per_page=0 — must be in \[1, 200\]"),
        ({"per_page": 201}, r"per_page=201 — must be in \[1, 200\]"),
    ],
)
def test_impossible_pages_are_refused(
    library: Library, arguments: dict[str, int], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        library.page(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=told):
        library.search("x", **arguments)  # type: ignore[arg-type]


def test_a_huge_page_number_is_out_of_range_and_no_database_error(library: Library) -> None:
    with pytest.raises(PageOutOfRange):
        library.page(number=10**30)


def test_an_unknown_category_is_refused_with_those_there_are(library: Library) -> None:
    with pytest.raises(UnknownCategory, match=r"'x' — there is none; there are \(none yet\)"):
        library.page(category="x")
    fill(library, 1)
    with pytest.raises(UnknownCategory, match="there are serving"):
        library.page(category="x")


def test_later_imports_of_a_day_follow_the_earlier_ones(
    library: Library, write: Callable[..., Path]
) -> None:
    for names in (("C", "A"), ("D", "C", "B")):
        page = page_of((name, f"arXiv {DAY}", f"{name} {ABSTRACT}") for name in names)
        library.import_file(write(page))
    assert titles(library) == ["C", "A", "D", "B"]


def test_days_and_what_was_announced_since_one(library: Library) -> None:
    fill(library, 25)
    days = [DAY, DAY - timedelta(days=1), DAY - timedelta(days=2)]
    assert library.days() == (Day(days[0], 10), Day(days[1], 10), Day(days[2], 5))
    assert titles(library, day=days[2]) == [f"Paper {n}" for n in range(20, 25)]
    assert library.page(day=date(2020, 2, 29)).total == 0
    assert library.page(since=days[1], category="serving").total == 20
    assert library.page(since=days[1]).total == 20


def test_an_entry_tells_all_that_is_known_of_a_paper(library: Library) -> None:
    library.take(
        given_papers(
            raw(
                "On $x^2$",
                f"{ABSTRACT} See https://code.example/a.",
                arxiv_id="2606.24417",
                version=2,
                doi='10.1000/x"y',
                links=("https://www.video.example/b", "https://["),
                subjects=("cs.LG",),
                category="Serving",
                why="Daily 1 / 4",
            )
        )
    )
    entry = library.page(category="serving").entries[0]
    assert (entry.slug, entry.system, entry.lang) == ("2606.24417", "toy", "en")
    assert "<math" in entry.title_html
    assert entry.links == (
        Link("arXiv", "https://arxiv.org/abs/2606.24417"),
        Link("PDF", "https://arxiv.org/pdf/2606.24417"),
        Link("DOI", "https://doi.org/10.1000/x%22y"),
        Link("video.example", "https://www.video.example/b"),
        Link("https://[", "https://["),
        Link("code.example", "https://code.example/a"),
    )
    assert library.page(category="serving").category == library.categories()[0]


@pytest.mark.parametrize(
    ("fields", "origin"),
    [
        ({"arxiv_id": "2606.24417", "journal_ref": "Tides 1", "origin": "Nature"}, "arXiv"),
        ({"origin": "Nature", "links": ("https://www.nature.com/a",)}, "Nature"),
        ({"journal_ref": "Tides 1 (2026)", "doi": "10.1000/xyz"}, "Tides 1 (2026)"),
        ({"journal_ref": "A Very Long Name of Proceedings " * 5, "doi": "10.1000/xyz"}, "DOI"),
        ({"links": ("https://[", "https://www.tides.example:8/b")}, "tides.example"),
        ({"links": ("https://" + "x" * 500,)}, "x" * 60),
        ({"links": ("https://[",)}, ""),
        ({"abstract": f"{ABSTRACT} Code: https://code.example/x"}, ""),
        ({}, ""),
    ],
)
def test_a_paper_says_where_it_was_announced_and_not_arxiv_unless_it_was(
    library: Library, fields: dict[str, Any], origin: str
) -> None:
    library.take(given_papers(raw(**fields)))
    (entry,) = library.page().entries
    assert entry.origin == origin


def test_the_dated_line_of_a_page_is_remembered(
    library: Library, write: Callable[..., Path]
) -> None:
    dated = ("Nature 2026-06-23", "arXiv 2026-06-22", "arXiv:2606.24417v2 2026-06-21")
    page = page_of((f"Tide Mill {n}", line, f"{n} {ABSTRACT}") for n, line in enumerate(dated))
    library.import_file(write(page))
    assert [entry.origin for entry in library.page().entries] == ["Nature", "arXiv", "arXiv"]
    assert library.page().entries[1].arxiv_id is None


def test_a_library_of_before_learns_where_its_papers_were_announced(library: Library) -> None:
    library.take(given_papers(raw()))
    before = library.page().entries[0]
    library.take(given_papers(raw(origin="arXiv")))
    (after,) = library.page().entries
    assert (before.origin, after.origin) == ("", "arXiv")
    assert after.updated == before.updated


def test_a_paper_that_is_not_there_is_none(library: Library) -> None:
    for paper_id in ("", "x", "2606.00001", "t-0123456789", "title:x", "' OR 1=1 --", "\x00"):
        assert library.paper(paper_id) is None
        assert library.near_duplicates(paper_id) == library.versions(paper_id) == ()
        assert library.merged(paper_id) == ()


def test_a_short_slug_that_fits_two_papers_is_none(library: Library) -> None:
    library.take(given_papers(raw("A"), raw("B")))
    for entry in library.page().entries:
        assert library.paper(entry.slug[:10]) == entry
    assert library.paper("t-") is None


def test_a_library_shows_the_systems_that_are_installed_where_it_runs(tmp_path: Path) -> None:
    one, two = (
        Library(str(tmp_path / "papers.db"), systems=lambda name=name: [system(name=name)])
        for name in ("mill", "wheel")
    )
    one.migrate()
    one.take(given_papers(raw(arxiv_id="2606.24417")))
    assert [library.page().entries[0].system for library in (one, two)] == ["mill", "wheel"]
    one.store.close()
    two.store.close()
