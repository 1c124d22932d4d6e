"""The file under the store: wrong URLs, broken files, full disks, many processes, a killed one."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.bench import Budget, Measurement
from tidemill.bench.environment import Environment
from tidemill.bench.store import Store, TrialOutcome, reading, writing
from tidemill.errors import (
    ConfigError,
    CorruptFile,
    InputError,
    MissingCapability,
    OutOfPool,
    ResourceError,
)

MACHINE = Environment(cpu="A", cpu_flags=(), cores=2, memory_bytes=2**34, kernel="Linux 6")


def outcome(number: int, weight_bytes: int = 0) -> TrialOutcome:
    """Two measurements of one value; ``weight_bytes`` make it heavy."""
    figures = tuple(
        Measurement(claim=claim, value=number, low=number, high=number, repeats=1)
        for claim in ("a", "b")
    )
    return TrialOutcome(
        system="toy",
        trial="race",
        budget=Budget.QUICK,
        outcome="ok",
        started=datetime.now(UTC),
        seconds=1.0,
        environment=MACHINE,
        measurements=figures,
        error="x" * weight_bytes,
    )


def values(store: Store) -> list[float]:
    """What is stored, oldest first; each outcome must be there with both of its measurements."""
    found = store.outcomes("toy", limit=10_000)
    assert all(len(kept.measurements) == 2 for kept in found)
    return [kept.measurements[0].value for kept in reversed(found)]


Opener = Callable[[Path | str], Store]


@pytest.fixture
def open_store() -> Iterator[Opener]:
    """Opens stores that are closed when the test ends."""
    with ExitStack() as stack:

        def opened(location: Path | str) -> Store:
            store = Store(str(location))
            stack.callback(store.close)
            return store

        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.mark.parametrize(
    "location",
    [
        "nonsense",
        "sqlite",
        "weird://host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql:x",
        "",
    ],
)
def test_a_wrong_url_is_told_with_what_is_allowed(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"TIDEMILL_DB='.*' — must be a path ending in \.db"):
        Store(location)
    if location:
        monkeypatch.setenv("TIDEMILL_DB", location)
        with pytest.raises(ConfigError, match="TIDEMILL_DB"):
            Store()


def test_a_driver_that_is_not_installed_is_told_with_the_command_that_installs_it() -> None:
    with pytest.raises(MissingCapability, match="`pip install oracledb`") as caught:
        Store("oracle+oracledb://scott:tiger@host/db")
    assert "tiger" not in str(caught.value)


def test_the_environment_names_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_DB", f"sqlite:///{path}")
    assert Store().url == f"sqlite:///{path}"
    monkeypatch.delenv("TIDEMILL_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(path.parent / "data"))
    assert Store().url.endswith("data/tidemill/tidemill.db")


def test_a_relative_path_stays_the_same_file_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: Opener
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here.db")
    monkeypatch.chdir("/")
    store.migrate()
    assert (tmp_path / "here.db").exists()


def test_sqlite_is_set_up_to_survive_a_power_cut_and_to_keep_references(
    path: Path, open_store: Opener
) -> None:
    store = open_store(path)
    store.migrate()
    with reading(store.engine) as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000
    }  # fmt: skip
    with pytest.raises(sa.exc.IntegrityError), writing(store.engine) as connection:
        connection.exec_driver_sql(
            "INSERT INTO measurement VALUES (1, 99, 'a', 1, 1, 1, 1, '', '', '[]', '{}')"
        )


def test_a_transaction_that_fails_leaves_nothing(path: Path, open_store: Opener) -> None:
    store = open_store(path)
    store.migrate()

    def is_interrupted() -> None:
        with writing(store.engine) as connection:
            connection.exec_driver_sql("CREATE TABLE half (done)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    assert "half" not in sa.inspect(store.engine).get_table_names()


def test_a_file_that_is_not_a_database_is_refused_and_kept(path: Path, open_store: Opener) -> None:
    path.write_text("my diary, page 1\n" * 100)
    before = path.read_bytes()
    with pytest.raises(CorruptFile, match=r"is not a usable SQLite database.*move the file away"):
        open_store(path).migrate()
    assert path.read_bytes() == before


def test_a_damaged_database_is_told_as_such(path: Path, open_store: Opener) -> None:
    store = open_store(path)
    store.migrate()
    for number in range(20):
        store.record_trial(outcome(number, weight_bytes=5000))
    store.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 60_000)
    with pytest.raises(CorruptFile, match="store sqlite"):
        values(open_store(path))


def test_a_database_of_another_program_is_left_alone(path: Path, open_store: Opener) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE run (mine)")
    with pytest.raises(InputError, match=r"tables of another program.*nothing was changed"):
        open_store(path).migrate()
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert names == {"run"}


def test_a_database_of_a_newer_tidemill_is_not_touched(path: Path, open_store: Opener) -> None:
    store = open_store(path)
    store.migrate()
    with writing(store.engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version_bench SET version_num = 'b999'")
    store.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    newer = open_store(path)
    with pytest.raises(InputError, match=r"revision b999.*newer tidemill.*upgrade tidemill"):
        newer.migrate()
    newer.close()
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_store_that_was_never_migrated_says_so(path: Path, open_store: Opener) -> None:
    with pytest.raises(InputError, match=r"lacks tables.*Store\.migrate\(\)"):
        open_store(path).outcomes("toy")


def test_a_store_held_by_another_process_is_told_after_the_time_out(
    path: Path, open_store: Opener
) -> None:
    open_store(path).migrate()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = open_store(f"sqlite:///{path}?timeout=0.05")
    with pytest.raises(ResourceError, match="another process holds it"):
        store.record_trial(outcome(1))
    assert values(store) == []  # readers are not in the way of a writer, nor it in theirs
    holder.execute("ROLLBACK")
    holder.close()
    store.record_trial(outcome(1))
    assert values(store) == [1]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, open_store: Opener) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="its folder cannot be made"):
        open_store(tmp_path / "file" / "store.db")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tidemill-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def store_many(store: Store, stored: list[float]) -> None:
    for number in range(len(stored), 10_000):
        store.record_trial(outcome(number, weight_bytes=20_000))
        stored.append(number)


def fill_up(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (2**16, 2**12, 1):
            try:
                while file.write(b"x" * block) == block:
                    pass
            except OSError:
                continue
    return ballast


def test_a_full_disk_loses_nothing_that_was_stored(small_disk: Path, open_store: Opener) -> None:
    store = open_store(small_disk / "store.db")
    store.migrate()
    stored: list[float] = []
    with pytest.raises(OutOfPool, match=r"disk is full.*what was stored before is intact"):
        store_many(store, stored)
    assert len(stored) > 5
    assert values(store) == stored
    store.close()
    assert values(open_store(small_disk / "store.db")) == stored


def test_a_store_goes_on_when_there_is_space_again(small_disk: Path, open_store: Opener) -> None:
    store = open_store(small_disk / "store.db")
    store.migrate()
    store.record_trial(outcome(1))
    ballast = fill_up(small_disk)
    with pytest.raises(OutOfPool):
        store_many(store, [])
    kept = values(store)
    ballast.unlink()
    store.record_trial(outcome(1000))
    assert values(store) == [*kept, 1000]


def test_a_disk_too_full_for_the_first_table_is_told(small_disk: Path, open_store: Opener) -> None:
    fill_up(small_disk)
    with pytest.raises(ResourceError, match="store sqlite"):
        open_store(small_disk / "store.db").migrate()


def test_a_read_only_disk_is_told(small_disk: Path, open_store: Opener) -> None:
    store = open_store(small_disk / "store.db")
    store.migrate()
    store.record_trial(outcome(1))
    store.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ResourceError, match=r"cannot be opened or written.*must be writable"):
        store.record_trial(outcome(2))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert values(store) == [1]


PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_database import Store, outcome, values
store = Store(sys.argv[1])
"""


