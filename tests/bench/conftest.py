"""Processes to watch, gates to hold them at, and a disk that is soon full."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toy_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find ``toy_system:SYSTEM``, as they would find an installed package."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


class Gate:
    """A FIFO at which a toy trial waits until `open` is called."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)

    def open(self) -> None:
        """Let the trial go on; blocks until it has come to the gate."""
        Path(self.path).write_text("go")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def watched() -> Iterator[Callable[[int], Callable[[], bool]]]:
    """``has_ended = watched(pid)`` while it lives; ``has_ended()`` waits up to 20 s for its end."""
    descriptors: list[int] = []

    def watch(pid: int) -> Callable[[], bool]:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return lambda: True
        descriptors.append(descriptor)
        return lambda: bool(select.select([descriptor], [], [], 20.0)[0])

    yield watch
    for descriptor in descriptors:
        os.close(descriptor)


class TinyDisk:
    """A file system of one MiB, mounted at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Use it up to the last byte."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def make_room(self) -> None:
        """Take back what `fill` used."""
        self._filler.unlink()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[TinyDisk]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tidemill-test", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    yield TinyDisk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)
