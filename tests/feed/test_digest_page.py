"""A page of a digest, whatever its heading says and wherever its blank lines are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_builders import ABSTRACT, page_of, refusal

from tidemill.feed.entry import Refusal
from tidemill.feed.formats import parse
from tidemill.feed.formats.digest_page import DigestPage, Heading, lines_of, parse_page
from tidemill.feed.raw import Certainty, RawEntry

HEADING = "每日文章\n\n一句话。\n\n65 篇文章 1 / 4 页\n\nPyTorch / SP / CP / 系统进展\n\n"
TWO = [
    ("First Title", "arXiv 2026-06-23", ABSTRACT),
    ("Second", "arXiv 2026-06-22", f"2 {ABSTRACT}"),
]


def read(text: str) -> DigestPage:
    page = parse_page(lines_of(text))
    assert page is not None
    return page


def entries(text: str) -> list[RawEntry]:
    found = read(text).found
    assert all(isinstance(entry, RawEntry) for entry in found), found
    return [entry for entry in found if isinstance(entry, RawEntry)]


def told(text: str) -> list[tuple[str, str, date]]:
    return [(entry.title, entry.abstract, entry.announced) for entry in entries(text)]


def test_the_seed_page_reads_as_it_stands(seed: Path) -> None:
    text = seed.read_text(encoding="utf-8")
    page = read(text)
    assert page.heading == Heading(
        title="每日文章", category="PyTorch / SP / CP / 系统进展", total=65, number=1, pages=4
    )
    assert [len(part) for part in (page.found, {entry.title for entry in entries(text)})] == [
        20,
        20,
    ]
    days = [entry.announced for entry in entries(text)]
    assert days == [date(2026, 6, 23)] * 6 + [date(2026, 6, 22)] * 14
    lines = text.split("\n")
    for entry in entries(text):  # word for word, and found again where it says it stands
        assert lines[entry.line - 1] == entry.title
        assert entry.abstract in lines
        assert 836 <= len(entry.abstract) <= 1912
        assert (entry.category, entry.why) == (page.heading.category, "每日文章 1 / 4")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: "\n".join(line for line in text.split("\n") if line),
        lambda text: text.replace("\n\narXiv", "\narXiv"),
        lambda text: text.replace("\n\n", "\n\n\n  \n"),
        lambda text: "\n".join(f"  {line}\t" for line in text.split("\n")),
        lambda text: text.encode("utf-16").decode("utf-16"),
    ],
    ids=["crlf", "cr", "bom", "no blank", "some blank", "many blank", "indented", "utf-16"],
)
def test_line_ends_and_blank_lines_do_not_matter(seed: Path, change: Callable[[str], str]) -> None:
    text = seed.read_text(encoding="utf-8")
    changed = parse(change(text).encode())
    assert [
        (entry.title, entry.abstract, entry.category)
        for entry in changed
        if isinstance(entry, RawEntry)
    ] == [(entry.title, entry.abstract, entry.category) for entry in entries(text)]


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        (
            HEADING,
            Heading(
                title="每日文章",
                category="PyTorch / SP / CP / 系统进展",
                total=65,
                number=1,
                pages=4,
            ),
        ),
        ("", Heading()),
        ("Daily papers\n", Heading(title="Daily papers")),
        ("Daily papers\n\nServing\n", Heading(title="Daily papers", category="Serving")),
        ("Daily\n\nSomething nice for you.\n", Heading(title="Daily")),
        (
            "Daily\n\nServing\n\n1,234 papers, page 3 / 62\n\n",
            Heading(title="Daily", category="Serving", total=1234, number=3, pages=62),
        ),
        (
            "每日文章\n65 篇文章\n2 / 4 页\n量化\n",
            Heading(title="每日文章", category="量化", total=65, number=2, pages=4),
        ),
        ("7 results\n\n能耗\n\n", Heading(category="能耗", total=7)),
    ],
)
def test_a_heading_may_have_any_of_its_parts(heading: str, expected: Heading) -> None:
    text = page_of(TWO, heading + "\n" if heading else "")
    assert read(text).heading == expected
    assert [title for title, *_ in told(text)] == ["First Title", "Second"]


@pytest.mark.parametrize(
    ("dated", "day"),
    [
        ("arXiv 2026-06-23", date(2026, 6, 23)),
        ("arXiv 2024-02-29", date(2024, 2, 29)),
        ("arXiv · 2026/6/3", date(2026, 6, 3)),
        ("来源 2026年6月23日", date(2026, 6, 23)),
        ("ACL Anthology 2026.06.23", date(2026, 6, 23)),
        ("Nature June 23, 2026", date(2026, 6, 23)),
        ("bioRxiv, 23 Jun 2026", date(2026, 6, 23)),
        ("arXiv 2026-06-23 08:00", date(2026, 6, 23)),
    ],
)
def test_a_dated_line_may_name_any_source_and_write_its_date_in_any_way(
    dated: str, day: date
) -> None:
    assert told(page_of([("Some Title", dated, ABSTRACT)])) == [("Some Title", ABSTRACT, day)]


def test_an_id_in_the_dated_line_is_the_papers_identity() -> None:
    (entry,) = entries(page_of([("Some Title", "arXiv:2606.24417v2 2026-06-23", ABSTRACT)]))
    assert (entry.id, entry.version) == ("arxiv:2606.24417", 2)


@pytest.mark.parametrize(
    "line",
    [
        "on June 23, 2026",
        "2026-06-23",
        "and so we measured it 2026-06-23",
        "see arXiv 2026-06-23 for more of it.",
    ],
)
def test_a_line_of_an_abstract_that_ends_in_a_date_is_no_dated_line(line: str) -> None:
    text = f"Some Title\n\narXiv 2026-06-23\n\n{ABSTRACT}\nmeasured again\n{line}\nand so on.\n"
    assert len(read(text).found) == 1


def test_wrapped_titles_and_abstracts_are_joined() -> None:
    first = f"A Title\nin Two Lines\n\narXiv 2026-06-23\n\n{ABSTRACT}\n{ABSTRACT}\n\n"
    text = f"{HEADING}{first}Next\nOne\n\narXiv 2026-06-22\n{ABSTRACT}"
    assert told(text) == [
        ("A Title in Two Lines", f"{ABSTRACT} {ABSTRACT}", date(2026, 6, 23)),
        ("Next One", ABSTRACT, date(2026, 6, 22)),
    ]


def test_an_abstract_of_several_paragraphs_ends_where_the_next_title_begins() -> None:
    text = page_of([("One", "arXiv 2026-06-23", f"{ABSTRACT}\n\n{ABSTRACT}"), TWO[1]])
    assert [title for title, *_ in told(text)] == ["One", "Second"]


def test_the_footer_of_a_page_is_not_part_of_the_last_abstract() -> None:
    text = page_of(TWO) + "上一页 1 2 3 4 下一页\n\n© 2026 每日文章\n"
    assert told(text) == told(page_of(TWO))
    (entry,) = entries(page_of([("One", "arXiv 2026-06-23", f"{ABSTRACT}\n\nCode: https://a.b/c")]))
    assert entry.abstract == f"{ABSTRACT} Code: https://a.b/c"


@pytest.mark.parametrize("bad", ["2026-13-45", "2023-02-29", "yesterday", "23rd"])
def test_a_date_that_is_none_is_refused_with_its_line_and_swallows_no_neighbour(bad: str) -> None:
    text = page_of([TWO[0], ("Broken", f"arXiv {bad}", ABSTRACT), TWO[1]])
    before, broken, after = read(text).found
    assert broken == Refusal(7, f"date unparsable: '{bad}'")
    first, second = entries(page_of(TWO))
    assert (before, after) == (first, replace(second, line=13))


def test_an_entry_without_title_or_abstract_is_refused_alone() -> None:
    assert refusal(f"arXiv 2026-06-23\n\n{ABSTRACT}\n") == Refusal(1, "no title")
    found = read(page_of([("Empty", "arXiv 2026-06-23", ""), TWO[1]])).found
    assert found[0] == Refusal(1, "abstract of 0 characters, must have 40 to 20000")
    assert isinstance(found[1], RawEntry)


def test_the_day_of_a_page_is_the_day_of_announcement() -> None:
    assert {entry.certainty for entry in entries(page_of(TWO))} == {Certainty.SAID}


words = st.text(
    st.characters(whitelist_categories=("Lu", "Ll", "Lo", "Nd", "Po", "Sm"), max_codepoint=0x9FFF),
    min_size=1,
    max_size=30,
).map(str.strip)


@given(st.lists(words.filter(bool), max_size=40), st.booleans())
def test_no_page_is_too_strange_to_be_read(lines: list[str], dated: bool) -> None:
    text = "\n".join([*lines, *(["arXiv 2026-06-23"] * dated), *lines])
    page = parse_page(lines_of(text))
    assert page is None or all(found.line >= 1 for found in page.found)
