"""Sources that need no network: a file, the page that is shipped, the papers of the systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tidemill.bench import System
from tidemill.errors import CorruptFile, InputError
from tidemill.feed.draft import Draft
from tidemill.feed.entry import Refusal
from tidemill.feed.formats import Unreadable, parse
from tidemill.feed.formats.decoding import LARGEST_FILE_BYTES
from tidemill.feed.raw import RawEntry

FIRST_PAGE = "first_page.jsonl"


@dataclass(frozen=True, slots=True)
class PaperFile:
    """A file of papers, its kind told by its content."""

    path: Path
    kind: str = "file"

    @property
    def name(self) -> str:
        """The file's name without its folder, which means nothing on another machine."""
        return self.path.name

    def fetch(self, cursor: str | None) -> Iterator[RawEntry | Refusal]:
        """All entries of the file.

        Raises:
            InputError: It cannot be opened.
            CorruptFile: It cannot be used as a whole; the text says line and reason.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(LARGEST_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(
                f"{self.path} — cannot be read: {error.strerror}; give a file of papers."
            ) from error
        try:
            yield from parse(data)
        except Unreadable as error:
            raise CorruptFile(
                f"{self.path}:{error.line} — {error.reason}; nothing was imported."
            ) from error


@dataclass(frozen=True, slots=True)
class FirstPage:
    """The first page of the digest, which is part of the package."""

    name: str = FIRST_PAGE
    kind: str = "shipped"

    def fetch(self, cursor: str | None) -> Iterator[RawEntry | Refusal]:
        """Its entries."""
        yield from parse(files("tidemill.feed").joinpath(FIRST_PAGE).read_bytes())


@dataclass(frozen=True, slots=True)
class SystemPapers:
    """The papers of the installed systems, which know their arXiv ids, if there are any."""

    systems: Callable[[], Iterable[System]]
    name: str = "systems"
    kind: str = "systems"

    def fetch(self, cursor: str | None) -> Iterator[RawEntry | Refusal]:
        """A paper for each system."""
        for system in self.systems():
            paper = system.paper
            yield Draft(
                line=0,
                title=paper.title,
                abstract=paper.abstract,
                announced=paper.announced.isoformat(),
                identifiers=[paper.arxiv_id] if paper.arxiv_id else [],
            ).checked()
