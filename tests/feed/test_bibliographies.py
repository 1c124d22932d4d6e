"""BibTeX, RIS and JSON lines."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_builders import ABSTRACT, one, raw, refusal

from tidemill.bench.settings import dumps
from tidemill.feed.entry import Refusal
from tidemill.feed.formats import Unreadable, parse
from tidemill.feed.raw import Certainty, RawEntry


def bib(fields: str) -> str:
    return f"% a comment\n@article{{key2026,\n  abstract = {{{ABSTRACT}}},\n  {fields}\n}}\n"


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ("title = {A {B}ig Title}, year = 2026", "A Big Title"),
        ('title = "Of {"}quotes{"}", year = 2026', 'Of "quotes"'),
        ("title={{Nested {De{e}p}}},year={2026}", "Nested Deep"),
        (r"title = {G{\"o}del, Erd\H{o}s \& {\'E}. {\O}re}, year = 2026", "Gödel, Erdős & É. Øre"),
        (r"title = {\emph{Fast}~and $O(n^{2})$}, year = 2026", "Fast and $O(n^{2})$"),
        ("title = {Two\n  Lines}, year = 2026", "Two Lines"),
        ("TITLE = {Upper}, Year = 2026,", "Upper"),
        (r"title = {A \{brace\}}, year = 2026", "A {brace}"),
        ("title = {First}, title = {Second}, year = 2026", "First"),
        ("title = 2001, year = 2026", "2001"),
    ],
)
def test_a_bibtex_title_reads_as_it_is_typeset(fields: str, title: str) -> None:
    assert one(bib(fields)).title == title


@pytest.mark.parametrize(
    ("fields", "day"),
    [
        ("year = 2026, month = jun, day = 23", date(2026, 6, 23)),
        ("year = {2026}, month = {June}", date(2026, 6, 1)),
        ("year = 2026, month = 6", date(2026, 6, 1)),
        ("year = 2026", date(2026, 1, 1)),
        ("date = {2026-06-23}", date(2026, 6, 23)),
        ("year = 2026, eprint = {2606.24417}, archiveprefix = {arXiv}", date(2026, 6, 1)),
        ("eprint = {2606.24417}", date(2026, 6, 1)),
    ],
)
def test_a_bibtex_date_is_taken_as_far_as_it_goes(fields: str, day: date) -> None:
    found = one(bib(f"title = {{A Title}}, {fields}"))
    assert (found.announced, found.certainty) == (day, Certainty.ABOUT)


def test_bibtex_with_strings_joins_comments_and_further_fields() -> None:
    further = r"""title = {A Title}, journal = j # " of " # {Tides}, year = 2026, note = {12 pages},
        author = {Lovelace, Ada and Kurt G{\"o}del and {Tide Mill Group}},
        doi = {https://doi.org/10.1000/xyz}, url = {https://code.example/x},
        eprint = {2606.24417}, archivePrefix = {arXiv}, primaryClass = {cs.LG}"""
    before = '@string{j = "Journal"}\n@preamble{"x {y}"}\n@comment{ @article{no} }\n@comment(no)\n'
    found = one(before + bib(further))
    assert found.authors == ("Ada Lovelace", "Kurt Gödel", "Tide Mill Group")
    assert (found.journal_ref, found.comment) == ("Journal of Tides", "12 pages")
    assert (found.id, found.subjects, found.doi) == ("arxiv:2606.24417", ("cs.LG",), "10.1000/xyz")
    assert (found.links, found.line) == (("https://code.example/x",), 6)


def test_a_bibtex_entry_without_key_or_in_parentheses_is_read() -> None:
    fields = f"title = {{A Title}}, abstract = {{{ABSTRACT}}}, year = 2026"
    assert one(f"@misc{{{fields}}}") == one(f"@misc({fields})") == one(f"@misc{{k, {fields}}}")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("@misc{a,\n title = {never closed", 2, "BibTeX: '{' is never closed"),
        ('@misc{a,\n title = "never closed', 2, "BibTeX: '\"' is never closed"),
        ("@comment(never", 1, "BibTeX: '(' is never closed"),
        ("@misc{a,\n title = ,\n}", 2, "BibTeX field without a value"),
        ('@misc{a,\n title = "x" "y"\n}', 2, "BibTeX entry of line 1 breaks off here"),
        ("\n@misc{a,\n year = 2026", 3, "BibTeX entry of line 2 breaks off here"),
    ],
)
def test_broken_bibtex_is_refused_as_a_whole(text: str, line: int, reason: str) -> None:
    with pytest.raises(Unreadable) as refused:
        parse(text.encode())
    assert (refused.value.line, refused.value.reason) == (line, reason)


@pytest.mark.parametrize("fields", ["title = {A Title}", "title = {A Title}, year = {in press}"])
def test_a_bibtex_entry_without_a_date_is_refused_alone(fields: str) -> None:
    found = parse((bib("title = {Good}, year = 2026") + bib(fields)).encode())
    assert isinstance(found[0], RawEntry)
    assert isinstance(found[1], Refusal)
    assert found[1].line == 7
    assert found[1].reason.startswith("date unparsable")


def test_ris_with_wrapped_values_and_without_a_last_line() -> None:
    text = f"""TY  - JOUR
TI  - A Title
      in Two Lines
AB  - {ABSTRACT}
AU  - Lovelace, Ada
AU  - Gödel, Kurt
DA  - 2026/06/23/
UR  - https://arxiv.org/abs/2606.24417
UR  - https://code.example/x
DO  - 10.1000/xyz
T2  - Journal
N1  - 12 pages
KW  - tides
ER  -

TY  - GEN
T1  - Second
N2  - {ABSTRACT}
PY  - 2026
"""
    first, second = parse(text.encode())
    assert first == RawEntry(
        line=1,
        title="A Title in Two Lines",
        abstract=ABSTRACT,
        announced=date(2026, 6, 23),
        certainty=Certainty.ABOUT,
        arxiv_id="2606.24417",
        authors=("Ada Lovelace", "Kurt Gödel"),
        doi="10.1000/xyz",
        journal_ref="Journal",
        comment="12 pages",
        links=("https://code.example/x",),
    )
    assert isinstance(second, RawEntry)
    assert (second.line, second.title, second.announced) == (16, "Second", date(2026, 1, 1))
    assert parse(text.replace("ER  -\n", "").encode()) == [first, replace(second, line=15)]


def test_a_line_of_arxivs_dump() -> None:
    found = one(
        json.dumps(
            {
                "id": "0704.0001",
                "submitter": "x",
                "authors": "C. Bal\\'azs and E. L. Berger",
                "title": "Calculation of\n  prompt diphotons",
                "comments": "37 pages",
                "journal-ref": "Phys.Rev.D76:013009,2007",
                "doi": "10.1103/PhysRevD.76.013009",
                "report-no": "ANL",
                "categories": "hep-ph hep-ex",
                "license": None,
                "abstract": f"  {ABSTRACT}\n",
                "versions": [
                    {"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"},
                    {"version": "v2", "created": "Tue, 24 Jul 2007 20:10:27 GMT"},
                ],
                "update_date": "2008-11-26",
                "authors_parsed": [["Bal\\'azs", "C.", ""], ["Berger", "E. L.", "Jr"]],
            }
        )
    )
    assert found == RawEntry(
        line=1,
        title="Calculation of prompt diphotons",
        abstract=ABSTRACT,
        announced=date(2007, 4, 4),
        certainty=Certainty.RECKONED,
        arxiv_id="0704.0001",
        version=2,
        submitted=datetime(2007, 4, 2, 19, 18, 42, tzinfo=UTC),
        revised=datetime(2007, 7, 24, 20, 10, 27, tzinfo=UTC),
        authors=("C. Balázs", "E. L. Berger Jr"),
        subjects=("hep-ph", "hep-ex"),
        doi="10.1103/PhysRevD.76.013009",
        journal_ref="Phys.Rev.D76:013009,2007",
        comment="37 pages",
    )


@pytest.mark.parametrize(
    "row",
    [
        {"url": "https://arxiv.org/abs/2606.24417", "published": "2026-06-23", "summary": ABSTRACT},
        {"id": "arXiv:2606.24417v1", "date": "June 23, 2026", "abstract": ABSTRACT},
        {
            "arxiv_id": "2606.24417",
            "announced": "2026-06-23",
            "abstract": ABSTRACT,
            "authors": [{"name": "Ada"}, {"x": 1}, 5],
        },
    ],
)
def test_json_lines_of_other_programs(row: dict[str, object]) -> None:
    found = one(json.dumps({"title": "A Title", **row}))
    assert (found.id, found.announced) == ("arxiv:2606.24417", date(2026, 6, 23))
    assert found.authors in ((), ("Ada", "5"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{x", "not JSON: Expecting property name"),
        ('{"title": "cut off', "not JSON: Unterminated string"),
        ("[1]", "a JSON list, must be an object"),
        ("null", "a JSON NoneType, must be an object"),
        ('{"a":' + "[" * 100_000, "not JSON: "),
        ('{"title": 1' + "0" * 5000 + "}", "not JSON: Exceeds the limit"),
        ("{}", "no title"),
        ('{"title": ["A"], "abstract": {}}', "no title"),
        ('{"title": "A", "abstract": true}', "abstract of 4 characters"),
        (json.dumps({"title": "A", "abstract": ABSTRACT}), "date unparsable: there is none"),
        (json.dumps({"title": "A", "abstract": ABSTRACT, "date": 5}), "date unparsable: '5'"),
        (
            json.dumps({"title": "A", "abstract": ABSTRACT, "versions": [{"created": "soon"}]}),
            "date unparsable: submitted 'soon'",
        ),
        (
            json.dumps({"title": "A", "abstract": ABSTRACT, "date": "2026-06-23", "updated": "?"}),
            "date unparsable: updated '?'",
        ),
    ],
)
def test_a_line_that_is_no_paper_is_refused_alone(line: str, reason: str) -> None:
    good = dumps(raw().to_json())
    first, broken, last = parse(f"{good}\n\n{line}\n{good}\n".encode())
    assert isinstance(first, RawEntry)
    assert isinstance(last, RawEntry)
    assert isinstance(broken, Refusal)
    assert broken.line == 3
    assert broken.reason.startswith(reason)


def test_a_half_character_in_json_becomes_a_replacement() -> None:
    row = {"title": "A \ud800 Title", "abstract": ABSTRACT, "date": "2026-06-23"}
    assert one(json.dumps(row)).title == "A � Title"


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).map(lambda t: f"A{t}Z")


@given(
    title=texts.map(lambda text: " ".join(text.split())),
    names=st.lists(texts, max_size=3),
    number=st.sampled_from([None, "2606.24417", "math/0309136"]),
    certainty=st.sampled_from(Certainty),
)
def test_what_is_written_as_json_lines_reads_back_the_same(
    title: str, names: list[str], number: str | None, certainty: Certainty
) -> None:
    submitted = datetime(2026, 6, 22, 12, tzinfo=UTC) if certainty is Certainty.RECKONED else None
    first = one(
        dumps(
            raw(
                title,
                arxiv_id=number,
                version=3 if number else None,
                authors=tuple(names),
                subjects=("cs.LG", "cs.DC"),
                category="系统 / x",
                why="page 1 / 4",
                links=("https://code.example/x",),
                submitted=submitted,
                certainty=certainty,
            ).to_json()
        )
    )
    assert one(dumps(first.to_json())) == first  # cleaned once, it stays as it is


def test_an_unknown_certainty_counts_as_said() -> None:
    assert one(dumps(raw().to_json() | {"certainty": "quite"})).certainty is Certainty.SAID
    assert refusal("{}").line == 1
