"""``tidemill feed``: what the user types, what he reads, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from paper_builders import ABSTRACT, given_papers, page_of, raw
from typer.testing import CliRunner, Result

from tidemill.cli.feed import app
from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.feed import Library

PAGE = page_of(
    [("A Title", "arXiv 2026-06-23", ABSTRACT), ("Second", "arXiv 2026-06-22", f"2 {ABSTRACT}")]
)
Write = Callable[..., Path]


def run(*arguments: object) -> Result:
    """The command in the test's own home; errors are raised, for ``tidemill`` to exit with."""
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result


def run_json(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def page(write: Write) -> Path:
    path = write(PAGE, "page.txt")
    run("import", path)
    return path


def test_import_says_what_it_did_and_twice_changes_nothing(write: Write) -> None:
    path = write(PAGE, "page.txt")
    assert run("import", path).stdout == f"{path}: 2 read, 2 new, 0 changed, 0 refused\n"
    assert run("import", path).stdout == f"{path}: 2 read, 0 new, 0 changed, 0 refused\n"
    assert (
        run_json("import", path, path)["files"]
        == [{"file": str(path), "read": 2, "new": 0, "changed": 0, "refused": []}] * 2
    )


def test_a_refused_entry_is_told_with_file_and_line_and_the_others_stay(write: Write) -> None:
    path = write(page_of([("Short", "arXiv 2026-06-23", "too short")]) + PAGE)
    result = run("import", path)
    reason = "refused: abstract of 9 characters, must have 40 to 20000"
    assert result.stderr == f"{path}:1: {reason}\n"
    assert result.stdout == f"{path}: 3 read, 2 new, 0 changed, 1 refused\n"
    (told,) = run_json("import", path)["files"]
    assert told["refused"] == [{"line": 1, "reason": reason.removeprefix("refused: ")}]


def test_a_file_that_cannot_be_used_fails_the_command_after_the_others_are_in(write: Write) -> None:
    good, bad, worse = write(PAGE, "good"), write(b"\xff", "bad"), write("", "worse")
    result = CliRunner().invoke(app, ["import", str(bad), str(good), str(worse)])
    assert isinstance(result.exception, CorruptFile)
    assert str(result.exception) == f"{worse}:1 — is empty; nothing was imported."
    assert (
        result.stderr == f"CorruptFile: {bad}:1 — is not UTF-8 (byte 0xff); nothing was imported.\n"
    )
    assert result.stdout == f"{good}: 2 read, 2 new, 0 changed, 0 refused\n"


def test_a_file_of_which_nothing_could_be_used_fails_the_command(write: Write) -> None:
    path = write("{}\n[]\n")
    with pytest.raises(InputError, match="all of its 2 entries were refused"):
        CliRunner().invoke(app, ["import", str(path)], catch_exceptions=False)


def test_read_prints_lines_that_can_be_imported_and_imports_nothing(write: Write) -> None:
    path = write(page_of([("Short", "arXiv 2026-06-23", "too short")]) + PAGE)
    result = run("read", path)
    assert f"{path}:1: refused: abstract of 9" in result.stderr
    assert run_json("list")["total"] == 0
    lines = write(result.stdout, "lines.jsonl")
    assert run_json("import", lines)["files"][0]["new"] == 2
    assert run_json("import", path)["files"][0]["new"] == 0


def test_list_shows_papers_newest_first_by_page_category_and_time(page: Path, write: Write) -> None:
    assert "2 papers, page 1 / 1" in run("list").stdout
    assert "A Title" in run("list").stdout
    first, second = (run_json("list", "--limit", 1, "--page", n) for n in (1, 2))
    assert [found["entries"][0]["title"] for found in (first, second)] == ["A Title", "Second"]
    assert (first["total"], first["pages"], second["page"]) == (2, 2, 2)
    assert run_json("list", "--since", "2026-06-23")["total"] == 1
    run(
        "import",
        write(f"标题\n\nServing\n\n{page_of([('New', f'arXiv {date.today()}', ABSTRACT)])}"),
    )
    assert run_json("list", "--since", "7d")["total"] == 1 + 2 * _is_recent()
    assert run_json("list", "--category", "serving")["total"] == 1


def _is_recent() -> bool:
    return date(2026, 6, 22) >= date.today() - timedelta(days=7)


@pytest.mark.parametrize("since", ["7", "week", "2026-02-30", "-1d", "999999d"])
def test_a_since_that_is_none_is_refused_with_what_is_allowed(since: str) -> None:
    with pytest.raises(ConfigError, match=r"--since='.*' — must be a number of days as 7d, or a"):
        CliRunner().invoke(app, ["list", f"--since={since}"], catch_exceptions=False)


def test_show_prints_one_paper_with_all_its_texts(page: Path) -> None:
    (entry,) = [e for e in run_json("list")["entries"] if e["title"] == "A Title"]
    for paper_id in (entry["id"], "t-" + entry["id"][6:16]):
        shown = run_json("show", paper_id)
        assert (shown["id"], len(shown["near"]), shown["merged"]) == (entry["id"], 1, [])
        assert shown["versions"][0]["current"]
    text = run("show", entry["id"]).stdout
    assert text.startswith(f"A Title\n{entry['id']} · 2026-06-23\n")
    assert ABSTRACT in text
    with pytest.raises(InputError, match="paper 'x' — is not in the library"):
        CliRunner().invoke(app, ["show", "x"], catch_exceptions=False)


def test_show_tells_of_versions_links_and_categories(tmp_path: Path) -> None:
    library = Library(systems=list)
    library.migrate()
    known = raw(
        arxiv_id="2606.24417",
        version=1,
        authors=("Ada",),
        subjects=("cs.LG",),
        category="量化",
        why="p",
    )
    library.take(given_papers(known, raw("New Title", arxiv_id="2606.24417", version=2)))
    library.store.close()
    text = run("show", "2606.24417").stdout
    links = "PDF: https://arxiv.org/pdf/2606.24417"
    for part in ("arxiv:2606.24417 · 2026-06-23 · v2", "\nAda\n", "量化 (p)", links):
        assert part in text
    assert "1 earlier texts" in text


def test_search_takes_a_query_in_one_or_many_words(page: Path) -> None:
    assert run_json("search", "tide", "mill")["total"] == 2
    found = run("search", '"daily tide" has:wings')
    assert found.stderr == "ignored: has:wings\n"
    assert "2 papers, page 1 / 1" in found.stdout
    assert run_json("search", "--limit", 1, "cat:nothing") == {
        "total": 0, "page": 1, "pages": 1, "ignored": [], "entries": [],
    }  # fmt: skip


def test_split_takes_a_merge_back(write: Write, page: Path) -> None:
    old_id = run_json("list")["entries"][0]["id"]
    run("import", write(page_of([("A Title", "arXiv:2606.24417 2026-06-23", ABSTRACT)])))
    assert run_json("show", "2606.24417")["merged"] == [old_id]
    assert run("split", old_id).stdout == f"{old_id} is a paper of its own again\n"
    assert run_json("show", old_id)["id"] == old_id


def test_the_doctor_finds_a_sound_library_sound_and_a_broken_one_not(page: Path) -> None:
    assert all(check["ok"] for check in run_json("doctor")["checks"])
    assert "ok   the search index in itself: so it is" in run("doctor").stdout
    library = Library()
    with library.store.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM paper_text WHERE rowid = 1")
    library.store.close()
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "BAD  every shown paper can be searched: 1 not so: title:" in result.stdout


def test_help_is_there_for_every_command() -> None:
    commands = run("--help").stdout
    for name in ("import", "read", "list", "show", "search", "split", "doctor"):
        assert f"\n  {name}" in commands
        assert run(name, "--help").stdout
