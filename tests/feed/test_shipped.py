"""The first page is part of the package, and the systems' papers meet it there."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from paper_builders import raw, system

from tidemill.bench import discover
from tidemill.bench.settings import dumps
from tidemill.feed import ImportReport, Library
from tidemill.feed.formats import parse
from tidemill.feed.identity import id_of
from tidemill.feed.raw import RawEntry
from tidemill.feed.sources import FIRST_PAGE, FirstPage


def test_the_shipped_page_is_what_the_importer_makes_of_the_seed(seed: Path) -> None:
    shipped = files("tidemill.feed").joinpath(FIRST_PAGE).read_text(encoding="utf-8")
    fresh = [found for found in parse(seed.read_bytes()) if isinstance(found, RawEntry)]
    # made by `tidemill feed read seed-page.txt > src/tidemill/feed/first_page.jsonl`
    assert shipped == "".join(f"{dumps(entry.to_json())}\n" for entry in fresh)


def test_a_new_library_has_the_first_page_and_its_category(library: Library) -> None:
    assert library.import_shipped() == ImportReport(21, 21)
    page = library.page(category="systems")
    assert (page.total, page.pages) == (20, 1)
    assert page.category is not None
    assert page.category.name_zh == "PyTorch / SP / CP / 系统进展"
    assert {entry.categories[0].why for entry in page.entries} == {"每日文章 1 / 4"}
    assert library.import_shipped() == ImportReport(21)


def test_a_paper_of_the_page_whose_system_is_installed_gets_its_id(tmp_path: Path) -> None:
    page = [found for found in FirstPage().fetch(None) if isinstance(found, RawEntry)]
    built = page[3]
    installed = system("2606.24417", built.title, built.abstract, "cusbf")
    library = Library(str(tmp_path / "papers.db"), systems=lambda: [installed])
    library.migrate()
    assert library.import_shipped() == ImportReport(21, 20, 1)
    entry = library.page().entries[3]
    assert (entry.id, entry.system) == ("arxiv:2606.24417", "cusbf")
    assert library.paper(built.id) == entry
    assert [e.title for e in library.search("has:system").entries] == [built.title]
    assert library.import_shipped() == ImportReport(21)
    library.store.close()


def test_a_system_without_an_arxiv_id_is_found_by_the_title_of_its_paper(tmp_path: Path) -> None:
    page = [found for found in FirstPage().fetch(None) if isinstance(found, RawEntry)]
    built = page[3]
    installed = system("", built.title.upper(), built.abstract, "cusbf")
    library = Library(str(tmp_path / "papers.db"), systems=lambda: [installed])
    library.migrate()
    library.import_shipped()
    assert [(e.id, e.system) for e in library.search("has:system").entries] == [(built.id, "cusbf")]
    assert library.page().total == 20
    library.store.close()


def test_every_installed_system_is_found_from_its_entry(tmp_path: Path) -> None:
    library = Library(str(tmp_path / "papers.db"))
    library.migrate()
    library.import_shipped()
    for installed in discover():
        entry = library.paper(id_of(installed.paper.arxiv_id, installed.paper.title))
        assert entry is not None
        assert entry.system == installed.name
        assert all(claim.quote in entry.abstract for claim in installed.claims)
    assert library.page().total == 20
    library.store.close()


def test_the_seed_itself_adds_nothing_to_the_shipped_page(library: Library, seed: Path) -> None:
    library.import_shipped()
    assert library.import_file(seed) == ImportReport(20)


def test_an_entry_tells_itself_as_json_without_its_place_in_the_file() -> None:
    assert "line" not in raw(line=7).to_json()
    assert raw(line=7).fingerprint == raw(line=8).fingerprint != raw(comment="x").fingerprint
