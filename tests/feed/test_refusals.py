"""What cannot be used is refused with file, line and reason, and leaves the library as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from paper_builders import ABSTRACT, page_of

from tidemill.errors import CorruptFile, InputError
from tidemill.feed import ImportReport, Library, Refusal

Write = Callable[..., Path]
GOOD = page_of([("A Title", "arXiv 2026-06-23", ABSTRACT)])


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"", 1, "is empty"),
        (b"\n \n", 1, "is empty"),
        (b"hello", 1, "holds no papers; what can be read is a page of a digest"),
        (b"one\ntwo \xff three", 2, "is not UTF-8 (byte 0xff)"),
        (b"\xef\xbb\xbfone\n\xc3(", 2, "is not UTF-8 (byte 0xc3)"),
        (b"\xff\xfea\x00\n\x00\xd8", 2, "is not UTF-16-LE (byte 0xd8)"),
        (b"<html><meta charset=gbk>\n\xff\xff</html>", 2, "is not UTF-8 (byte 0xff)"),
        (b"<html><meta charset=unicode_escape>\n\xff</html>", 2, "is not UTF-8 (byte 0xff)"),
        (b"<html><meta charset=no-such-thing>\n\xff</html>", 2, "is not UTF-8 (byte 0xff)"),
        (b"Rate exceeded.", 1, "holds no papers but says 'Rate exceeded'"),
        (
            b"<!doctype html><html>\n<title>Wait</title><body>\nplease solve the CAPTCHA",
            3,
            "holds no papers but says 'CAPTCHA': the site refused to answer; fetch it again later",
        ),
        (b"<html><body>\n429 Too Many Requests", 2, "holds no papers but says 'Too Many Requests'"),
        (b"<html><body>nothing", 1, "holds no papers"),
        (b"%PDF-1.7\n", 1, "holds no papers"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE x><x/>', 2, "XML with a document type or entities"),
        (b"@misc{x, title = {", 1, "BibTeX: '{' is never closed"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_whole(
    library: Library, write: Write, content: bytes, line: int, reason: str
) -> None:
    path = write(content)
    with pytest.raises(CorruptFile) as refused:
        library.import_file(path)
    assert str(refused.value).startswith(f"{path}:{line} — {reason}")
    assert str(refused.value).endswith("; nothing was imported.")
    assert library.page().total == 0


def test_a_paper_about_captchas_is_no_captcha(library: Library, write: Write) -> None:
    page = page_of([("CAPTCHA solved", "arXiv 2026-06-23", f"{ABSTRACT} Rate exceeded.")])
    assert library.import_file(write(page)).new == 1


@pytest.mark.parametrize(("size", "fits"), [(50_000_000, True), (50_000_001, False)])
def test_a_file_of_more_than_50_mb_is_refused(
    library: Library, write: Write, size: int, fits: bool
) -> None:
    path = write(GOOD)
    with path.open("ab") as file:
        file.write(b"\n" * (size - path.stat().st_size))
    if fits:
        assert library.import_file(path).new == 1
    else:
        with pytest.raises(CorruptFile, match=r":1 — has 50,000,001 bytes, at most 50,000,000"):
            library.import_file(path)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_opened_is_told(library: Library, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r" — cannot be read: .*; give a file of papers\."):
        library.import_file(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_told(library: Library, write: Write) -> None:
    path = write(GOOD)
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        library.import_file(path)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (("A Title", "arXiv 2026-02-30", ABSTRACT), "date unparsable: '2026-02-30'"),
        (("A Title", "arXiv 2023-02-29", ABSTRACT), "date unparsable: '2023-02-29'"),
        (("A Title", "arXiv 0000-01-01", ABSTRACT), "date unparsable: '0000-01-01'"),
        (("A Title", "arXiv 9999-12-31", ABSTRACT), "date unparsable: '9999-12-31'"),
        (("A Title", "arXiv 2026-06-23", "x" * 39), "abstract of 39 characters, must have 40"),
        (("A Title", "arXiv 2026-06-23", "x" * 20_001), "abstract of 20001 characters, must have"),
        (("T" * 1001, "arXiv 2026-06-23", ABSTRACT), "title of 1001 characters, at most 1000"),
        (("\u200b\ufeff", "arXiv 2026-06-23", ABSTRACT), "no title"),
        ((r"$\alpha$ + !", "arXiv 2026-06-23", ABSTRACT), "no title: "),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_alone(
    library: Library, write: Write, entry: tuple[str, str, str], reason: str
) -> None:
    report = library.import_file(write("Page\n\n" + page_of([entry]) + GOOD))
    (refused,) = report.refused
    assert (refused.line, refused.reason[: len(reason)]) == (3, reason)
    assert (report.read, report.new, report.changed) == (2, 1, 0)


@pytest.mark.parametrize("length", [40, 20_000])
def test_an_abstract_may_have_40_to_20000_characters(
    library: Library, write: Write, length: int
) -> None:
    page = page_of([("A Title", "arXiv 2024-02-29", "x" * length)])
    assert library.import_file(write(page)) == ImportReport(1, 1)


def test_a_title_of_signs_alone_is_one_if_there_is_an_id(library: Library, write: Write) -> None:
    page = page_of([(r"$\alpha$", "arXiv:2606.00001 2026-06-23", ABSTRACT)])
    assert library.import_file(write(page)) == ImportReport(1, 1)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("gbk", "gbk"), ("GB2312", "gb2312"), ("Big5", "big5"), ("shift_jis", "shift_jis"),
        ("utf-8", "utf-8"), ("latin1", "utf-8"), ("ISO-8859-1", "gbk"),
    ],
)  # fmt: skip
def test_the_character_set_that_a_page_declares_is_tried_first(
    library: Library, write: Write, declared: str, encoding: str
) -> None:
    text = "日本" * 25
    html = f"<html><meta charset='{declared}'><p>文字<p>arXiv 2026-06-23<p>{text}"
    library.import_file(write(html.encode(encoding)))
    shown = library.page().entries[0].abstract
    if declared in ("latin1", "ISO-8859-1"):  # a lie that cannot be found out
        assert shown == text.encode(encoding).decode("latin1").replace("\x85", " ") or shown
    else:
        assert shown == text


def test_a_declaration_that_is_a_lie_falls_back_to_utf_8(library: Library, write: Write) -> None:
    html = f"<html><meta charset=ascii><p>Tïtle<p>arXiv 2026-06-23<p>{ABSTRACT}"
    library.import_file(write(html))
    assert library.page().entries[0].title == "Tïtle"


def test_a_report_says_what_happened_in_one_line() -> None:
    report = ImportReport(20, 3, 2, (Refusal(1, "no title"),))
    assert str(report) == "20 read, 3 new, 2 changed, 1 refused"
    assert str(report + report) == "40 read, 6 new, 4 changed, 2 refused"


def test_a_file_of_nothing_but_refusals_is_given_up(library: Library, write: Write) -> None:
    assert len(library.import_file(write("{}\n" * 10_000)).refused) == 10_000
    with pytest.raises(CorruptFile, match=r":10001 — more than 10,000 entries would be refused"):
        library.import_file(write("{}\n" * 20_000))
