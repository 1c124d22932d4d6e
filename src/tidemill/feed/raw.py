"""The seam between sources and the library: what a source shows of one paper, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime
from enum import IntEnum
from typing import Protocol

from tidemill.bench.settings import dumps
from tidemill.feed.entry import Refusal
from tidemill.feed.identity import id_of


class Certainty(IntEnum):
    """How well the day of the announcement is known; a better one replaces a worse one."""

    ABOUT = 0
    """From a year and month, or from the notice of a later version."""
    RECKONED = 1
    """From the time of submission and arXiv's calendar."""
    SAID = 2
    """The source announces it on that day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEntry:
    """What one source shows of one paper; checked, cleaned, not yet compared with anything.

    Args:
        line: Where it begins in its file; 0 if it has no line.
        announced: The day of its announcement.
        certainty: How well that day is known.
        revised: When the source says that the paper last changed.
        origin: Who announced it, as a page's dated line says: "arXiv", "Nature".
        announce_type: "new", "cross", "replace" or "replace-cross" if arXiv said so.
        category: The digest's category under which the source lists it.
        why: The page that does.
    """

    line: int = 0
    title: str
    abstract: str
    announced: date
    certainty: Certainty = Certainty.SAID
    arxiv_id: str | None = None
    version: int | None = None
    submitted: datetime | None = None
    revised: datetime | None = None
    authors: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    doi: str | None = None
    journal_ref: str | None = None
    comment: str | None = None
    license: str | None = None
    links: tuple[str, ...] = ()
    origin: str | None = None
    announce_type: str | None = None
    category: str | None = None
    why: str = ""

    @property
    def id(self) -> str:
        """Identity: the arXiv id without version, else the normal title."""
        return id_of(self.arxiv_id, self.title)

    def to_json(self) -> dict[str, object]:
        """What is known, without the line, in the form that the JSON lines importer reads."""
        fields = asdict(self)
        del fields["line"]
        fields["certainty"] = self.certainty.name.lower()
        return {
            name: value.isoformat() if isinstance(value, date) else value
            for name, value in fields.items()
            if value not in (None, "", (), [])
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of all that the source says, wherever it stood in its file."""
        return hashlib.sha256(dumps(self.to_json()).encode()).hexdigest()


class Source(Protocol):
    """Where papers come from: a file here, later a harvest, a feed or an interface.

    Its parser stands apart and is pure: bytes in, entries out.
    """

    @property
    def name(self) -> str:
        """Which one it is among those of its kind."""
        ...

    @property
    def kind(self) -> str:
        """What it is, "file" for one."""
        ...

    def fetch(self, cursor: str | None) -> Iterator[RawEntry | Refusal]:
        """What is new since ``cursor``, in the source's order; None asks for everything."""
        ...
