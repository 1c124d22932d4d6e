"""Killed, locked, full and damaged: a file is there in whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from paper_builders import ABSTRACT, given_papers, page_of, raw, system

from tidemill.errors import CorruptFile, OutOfPool, ResourceError
from tidemill.feed import Library
from tidemill.feed.doctor import examine

IMPORTER = Path(__file__).with_name("paper_importer.py")
PAPERS_OF_A_FILE = 5
Open = Callable[[Path], Library]


@pytest.fixture
def open_library() -> Iterator[Open]:
    """Opens and migrates a library and closes it at the end."""
    opened: list[Library] = []

    def at(path: Path) -> Library:
        library = Library(str(path), systems=lambda: [system()])
        library.migrate()
        opened.append(library)
        return library

    yield at
    for library in opened:
        library.store.close()


def files(folder: Path, count: int, abstract: str = ABSTRACT) -> list[Path]:
    """Pages of five papers, all different."""
    made: list[Path] = []
    for number in range(count):
        entries = [
            (f"Paper {number} {n}", "arXiv 2026-06-23", f"{number} {n} {abstract}")
            for n in range(PAPERS_OF_A_FILE)
        ]
        made.append(folder / f"page{number}.txt")
        made[-1].write_text(page_of(entries), encoding="utf-8")
    return made


def start(mode: str, database: Path, *pages: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(IMPORTER), mode, str(database), *map(str, pages)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_sound(library: Library) -> bool:
    return all(finding.ok for finding in examine(library))


def test_an_import_killed_before_its_end_leaves_nothing(tmp_path: Path, open_library: Open) -> None:
    library = open_library(tmp_path / "papers.db")
    library.take(given_papers(raw()))
    (page,) = files(tmp_path, 1)
    process = start("hang", tmp_path / "papers.db", page)
    assert line_of(process) == "written"
    assert library.page().total == 1  # others see nothing of it yet
    kill(process)
    assert library.page().total == 1
    assert is_sound(library)
    assert library.import_file(page).new == PAPERS_OF_A_FILE
    assert library.page().total == 1 + PAPERS_OF_A_FILE


def test_what_a_killed_importer_said_is_done_is_there_and_all_else_whole(
    tmp_path: Path, open_library: Open
) -> None:
    library = open_library(tmp_path / "papers.db")
    pages = files(tmp_path, 60)
    process = start("loop", tmp_path / "papers.db", *pages)
    said = [line_of(process) for _ in range(3)]
    kill(process)
    total = library.page().total
    assert total % PAPERS_OF_A_FILE == 0
    assert total >= len(said) * PAPERS_OF_A_FILE
    assert is_sound(library)
    assert sum(library.import_file(page).new for page in pages) == 60 * PAPERS_OF_A_FILE - total


def test_a_failing_source_leaves_nothing_of_what_it_gave(library: Library) -> None:
    def entries() -> Iterator[object]:
        yield raw()
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="went dead"):
        library.take(given_papers(*entries()))  # type: ignore[arg-type]
    assert library.page().total == 0


def test_an_importer_and_eight_readers_do_not_stand_in_each_others_way(
    tmp_path: Path, open_library: Open
) -> None:
    library = open_library(tmp_path / "papers.db")
    process = start("loop", tmp_path / "papers.db", *files(tmp_path, 25))
    wrong: list[object] = []
    reads = [0] * 8

    def read(reader: int) -> None:
        try:
            while process.poll() is None or reads[reader] == 0:
                page, found = library.page(), library.search("tide")
                wrong.extend(
                    (seen.total, len(seen.entries))
                    for seen in (page, found)
                    if seen.total % PAPERS_OF_A_FILE or len(seen.entries) != min(20, seen.total)
                )
                reads[reader] += 1
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for reader in readers:
        reader.start()
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    for reader in readers:
        reader.join()
    kill(process)
    assert wrong == []
    assert min(reads) > 0
    assert [line.rpartition(" ")[2] for line in said] == ["5"] * 25
    assert library.page().total == 25 * PAPERS_OF_A_FILE
    assert is_sound(library)


def test_importers_of_the_same_files_at_once_make_no_paper_twice(
    tmp_path: Path, open_library: Open
) -> None:
    library = open_library(tmp_path / "papers.db")
    pages = files(tmp_path, 6)
    processes = [start("loop", tmp_path / "papers.db", *pages) for _ in range(3)]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(int(word) for words in said for word in words[1::2]) == 6 * PAPERS_OF_A_FILE
    assert library.page().total == 6 * PAPERS_OF_A_FILE


def test_a_database_held_by_another_process_is_told_and_can_be_read(
    tmp_path: Path, open_library: Open
) -> None:
    library = open_library(tmp_path / "papers.db")
    (page,) = files(tmp_path, 1)
    holder = start("hang", tmp_path / "papers.db", page)
    assert line_of(holder) == "written"
    with closing(library.store.engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA busy_timeout = 1")  # the pool gives it out again
    with pytest.raises(ResourceError, match="another process holds it"):
        library.import_file(page)
    assert library.page().total == 0
    kill(holder)
    assert library.import_file(page).new == PAPERS_OF_A_FILE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = [mount, "-t", "tmpfs", "-o", "size=2m", "tidemill-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_stored_and_takes_nothing_half(
    small_disk: Path, tmp_path: Path, open_library: Open
) -> None:
    library = open_library(small_disk / "papers.db")
    pages = files(tmp_path, 200, abstract=" ".join(f"word{n}" for n in range(1500)))
    done: list[Path] = []

    def import_all() -> None:
        for page in pages:
            library.import_file(page)
            done.append(page)

    with pytest.raises(OutOfPool, match="the disk is full"):
        import_all()
    assert 0 < len(done) < 200
    assert library.page().total == len(done) * PAPERS_OF_A_FILE
    with sqlite3.connect(f"file:{small_disk / 'papers.db'}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.close()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert library.import_file(pages[len(done)]).new == PAPERS_OF_A_FILE
    assert is_sound(library)


def test_a_damaged_index_is_found_by_the_doctor(tmp_path: Path, open_library: Open) -> None:
    library = open_library(tmp_path / "papers.db")
    library.take(given_papers(raw(), raw("Other")))
    with sqlite3.connect(tmp_path / "papers.db") as connection:
        connection.execute("DELETE FROM paper_text WHERE rowid = 1")
        connection.execute("UPDATE paper_text_content SET c0 = 'changed' WHERE id = 2")
    connection.close()
    bad = {finding.check: finding.found for finding in examine(library) if not finding.ok}
    assert bad.keys() == {"the search index in itself", "every shown paper can be searched"}
    assert bad["every shown paper can be searched"].startswith("1 not so: title:")


def test_a_damaged_file_is_told_as_such(tmp_path: Path, open_library: Open) -> None:
    library = open_library(tmp_path / "papers.db")
    library.take(given_papers(*(raw(f"Paper {n}", f"{n} {ABSTRACT}") for n in range(200))))
    library.store.close()
    with closing(sqlite3.connect(tmp_path / "papers.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((tmp_path / "papers.db").read_bytes())
    data[4096 * 3 :] = b"\xff" * (len(data) - 4096 * 3)
    (tmp_path / "papers.db").write_bytes(data)
    with pytest.raises(CorruptFile, match="is not a usable SQLite database"):
        library.page()
