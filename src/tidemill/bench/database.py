"""One database for results and papers: opening it, reading, writing, migrating, and its errors.

SQLite in one file by default, any other by URL. What goes wrong on the disk or in the file comes
out as the errors of `tidemill.errors`; nothing that was committed before is lost.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, NoSuchModuleError

from tidemill.bench.settings import dumps
from tidemill.errors import (
    ConfigError,
    CorruptFile,
    InputError,
    MissingCapability,
    OutOfPool,
    ResourceError,
    TidemillError,
)

BUSY_TIMEOUT_S = 10.0
"""How long a connection waits for another process's write to end; ``?timeout=3`` in the URL says
otherwise."""

_FORM = "a path ending in .db, or a URL such as sqlite:////data/tidemill.db or postgresql://host/db"
_WRITES = "tidemill_writes"
_MIGRATION_LOCK = 0x7469646D  # any number, the same in every tidemill: Postgres's advisory lock
_one_migration = threading.Lock()  # Alembic keeps the migration under way in a global


def default_url() -> str:
    """``TIDEMILL_DB`` if set, else a SQLite file in the user's data folder."""
    if given := os.environ.get("TIDEMILL_DB", ""):
        return given
    return f"sqlite:///{Path(platformdirs.user_data_dir('tidemill')) / 'tidemill.db'}"


def open_engine(location: str | None = None) -> Engine:
    """An engine for ``location`` (default: `default_url`); it connects when first used.

    SQLite: write-ahead log, foreign keys checked, and ``synchronous=FULL``, as NORMAL may lose the
    last results at a power cut; with about one commit per trial its fsync costs nothing.

    Raises:
        ConfigError: This is no database URL, or one of an in-memory database.
        MissingCapability: The driver of that database is not installed.
        ResourceError: The folder of the file cannot be made.
    """
    url = _url(default_url() if location is None else location)
    is_sqlite = url.get_backend_name() == "sqlite"
    options: dict[str, Any] = {}
    if is_sqlite and "timeout" not in url.query:
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
    try:
        engine = create_engine(url, json_serializer=dumps, pool_pre_ping=not is_sqlite, **options)
    except NoSuchModuleError as error:
        raise ConfigError.of("TIDEMILL_DB", _shown(url), _FORM) from error
    except ModuleNotFoundError as error:
        raise MissingCapability(
            f"store {_shown(url)} — its driver is not installed; run `pip install {error.name}` "
            "or leave TIDEMILL_DB unset for SQLite."
        ) from error
    if is_sqlite:
        _make_folder(url)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """A connection that sees one state of the database throughout, whatever others write.

    Raises:
        TidemillError: As `writing`.
    """
    with _translated(engine.url), engine.connect() as connection:
        if engine.dialect.name != "sqlite":  # which knows no other isolation
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """A connection in a transaction that commits at the end and rolls back on any error.

    On SQLite it takes the write lock at once: a transaction that first reads and then writes would
    be refused when another process wrote in between, without waiting.

    Raises:
        OutOfPool: The disk is full.
        ResourceError: The file cannot be written, is locked for long, or the server is away.
        CorruptFile: The file is not a database, or damaged.
        InputError: The database has not been migrated.
    """
    with _translated(engine.url), engine.connect() as connection:
        connection.execution_options(**{_WRITES: True})
        with connection.begin():
            yield connection


