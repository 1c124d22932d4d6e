"""A library of its own for each test, and small papers to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paper_builders import Clock, system

from tidemill.feed import Library


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def library(tmp_path: Path, clock: Clock) -> Iterator[Library]:
    """An empty library in which one system, toy, builds arXiv 2606.24417."""
    library = Library(str(tmp_path / "papers.db"), systems=lambda: [system()], clock=clock)
    library.migrate()
    yield library
    library.store.close()


@pytest.fixture(scope="session")
def seed() -> Path:
    """The page from which the digest started."""
    return Path(__file__).with_name("data") / "seed-page.txt"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Makes a file of text or bytes: ``write(content)`` or ``write(content, "name.txt")``."""

    def make(content: str | bytes, name: str = "papers") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make
