"""One paper under two ids becomes one, its old id leads to it, and all of it can be undone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from paper_builders import ABSTRACT, DAY, TITLE, Clock, given_papers, raw

from tidemill.errors import InputError
from tidemill.feed import Entry, Library
from tidemill.feed.raw import Certainty, RawEntry

LISTED = raw(category="PyTorch / SP / CP / 系统进展", why="每日文章 1 / 4")
KNOWN = raw(arxiv_id="2606.24417", version=1, authors=("Ada",), certainty=Certainty.RECKONED)
OLD_ID, NEW_ID = LISTED.id, "arxiv:2606.24417"


def take(library: Library, *entries: RawEntry) -> tuple[int, int]:
    report = library.take(given_papers(*entries))
    return report.new, report.changed


def shown(library: Library) -> list[str]:
    return [entry.id for entry in library.page().entries]


def at(library: Library, paper_id: str) -> Entry:
    entry = library.paper(paper_id)
    assert entry is not None
    return entry


def test_a_listed_paper_gets_its_arxiv_id_and_keeps_its_place_and_tag(library: Library) -> None:
    assert take(library, raw("Before"), LISTED, raw("After")) == (3, 0)
    tag = at(library, OLD_ID).tag
    assert take(library, KNOWN) == (0, 1)
    assert [entry.title for entry in library.page().entries] == ["Before", TITLE, "After"]
    entry = at(library, OLD_ID)
    assert (entry.id, entry.tag, entry.system) == (NEW_ID, tag, "toy")
    assert (entry.announced, entry.authors) == (DAY, ("Ada",))
    assert [placing.why for placing in entry.categories] == ["每日文章 1 / 4"]
    assert library.page(category="systems").total == 1
    for spelling in (OLD_ID, "t-" + OLD_ID[6:], "t-" + OLD_ID[6:18], "2606.24417v9", NEW_ID):
        assert at(library, spelling).id == NEW_ID
    assert library.merged(NEW_ID) == (OLD_ID,)
    assert library.search("revisited").total == 1


def test_the_other_way_round_the_listing_joins_the_arxiv_row(library: Library) -> None:
    assert take(library, KNOWN) == (1, 0)
    assert take(library, LISTED) == (0, 1)
    assert shown(library) == [NEW_ID]
    entry = at(library, OLD_ID)
    assert (entry.tag, entry.announced) == (NEW_ID, DAY)
    assert [placing.category.slug for placing in entry.categories] == ["systems"]
    assert take(library, LISTED, KNOWN) == (0, 0)


def test_two_known_rows_merge_as_soon_as_their_titles_are_the_same(library: Library) -> None:
    other = raw("A Working Title", arxiv_id="2606.24417", version=1)
    assert take(library, LISTED, other) == (2, 0)
    assert take(library, raw(TITLE, arxiv_id="2606.24417", version=2)) == (0, 1)
    assert shown(library) == [NEW_ID]
    assert at(library, OLD_ID).id == NEW_ID
    assert [version.title for version in library.versions(NEW_ID)] == [TITLE, "A Working Title"]


@pytest.mark.parametrize(
    ("days", "merged"), [(0, True), (14, True), (-14, True), (15, False), (-15, False)]
)
def test_papers_of_one_title_merge_within_14_days(
    library: Library, days: int, merged: bool
) -> None:
    take(library, raw(), raw(arxiv_id="2606.24417", announced=DAY + timedelta(days=days)))
    assert len(shown(library)) == (1 if merged else 2)


@pytest.mark.parametrize(("days", "merged"), [(45, True), (46, False)])
def test_a_day_known_to_the_month_gives_a_month_more(
    library: Library, days: int, merged: bool
) -> None:
    about = raw(
        arxiv_id="2606.24417", announced=DAY - timedelta(days=days), certainty=Certainty.ABOUT
    )
    take(library, raw(), about)
    assert len(shown(library)) == (1 if merged else 2)


def test_a_title_that_two_arxiv_papers_share_is_merged_into_neither(library: Library) -> None:
    take(library, raw(arxiv_id="2606.00001"), raw(arxiv_id="2606.00002"), raw())
    assert sorted(shown(library)) == ["arxiv:2606.00001", "arxiv:2606.00002", OLD_ID]


def test_titles_alone_never_merge_two_arxiv_papers(library: Library) -> None:
    take(library, raw(arxiv_id="2606.00001"), raw(arxiv_id="2606.00002"))
    assert len(shown(library)) == 2


def test_a_merge_can_be_taken_back_and_is_not_repeated(library: Library, clock: Clock) -> None:
    take(library, raw("Before"), LISTED)
    before = at(library, OLD_ID)
    clock.advance(days=1)
    take(library, KNOWN)
    library.split(OLD_ID)
    assert at(library, OLD_ID) == before
    alone = at(library, NEW_ID)
    assert (alone.tag, alone.announced, alone.authors) == (NEW_ID, DAY, ("Ada",))
    assert alone.categories == ()
    assert library.merged(NEW_ID) == ()
    assert library.search("revisited").total == 2
    assert take(library, LISTED, KNOWN) == (0, 0)
    assert take(library, raw(comment="x"), raw(arxiv_id="2606.24417", comment="y")) == (0, 2)
    assert len(shown(library)) == 3


def test_what_was_shared_before_a_merge_stays_shared_after_its_end(library: Library) -> None:
    take(library, raw("Other"), raw(arxiv_id="2606.24417", category="Serving", why="b"))
    take(library, raw(category="Serving", why="a", doi="10.1000/x", comment="c"))
    assert [placing.why for placing in at(library, NEW_ID).categories] == ["b"]
    assert at(library, NEW_ID).doi == "10.1000/x"
    library.split(OLD_ID)
    assert [placing.why for placing in at(library, OLD_ID).categories] == ["a"]
    assert at(library, NEW_ID).categories[0].why == "b"


@pytest.mark.parametrize(
    "fields",
    [
        {"authors": ("Kurt",)}, {"subjects": ("cs.DC",)}, {"links": ("https://a.example/",)},
        {"doi": "10.1000/x"}, {"journal_ref": "J"}, {"comment": "c"}, {"license": "l"},
        {"submitted": datetime(2026, 6, 20, tzinfo=UTC)},
    ],
)  # fmt: skip
def test_the_arxiv_row_takes_over_what_it_lacks_and_gives_it_back(
    library: Library, fields: dict[str, Any]
) -> None:
    bare = raw(arxiv_id="2606.24417", announced=DAY + timedelta(days=1))
    take(library, bare)
    (name,) = fields
    before = at(library, NEW_ID)
    take(library, raw(**fields))
    assert at(library, NEW_ID) != before
    assert at(library, NEW_ID).announced == DAY  # the listing knew it as of an earlier day
    library.split(OLD_ID)
    assert at(library, NEW_ID) == before
    assert getattr(at(library, OLD_ID), name)


def test_a_subject_that_came_with_a_merge_can_be_searched_and_goes_with_it(
    library: Library,
) -> None:
    take(library, raw(arxiv_id="2606.24417"), raw(subjects=("cs.DC",)))
    assert [entry.id for entry in library.search("cat:cs.DC").entries] == [NEW_ID]
    library.split(OLD_ID)
    assert [entry.id for entry in library.search("cat:cs.DC").entries] == [OLD_ID]


def test_a_merged_paper_goes_on_being_revised_by_its_listing(library: Library) -> None:
    take(library, LISTED, raw(arxiv_id="2606.24417"))
    revised = raw(abstract=f"Revised. {ABSTRACT}", category=LISTED.category)
    assert take(library, revised) == (0, 1)
    assert at(library, NEW_ID).abstract.startswith("Revised.")
    library.split(OLD_ID)
    assert at(library, OLD_ID).abstract.startswith("Revised.")


def test_a_category_that_listed_a_merged_paper_is_given_back_too(library: Library) -> None:
    take(library, LISTED, KNOWN, raw(category="Serving", why="x"), raw(category="Serving", why="y"))
    assert [placing.category.slug for placing in at(library, NEW_ID).categories] == [
        "systems",
        "serving",
    ]
    library.split(OLD_ID)
    assert at(library, NEW_ID).categories == ()
    assert [placing.why for placing in at(library, OLD_ID).categories] == ["每日文章 1 / 4", "x"]


@pytest.mark.parametrize("paper_id", ["title:0000", NEW_ID, OLD_ID])
def test_only_a_merged_paper_can_be_split_off(library: Library, paper_id: str) -> None:
    take(library, KNOWN, raw("Other"))
    if paper_id == OLD_ID:
        take(library, LISTED)
        library.split(OLD_ID)
    with pytest.raises(InputError, match="no paper of that id was merged into another"):
        library.split(paper_id)


def test_a_merge_alone_moves_updated_only_if_the_content_differs(
    library: Library, clock: Clock
) -> None:
    take(library, LISTED)
    before = at(library, OLD_ID).updated
    take(library, raw(arxiv_id="2606.24417"))
    assert at(library, OLD_ID).updated == before
    other = raw("Other")
    take(library, other, raw("Other", arxiv_id="2606.00009", authors=("Ada",)))
    assert at(library, other.id).updated == clock.now
