"""The laws of taking papers in: nothing twice, nothing lost, nothing older over something newer."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_builders import ABSTRACT, DAY, TITLE, Clock, given_papers, page_of, raw

from tidemill.feed import Entry, ImportReport, Library
from tidemill.feed.raw import Certainty, RawEntry

JUNE = datetime(2026, 6, 22, 12, tzinfo=UTC)
REVISED = f"Revised. {ABSTRACT}"


def content(library: Library) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables but the log of imports."""
    with sqlite3.connect(library.store.engine.url.database or "") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = {
            name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}").fetchall()))
            for (name,) in names
            if name not in ("update_run", "source", "sqlite_sequence")
        }
    connection.close()
    return rows  # type: ignore[return-value]


def only(library: Library) -> Entry:
    (entry,) = library.page().entries
    return entry


def take(library: Library, *entries: RawEntry) -> tuple[int, int]:
    report = library.take(given_papers(*entries))
    return report.new, report.changed


def test_importing_the_seed_twice_changes_nothing(
    library: Library, seed: Path, clock: Clock
) -> None:
    assert library.import_file(seed) == ImportReport(20, 20)
    before = content(library)
    clock.advance(days=1)
    assert library.import_file(seed) == ImportReport(20)
    assert str(library.import_file(seed)) == "20 read, 0 new, 0 changed, 0 refused"
    assert content(library) == before


def test_one_paper_is_one_row_in_all_spellings_and_versions(library: Library) -> None:
    links = (
        "http://arxiv.org/abs/2606.00001v1", "https://arxiv.org/pdf/2606.00001v2.pdf",
        "arXiv:2606.00001", "https://www.arxiv.org/html/2606.00001v2",
    )  # fmt: skip
    for link in links:
        library.take(given_papers(_drafted(link)))
    assert only(library).id == "arxiv:2606.00001"
    assert only(library).version == 2


def _drafted(identifier: str) -> RawEntry:
    from tidemill.feed.draft import Draft

    draft = Draft(line=1, title=TITLE, abstract=ABSTRACT, announced="2026-06-23")
    draft.identifiers.append(identifier)
    found = draft.checked()
    assert isinstance(found, RawEntry)
    return found


def test_a_revised_abstract_is_shown_and_the_old_one_kept(library: Library, clock: Clock) -> None:
    take(library, raw(arxiv_id="2606.00001", version=1))
    first = only(library)
    clock.advance(days=3)
    assert take(library, raw(abstract=REVISED, arxiv_id="2606.00001", version=2)) == (0, 1)
    second = only(library)
    assert (second.id, second.tag, second.version) == (first.id, first.tag, 2)
    assert second.updated == clock.now > first.updated
    assert [(v.abstract, v.version, v.current) for v in library.versions(second.id)] == [
        (REVISED, 2, True),
        (ABSTRACT, 1, False),
    ]
    assert library.search("revised").total == 1


def test_an_older_text_never_comes_back_over_a_newer_one_but_is_kept(library: Library) -> None:
    take(library, raw(abstract=REVISED, arxiv_id="2606.00001", version=2))
    assert take(library, raw(arxiv_id="2606.00001", version=1)) == (0, 0)
    assert take(library, raw(abstract=f"Listed. {ABSTRACT}", arxiv_id="2606.00001")) == (0, 0)
    assert only(library).abstract == REVISED
    assert [v.version for v in library.versions("2606.00001")] == [2, 1, None]


def test_of_texts_without_a_version_the_one_never_seen_before_is_the_newer(
    library: Library,
) -> None:
    old, new = raw(), raw(abstract=REVISED)
    assert [take(library, entry) for entry in (old, new, old, new)] == [
        (1, 0),
        (0, 1),
        (0, 0),
        (0, 0),
    ]
    assert only(library).abstract == REVISED
    assert take(library, replace(old, comment="12 pages")) == (0, 1)  # the old text, newly told
    assert (only(library).abstract, only(library).comment) == (REVISED, "12 pages")


def test_a_later_revision_by_date_is_newer_too(library: Library) -> None:
    take(library, raw(arxiv_id="2606.00001", revised=JUNE))
    take(library, raw(abstract=REVISED, arxiv_id="2606.00001", revised=JUNE + timedelta(days=1)))
    take(library, raw(arxiv_id="2606.00001", comment="old", revised=JUNE))
    assert only(library).abstract == REVISED


def test_what_a_source_does_not_say_is_not_forgotten(library: Library) -> None:
    full = raw(
        arxiv_id="2606.00001", authors=("Ada",), subjects=("cs.LG",), doi="10.1000/x", version=1,
        journal_ref="J", comment="c", license="l", links=("https://a.example/",), submitted=JUNE,
    )  # fmt: skip
    take(library, full)
    before = only(library)
    assert take(library, raw(arxiv_id="2606.00001")) == (0, 0)
    assert only(library) == before
    assert take(library, raw(arxiv_id="2606.00001", links=("https://b.example/",))) == (0, 1)
    assert [link.name for link in only(library).links] == [
        "arXiv", "PDF", "DOI", "a.example", "b.example",
    ]  # fmt: skip


def test_better_knowledge_of_the_day_moves_a_paper_and_its_places_in_categories(
    library: Library,
) -> None:
    about = date(2026, 6, 1)
    take(library, raw(announced=about, certainty=Certainty.ABOUT, category="Serving", why="x"))
    take(library, raw(announced=date(2026, 6, 25), certainty=Certainty.RECKONED))
    assert only(library).announced == date(2026, 6, 25)
    take(library, raw(announced=date(2026, 6, 24)))
    take(library, raw(announced=DAY))
    take(library, raw(announced=date(2026, 6, 26)))
    take(library, raw(announced=date(2025, 1, 1), certainty=Certainty.RECKONED, comment="x"))
    assert only(library).announced == DAY
    assert library.page(category="serving", day=DAY).total == 1
    assert [(day.date, day.count) for day in library.days()] == [(DAY, 1)]