def migrate(engine: Engine, script_location: str, version_table: str) -> None:
    """Bring one room's tables up to date; does nothing if they are. Safe from many processes.

    The folder ``script_location`` ("tidemill.bench:migrations") holds ``versions/`` and an
    ``env.py`` like that of `tidemill.bench`. All steps are one transaction.

    Raises:
        InputError: The database was written by a newer tidemill, or has other tables of these
            names; nothing was changed.
        TidemillError: As `writing`.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", script_location)
    script = ScriptDirectory.from_config(config)
    with _one_migration:
        with reading(engine) as connection:
            if _is_current(connection, script, version_table):
                return
        _use_write_ahead_log(engine)
        with writing(engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            if _is_current(connection, script, version_table):
                return
            config.attributes.update(connection=connection, version_table=version_table)
            command.upgrade(config, "head")


def _url(location: str) -> URL:
    if "://" not in location and Path(location).suffix in {".db", ".sqlite", ".sqlite3"}:
        location = f"sqlite:///{location}"
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise ConfigError.of("TIDEMILL_DB", location, _FORM) from error
    if url.get_backend_name() != "sqlite":
        return url
    if not url.database or url.database == ":memory:" or "mode=memory" in location:
        raise ConfigError.of(
            "TIDEMILL_DB", location, _FORM, "runs are processes of their own and cannot see memory"
        )
    if url.database.startswith("file:"):
        return url
    return url.set(database=str(Path(url.database).expanduser().absolute()))


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _make_folder(url: URL) -> None:
    if url.database and not url.database.startswith("file:"):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"store {_shown(url)} — its folder cannot be made: {error}; "
                "set TIDEMILL_DB to a file in a folder that can be written."
            ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # _begin_sqlite says how a transaction begins
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_write_ahead_log(engine: Engine) -> None:
    """The file remembers it, so once is enough; SQLite does not wait for locks here, so we do."""
    if engine.dialect.name != "sqlite":
        return
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    with _translated(engine.url):
        while True:
            raw = engine.raw_connection()
            try:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return
            finally:
                raw.close()


def _is_current(connection: Connection, script: Any, version_table: str) -> bool:
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    found = set(context.get_current_heads())
    try:
        for revision in found:
            script.get_revision(revision)
    except CommandError as error:
        raise InputError(
            f"store {_shown(connection.engine.url)} — its tables are at revision "
            f"{', '.join(sorted(found))}, which this tidemill does not know; a newer tidemill "
            "wrote it and nothing was changed; upgrade tidemill or set TIDEMILL_DB to another file."
        ) from error
    return found == set(script.get_heads())


@contextmanager
def _translated(url: URL) -> Generator[None]:
    """Turn what the disk, the file or the server does wrong into errors of the house."""
    try:
        yield
    except (DatabaseError, InterfaceError, sqlite3.DatabaseError) as error:
        cause = error.orig if isinstance(error, DatabaseError | InterfaceError) else error
        if isinstance(cause, sqlite3.Error):
            translated = _sqlite_error(url, cause)
        else:
            translated = _server_error(url, error)
        if translated is None:
            raise
        raise translated from error


_ELSEWHERE = "set TIDEMILL_DB to another file"

_SQLITE_ERRORS: tuple[tuple[tuple[str, ...], type[TidemillError], str, str], ...] = (
    (
        ("SQLITE_NOTADB", "SQLITE_CORRUPT"),
        CorruptFile,
        "is not a usable SQLite database",
        f"nothing was changed; move the file away or {_ELSEWHERE}",
    ),
    (
        ("SQLITE_FULL",),
        OutOfPool,
        "the disk is full",
        f"what was stored before is intact; free some space or {_ELSEWHERE} on another disk",
    ),
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        ResourceError,
        "another process holds it",
        "waited in vain and changed nothing; end that process (`fuser` on the file tells it) and "
        "try again",
    ),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM"),
        ResourceError,
        "cannot be opened or written",
        "what was stored before is intact; file and folder must be writable: change their "
        f"permissions or {_ELSEWHERE}",
    ),
    (
        ("no such table", "no such column"),
        InputError,
        "lacks tables of tidemill",
        f"it must be migrated first: call Store.migrate() or {_ELSEWHERE}",
    ),
    (
        ("already exists",),
        InputError,
        "holds tables of another program",
        f"nothing was changed; {_ELSEWHERE}",
    ),
)
"""By the beginning of SQLite's name of the error or a part of its text: class, finding, advice."""


def _sqlite_error(url: URL, cause: sqlite3.Error) -> TidemillError | None:
    said = str(cause)
    name = str(getattr(cause, "sqlite_errorname", ""))
    if name.startswith("SQLITE_IOERR") and _is_full(url):
        name = "SQLITE_FULL"
    for marks, kind, finding, advice in _SQLITE_ERRORS:
        if name.startswith(marks) or any(mark in said for mark in marks):
            return kind(f"store {_shown(url)} — {finding}: {said} ({name}); {advice}.")
    return None


def _server_error(url: URL, error: Exception) -> TidemillError | None:
    if type(error).__name__ not in ("OperationalError", "InterfaceError"):
        return None
    return ResourceError(
        f"store {_shown(url)} — the database server cannot be used: "
        f"{str(error).splitlines()[0]}; start it or correct TIDEMILL_DB."
    )


def _is_full(url: URL) -> bool:
    folder = Path(url.database or ".").parent
    return folder.is_dir() and shutil.disk_usage(folder).free < 2**16
