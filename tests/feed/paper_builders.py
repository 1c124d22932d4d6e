"""Builders of papers as the sources of the tests show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tidemill.bench import Paper, Report, System, Text
from tidemill.feed.entry import Refusal
from tidemill.feed.formats import parse
from tidemill.feed.raw import RawEntry

ABSTRACT = (
    "A tide mill turns the daily tide into work, which is what this paper measures at length."
)
TITLE = "Tide Mills Revisited"
DAY = date(2026, 6, 23)


@dataclass
class Clock:
    """A clock that stands still until it is set."""

    now: datetime = datetime(2026, 6, 24, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


def raw(title: str = TITLE, abstract: str = ABSTRACT, **fields: Any) -> RawEntry:
    """An entry announced on `DAY` unless told otherwise."""
    return RawEntry(title=title, abstract=abstract, **{"announced": DAY, **fields})


FULL = raw(
    r"On \(x^2\) & <Tides>",
    rf"{ABSTRACT} It is \(10.4\times\) faster; see https://code.example/a?b=1&c=2.",
    arxiv_id="2606.24417",
    version=2,
    authors=("Ada Lovelace", "Kurt Gödel & Sons"),
    subjects=("cs.LG", "cs.DC"),
    doi="10.1000/xyz",
    comment="12 pages, 100% new",
    category="PyTorch / SP / CP / 系统进展",
    why="x",
)
"""A paper of which all is known."""


@dataclass(frozen=True)
class Given:
    """A source that shows what it is given."""

    entries: Iterable[RawEntry | Refusal]
    name: str = "given"
    kind: str = "test"

    def fetch(self, cursor: str | None) -> Iterator[RawEntry | Refusal]:
        yield from self.entries


def given_papers(*entries: RawEntry | Refusal) -> Given:
    return Given(entries)


def one(content: str | bytes) -> RawEntry:
    """The only entry of a file, which must be none that is refused."""
    (found,) = parse(content.encode() if isinstance(content, str) else content)
    assert isinstance(found, RawEntry), found
    return found


def refusal(content: str | bytes) -> Refusal:
    """The only entry of a file, which must be refused."""
    (found,) = parse(content.encode() if isinstance(content, str) else content)
    assert isinstance(found, Refusal), found
    return found


@dataclass(frozen=True, slots=True)
class ToyConfig:
    size: int = field(default=1, metadata={"help": "A size."})


def system(
    arxiv_id: str = "2606.24417", title: str = TITLE, abstract: str = ABSTRACT, name: str = "toy"
) -> System:
    """An installed system and its paper."""
    return System(
        name=name,
        paper=Paper(arxiv_id, title, DAY, abstract),
        summary=Text("A toy.", "玩具。"),
        config=ToyConfig,
        run=lambda context: Report(headline=Text("Nothing.", "无。"), facts={}, timings={}),
        claims=(),
    )


def page_of(entries: Iterable[tuple[str, str, str]], heading: str = "") -> str:
    """A digest page: title, dated line and abstract of each entry, blank lines between."""
    return heading + "".join(f"{title}\n\n{dated}\n\n{text}\n\n" for title, dated, text in entries)
