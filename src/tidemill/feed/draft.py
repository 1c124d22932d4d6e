"""What a parser found of one paper, as text, and the checks that make it an entry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, datetime

from tidemill.feed.calendar import announcement_day, parse_date, parse_moment
from tidemill.feed.entry import Refusal
from tidemill.feed.identity import DOI, arxiv_id, normal_title
from tidemill.feed.raw import Certainty, RawEntry
from tidemill.feed.text import clean, decode_accents

SHORTEST_ABSTRACT = 40
LONGEST_ABSTRACT = 20_000
LONGEST_TITLE = 1_000
LONGEST_ORIGIN = 80

_DOI = re.compile(rf"(?:https?://(?:dx\.)?doi\.org/|doi:\s*)?({DOI.pattern})", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s<>\"'\\^`{|}]{1,2000}")
_AUTHORS = re.compile(r"\s*;\s*|\s*,\s*(?:and\s+)?|\s+and\s+")
_AFFILIATION = re.compile(r"\([^()]*\)")


class _Unusable(Exception):
    """Why a draft is refused."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """One paper as a parser found it, all of it untrusted text.

    Args:
        line: Where it begins in the file.
        announced: The day on which the source lists it.
        about: A date known to the month only, or not that of the first announcement.
        identifiers: Ids and addresses of the paper itself, in which an arXiv id may be.
        links: Further addresses.
        origin: Who announced it: a name, or an arXiv id.
    """

    line: int
    title: str = ""
    abstract: str = ""
    announced: str = ""
    submitted: str = ""
    revised: str = ""
    about: str = ""
    version: str = ""
    identifiers: list[str] = field(default_factory=list[str])
    authors: list[str] = field(default_factory=list[str])
    subjects: list[str] = field(default_factory=list[str])
    doi: str = ""
    journal_ref: str = ""
    comment: str = ""
    license: str = ""
    links: list[str] = field(default_factory=list[str])
    origin: str = ""
    announce_type: str = ""
    category: str = ""
    why: str = ""

    def checked(self) -> RawEntry | Refusal:
        """The entry, or why it cannot be one."""
        try:
            return self._checked()
        except _Unusable as reason:
            return Refusal(self.line, str(reason))

    def _checked(self) -> RawEntry:
        number, version = self._identity()
        title = self._title(has_id=number is not None)
        abstract = self._abstract()
        announced, certainty = self._day()
        doi = _DOI.fullmatch(clean(self.doi))
        return RawEntry(
            line=self.line,
            title=title,
            abstract=abstract,
            announced=announced,
            certainty=certainty,
            arxiv_id=number,
            version=version,
            submitted=_moment("submitted", self.submitted),
            revised=_moment("updated", self.revised),
            authors=_names(self.authors),
            subjects=_listed(self.subjects),
            doi=doi[1] if doi and not arxiv_id(doi[1]) else None,
            journal_ref=clean(self.journal_ref) or None,
            comment=clean(self.comment) or None,
            license=clean(self.license) or None,
            links=self._further(),
            origin="arXiv"
            if arxiv_id(self.origin)
            else clean(self.origin)[:LONGEST_ORIGIN] or None,
            announce_type=clean(self.announce_type) or None,
            category=clean(self.category) or None,
            why=clean(self.why),
        )

    def _identity(self) -> tuple[str | None, int | None]:
        """The first arXiv id among the identifiers, and the version that any of them gives."""
        found = list(filter(None, map(arxiv_id, (*self.identifiers, self.doi))))
        if not found:
            return None, None
        said = re.sub(r"\D", "", self.version)[:4]
        versions = [version for number, version in found if version and number == found[0][0]]
        return found[0][0], int(said) if said else next(iter(versions), None)

    def _title(self, *, has_id: bool) -> str:
        title = decode_accents(clean(self.title))
        if not title:
            raise _Unusable("no title")
        if len(title) > LONGEST_TITLE:
            raise _Unusable(f"title of {len(title)} characters, at most {LONGEST_TITLE}")
        if not has_id and not normal_title(title):
            raise _Unusable(f"no title: {title[:60]!r} has neither letters nor digits, nor an id")
        return title

    def _abstract(self) -> str:
        abstract = decode_accents(clean(self.abstract), prose=True)
        if not SHORTEST_ABSTRACT <= len(abstract) <= LONGEST_ABSTRACT:
            raise _Unusable(
                f"abstract of {len(abstract)} characters, must have {SHORTEST_ABSTRACT} to "
                f"{LONGEST_ABSTRACT}"
            )
        return abstract

    def _day(self) -> tuple[date, Certainty]:
        if self.announced.strip():
            return _date(self.announced), Certainty.SAID
        if submitted := _moment("submitted", self.submitted):
            return announcement_day(submitted), Certainty.RECKONED
        if self.about.strip():
            return _date(self.about), Certainty.ABOUT
        raise _Unusable("date unparsable: there is none")

    def _further(self) -> tuple[str, ...]:
        links = (link for link in (*self.identifiers, *self.links) if not arxiv_id(link))
        return tuple(dict.fromkeys(link for link in links if _ADDRESS.fullmatch(link)))


def split_names(text: str) -> list[str]:
    """The names of ``Ada Lovelace, Alan Turing (Cambridge) and Grace Hopper``."""
    text = clean(text)
    for _ in range(3):  # affiliations within affiliations
        text = _AFFILIATION.sub("", text)
    return _AUTHORS.split(text)


def _names(names: list[str]) -> tuple[str, ...]:
    return _listed([decode_accents(clean(name)) for name in names])


def _listed(texts: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(clean, texts))))


def _date(text: str) -> date:
    if (day := parse_date(clean(text))) is None:
        raise _Unusable(f"date unparsable: {clean(text)[:60]!r}")
    return day


def _moment(name: str, text: str) -> datetime | None:
    if not text.strip():
        return None
    if (moment := parse_moment(clean(text))) is None:
        raise _Unusable(f"date unparsable: {name} {clean(text)[:60]!r}")
    return moment
