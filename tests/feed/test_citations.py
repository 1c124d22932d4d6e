"""Citations out: nothing that a paper says can end its field, and our importer reads it back."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paper_builders import ABSTRACT, DAY, FULL, given_papers, one, raw

from tidemill.bench.settings import dumps
from tidemill.feed import Entry, Library, Link, citations
from tidemill.feed.formats import parse
from tidemill.feed.raw import RawEntry
from tidemill.feed.text import clean

PLAIN = Entry(
    id="arxiv:2606.24417",
    slug="2606.24417",
    tag="x",
    title="A Title",
    title_html="",
    abstract=ABSTRACT,
    abstract_html="",
    announced=DAY,
    updated=datetime(2026, 1, 1, tzinfo=UTC),
    arxiv_id="2606.24417",
)


@pytest.fixture
def full(library: Library) -> Library:
    library.take(given_papers(FULL))
    return library


def entry_of(library: Library) -> Entry:
    return library.page().entries[0]


def fields_of(text: str) -> dict[str, str]:
    """The fields of one entry by BibTeX's own rule, which counts every brace, escaped or not."""
    head, _, rest = text.partition("\n")
    assert re.fullmatch(r"@(misc|article)\{[a-z0-9]+,", head)
    fields: dict[str, str] = {}
    while rest != "}\n":
        name = re.match(r"  ([A-Za-z]+) = \{", rest)
        assert name, rest[:40]
        depth, at = 1, name.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(rest[at], 0)
            at += 1
        assert name[1] not in fields
        fields[name[1]] = rest[name.end() : at - 1]
        assert rest[at : at + 2] == ",\n"
        rest = rest[at + 2 :]
    return fields


def test_bibtex_as_text(full: Library) -> None:
    text = citations.bibtex(entry_of(full))
    assert text.startswith("@misc{lovelace2026tides,\n  title = {{On $x^2$ \\& <Tides>}},\n")
    assert "  author = {Ada Lovelace and Kurt Gödel \\& Sons},\n" in text
    assert "  note = {12 pages, 100\\% new},\n" in text
    assert r"\url{https://code.example/a?b=1&c=2}." in text


def test_a_paper_in_a_journal_is_an_article(library: Library) -> None:
    library.take(given_papers(raw(journal_ref="Tides 1 (2026)", authors=("Plato",))))
    assert citations.bibtex(entry_of(library)).startswith("@article{plato2026tide,")
    assert citations.ris(entry_of(library)).startswith("TY  - JOUR\r\n")
    assert "AU  - Plato\r\n" in citations.ris(entry_of(library))


def test_ris_as_text(full: Library) -> None:
    text = citations.ris(entry_of(full))
    assert text.startswith("TY  - UNPB\r\nTI  - On ")
    assert "AU  - Lovelace, Ada\r\n" in text
    assert text.endswith("ER  - \r\n")


@pytest.mark.parametrize("write", [citations.bibtex, citations.ris])
def test_a_citation_is_read_back_as_the_same_paper(full: Library, write: Any) -> None:
    entry, found = entry_of(full), one(write(entry_of(full)))
    assert (found.id, found.authors, found.doi) == (entry.id, entry.authors, entry.doi)
    assert (found.announced, found.comment) == (entry.announced, entry.comment)
    assert "10.4\\times" in found.abstract


texts = st.lists(
    st.sampled_from(
        ["tide", "&", "%", "$", "#", "_", "{", "}", "~", "^", "\\", "\\(x^2\\)", "键", '"',
         "@misc{", "https://a.example/{", "\\emph{a}", "\\input{/etc/passwd}",
         "\\(\\write18{ls}\\)", "\\(a}\\)", "\\(\\{\\)", "$x^^5c$", "\\)", "and",
         "\\href{https://b.example/}{b}", "}, doi = {", ",", "=", "\\("]
    ),
    max_size=12,
).map(" ".join)  # fmt: skip


HOSTILE = r"10.1000/x}, note = {injected}, doi = {\write18{ls}"


def with_texts_of(entry: Entry, found: RawEntry) -> Entry:
    names = ("title", "authors", "comment", "journal_ref")
    return replace(entry, **{name: getattr(found, name) for name in names})