def python(code: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(path), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_processes_that_migrate_at_once_all_succeed(path: Path, open_store: Opener) -> None:
    code = "print('ready', flush=True); sys.stdin.readline(); store.migrate()"
    processes = [python(code, path) for _ in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    finish(processes)
    with reading(open_store(path).engine) as connection:
        versions = connection.exec_driver_sql("SELECT version_num FROM alembic_version_bench").all()
    assert len(versions) == 1


def test_three_writers_and_eight_readers_do_not_stand_in_each_others_way(
    path: Path, open_store: Opener
) -> None:
    """Eight threads read in one process, as a web server's do, while three processes write."""
    store = open_store(path)
    store.migrate()
    writers = 3
    each = 40
    write = "for n in range(int(sys.argv[2])): store.record_trial(outcome(n))"
    read = f"""
from concurrent.futures import ThreadPoolExecutor
def look(_):
    seen = 0
    while seen < {writers * each}:
        now = len(values(store))
        assert now >= seen, "an outcome vanished"
        seen = now
with ThreadPoolExecutor(8) as pool:
    list(pool.map(look, range(8)))
"""
    finish([python(read, path), *[python(write, path, str(each)) for _ in range(writers)]])
    assert sorted(values(store)) == sorted(list(range(each)) * writers)


def test_what_a_killed_writer_was_told_is_stored_is_there(path: Path, open_store: Opener) -> None:
    store = open_store(path)
    store.migrate()
    code = """
for n in range(10**6):
    store.record_trial(outcome(n, 3000))
    print(n, flush=True)
"""
    process = python(code, path)
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(25)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines()]
    process.communicate()
    kept = values(store)
    assert kept[: len(told)] == told
    assert len(kept) <= len(told) + 1
    store.record_trial(outcome(7))
    assert values(store)[-1] == 7