def test_a_page_of_another_category_adds_it_and_tells_why(library: Library) -> None:
    take(library, raw(category="Serving", why="每日文章 1 / 4"))
    before = only(library)
    assert take(library, raw(category="量化", why="每日文章 2 / 4")) == (0, 1)
    assert take(library, raw(category="量化", why="elsewhere")) == (0, 0)
    after = only(library)
    assert [(p.category.slug[:2], p.why) for p in after.categories] == [
        ("se", "每日文章 1 / 4"),
        ("c-", "每日文章 2 / 4"),
    ]
    assert after.updated == before.updated  # its content is the same
    assert library.search("量化").total == 1


def test_categories_of_like_names_have_addresses_of_their_own(library: Library) -> None:
    names = ("PyTorch / 训练", "PyTorch / 推理", "PyTorch / SP / CP / 系统进展")
    take(library, *(raw(f"T{n}", category=name) for n, name in enumerate(names)))
    assert [(c.slug, c.name("zh-CN"), c.count) for c in library.categories()] == [
        ("pytorch", names[0], 1),
        ("pytorch-2", names[1], 1),
        ("systems", names[2], 1),
    ]
    assert library.categories()[2].name("en") == "PyTorch / SP / CP / systems"


def test_updated_moves_forward_also_when_the_clock_goes_backwards(
    library: Library, clock: Clock
) -> None:
    take(library, raw())
    moments = [only(library).updated]
    for number, days in enumerate((1, -400, 0, 2)):
        clock.advance(days=days)
        take(library, raw(abstract=f"{number} {ABSTRACT}"))
        moments.append(only(library).updated)
    assert moments == sorted(set(moments))


def test_updated_begins_with_what_the_source_says(library: Library) -> None:
    take(library, raw(), raw("Other", revised=JUNE))
    other, first = sorted(library.page().entries, key=lambda entry: entry.title)
    assert (first.updated, other.updated) == (datetime(2026, 6, 23, tzinfo=UTC), JUNE)


def test_sightings_are_written_down_once(library: Library, write: Callable[..., Path]) -> None:
    page = page_of([(TITLE, "arXiv 2026-06-23", ABSTRACT)])
    for name in ("monday.txt", "tuesday.txt"):
        library.import_file(write(page, name))
    take(library, raw(announce_type="cross"))
    rows = content(library)
    assert len(rows["sighting"]) == 2
    assert [("cross" in row) for row in rows["sighting"]].count(True) == 1


texts = st.sampled_from([ABSTRACT, REVISED, f"Third. {ABSTRACT}"])
entries = st.builds(
    raw,
    title=st.sampled_from([TITLE, "Another Title", "A Third"]),
    abstract=texts,
    arxiv_id=st.sampled_from([None, None, "2606.00001", "2606.00002"]),
    version=st.sampled_from([None, 1, 2]),
    announced=st.sampled_from([DAY, DAY + timedelta(days=3), DAY + timedelta(days=40)]),
    certainty=st.sampled_from(Certainty),
    authors=st.sampled_from([(), ("Ada",), ("Ada", "Kurt")]),
    category=st.sampled_from([None, "Serving"]),
)


@settings(max_examples=60)
@given(st.lists(entries, max_size=8))
def test_laws_hold_for_any_papers_in_any_order(found: list[RawEntry]) -> None:
    with TemporaryDirectory() as folder:
        library = Library(f"{folder}/papers.db", systems=list)
        library.migrate()
        for entry in found:
            take(library, entry)
        _every_text_is_kept(library, found)
        before = content(library)
        again = [take(library, entry) for entry in reversed(found)]
        assert again == [(0, 0)] * len(found)
        assert content(library) == before
        _the_library_is_sound(library, found)
        library.store.close()


def _every_text_is_kept(library: Library, found: list[RawEntry]) -> None:
    for entry in found:
        shown = library.paper(entry.id)
        assert shown is not None
        kept = {(v.title, v.abstract) for v in library.versions(shown.id)}
        assert (entry.title, entry.abstract) in kept
        assert sum(version.current for version in library.versions(shown.id)) == 1


def _the_library_is_sound(library: Library, found: list[RawEntry]) -> None:
    from tidemill.feed.doctor import examine

    assert not [finding for finding in examine(library) if not finding.ok]
    shown = library.page(per_page=200).entries
    assert len({entry.id for entry in shown}) == len({entry.tag for entry in shown}) == len(shown)
    assert len(shown) <= len({entry.id for entry in found})
    days = [entry.announced for entry in shown]
    assert days == sorted(days, reverse=True)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_sources_does_not_matter_for_the_newest_text_and_the_day(
    library: Library, order: tuple[int, ...]
) -> None:
    sources = [
        raw(),
        raw(
            arxiv_id="2606.00001",
            version=1,
            announced=date(2026, 6, 22),
            certainty=Certainty.RECKONED,
        ),
        raw(
            abstract=REVISED,
            arxiv_id="2606.00001",
            version=2,
            announced=date(2026, 6, 30),
            certainty=Certainty.ABOUT,
        ),
    ]
    for at in order:
        take(library, sources[at])
    entry = only(library)
    assert (entry.id, entry.abstract, entry.announced) == ("arxiv:2606.00001", REVISED, DAY)