@given(texts)
@example(r"\( \(\write18{ls}\) \)")
@example(r"\( \(\{\) \)")
def test_no_text_breaks_a_bibliography(text: str) -> None:
    entry = replace(
        PLAIN,
        title=clean(f"A {text} Z"),
        abstract=f"{ABSTRACT} {text}",
        authors=(clean(f"Ada {text} L"), "Plato"),
        comment=clean(f"x {text}"),
        journal_ref=clean(f"J {text}"),
        subjects=(f"cs.{text}",),
        doi=f"10.1000/{text}",
        links=(Link("x", f"https://a.example/{text}"),),
    )
    written = citations.bibtex(entry)
    fields = fields_of(written)
    assert not re.search(r"\\(?:input|write18)", written)
    found = one(written)
    assert (found.arxiv_id, found.announced, len(found.authors)) == ("2606.24417", DAY, 2)
    assert fields.keys() >= {"title", "author", "journal", "note", "abstract", "url"}
    told = [fields, fields_of(citations.bibtex(with_texts_of(entry, found)))]
    while told[-1] != told[-2]:  # what is plain text stays; of "\\( \\(" one a turn becomes it
        assert len(told) <= text.count("\\(") + 3
        found = one(citations.bibtex(with_texts_of(entry, found)))
        told.append(fields_of(citations.bibtex(with_texts_of(entry, found))))
    assert [found.line for found in parse((written * 2).encode())] == [1, 1 + written.count("\n")]
    assert one(citations.ris(entry)).arxiv_id == "2606.24417"


def test_a_doi_that_is_none_is_neither_taken_in_nor_written_out() -> None:
    for doi in (HOSTILE, "10.1000/a{b", "10.1000/a\\b", '10.1000/a"b', "10.1000/", "11.1000/a"):
        assert (
            one(
                f'{{"title": "T", "abstract": "{ABSTRACT}", "date": "2026-06-23", "doi": '
                f"{dumps(doi)}}}"
            ).doi
            is None
        )
        assert "doi" not in fields_of(citations.bibtex(replace(PLAIN, doi=doi)))
    for doi in ("10.1002/(SICI)1096-8644(199601)99:1<1::AID-AJPA1>3.0.CO;2-V", "10.1000/a_b%c"):
        assert fields_of(citations.bibtex(replace(PLAIN, doi=doi)))["doi"] == doi


def test_a_subject_or_address_cannot_end_its_field() -> None:
    hostile = replace(
        PLAIN,
        subjects=("cs.LG}, note = {injected",),
        links=(Link("x", "https://a.example/{}\\x} , note = {y"),),
    )
    fields = fields_of(citations.bibtex(hostile))
    assert fields.keys() & {"primaryClass", "note"} == set()
    assert fields["url"] == "https://a.example/%7B%7D%5Cx%7D%20,%20note%20=%20%7By"


@pytest.mark.parametrize(
    "name", ["Tides and Sons", "Sons, Inc.", r"Ada {Love}lace", "Kurt Gödel & Sons", "Plato"]
)
def test_a_name_stays_one_name(name: str) -> None:
    found = one(citations.bibtex(replace(PLAIN, authors=("Ada Lovelace", name, "A B"))))
    assert found.authors == ("Ada Lovelace", name, "A B")


@pytest.mark.parametrize(
    ("math", "kept"),
    [
        (r"x_{i}^2 \le \bullet \{1, 2\}", True),
        (r"\begin{matrix} a & b \end{matrix}", True),
        (r"\input{x}", False),
        (r"\write18{ls}", False),
        (r"\def\x{y}", False),
        ("a^^5cinput", False),
        ("a } b", False),
        (r"a \{ b", False),
        ("a $ b", False),
        ("a % b", False),
    ],
)
def test_only_what_sets_a_formula_is_written_as_latex(math: str, kept: bool) -> None:
    written = fields_of(citations.bibtex(replace(PLAIN, title=rf"On \({math}\)")))["title"]
    assert (f"${math}$" in written) is kept


def test_a_line_of_ris_stays_one_line() -> None:
    written = citations.ris(replace(PLAIN, comment="a\r\nER  - \r\nTY  - JOUR"))
    assert written.count("\n") == len(re.findall("^[A-Z][A-Z0-9]  - ", written, re.MULTILINE))
    assert len(parse(written.encode())) == 1
