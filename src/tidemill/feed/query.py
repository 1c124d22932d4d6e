"""The language of the search box.

    KV cache                 both words, in any form: "quantized" finds quantization
    "memory bandwidth"       the words side by side, as every run of Han characters is: 系统进展
    -training                not this word; also before a phrase or any of the following
    cat:systems cat:cs.LG    on that shelf of the digest, or in that category of arXiv
    by:"Ada Lovelace"        by that author
    after:2026-06-01         announced on that day or later; before:2026-07 earlier
    has:system               an installed system builds it
    claim:holds              a claim of that system was measured here and holds

Nothing is an error: what means nothing is told in `Query.ignored` and left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from tidemill.feed.calendar import parse_date
from tidemill.feed.text import clean, split_han

LONGEST_QUERY = 1000
MOST_TERMS = 32

_FIELDS = ("cat", "by", "after", "before", "has", "claim")
_TERM = re.compile(
    rf'(?P<minus>-?)(?:(?P<field>{"|".join(_FIELDS)}):)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))',
    re.IGNORECASE,
)
_QUOTES = str.maketrans("“”„«»＂：－", '"""""":-')


@dataclass(frozen=True, slots=True)
class Term:
    """One condition.

    Args:
        field: "" for words anywhere, else one of cat, by, after, before, has, claim.
        value: What to look for, not empty.
        is_negated: Whether it must not be so.
    """

    field: str
    value: str
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """What was understood of a query, and what was not."""

    terms: tuple[Term, ...]
    ignored: tuple[str, ...] = ()

    def match(self) -> tuple[str, str]:
        """Expressions of FTS5: what a paper must match, and what not; "" if there is none.

        Every word of the user stands in quotes, so nothing that is typed is ever an operator.
        """
        wanted = " AND ".join(_phrase(term) for term in self._words(is_negated=False))
        unwanted = " OR ".join(_phrase(term) for term in self._words(is_negated=True))
        return wanted, unwanted

    def filters(self) -> tuple[Term, ...]:
        """The conditions that the full-text index does not know."""
        return tuple(term for term in self.terms if term.field not in ("", "by"))

    def _words(self, *, is_negated: bool) -> list[Term]:
        return [
            term
            for term in self.terms
            if term.field in ("", "by") and term.is_negated == is_negated
        ]


def parse_query(text: str) -> Query:
    """Read what a user typed, whatever it is."""
    text = clean(text.translate(_QUOTES))
    terms: list[Term] = []
    ignored: list[str] = [text[LONGEST_QUERY:]] if len(text) > LONGEST_QUERY else []
    for found in _TERM.finditer(text[:LONGEST_QUERY]):
        field = (found["field"] or "").lower()
        value = clean(found["phrase"] if found["word"] is None else found["word"])
        term = Term(field, value, bool(found["minus"]))
        if len(terms) < MOST_TERMS and _is_meaningful(term):
            terms.append(term)
        else:
            ignored.append(found[0])
    return Query(tuple(terms), tuple(ignored))


def day_of(term: Term) -> date:
    """The day of an ``after:`` or ``before:`` that was found meaningful."""
    return parse_date(_whole(term.value)) or date.max


def _is_meaningful(term: Term) -> bool:
    if term.field in ("after", "before"):
        return parse_date(_whole(term.value)) is not None
    if term.field == "has":
        return term.value.lower() == "system"
    is_begun = not term.field and term.value.lower() in {f"{field}:" for field in _FIELDS}
    return not is_begun and any(map(str.isalnum, term.value))


def _whole(day: str) -> str:
    return f"{day}-01" if re.fullmatch(r"\d{4}", day) else day


def _phrase(term: Term) -> str:
    quoted = '"' + split_han(term.value).replace('"', " ") + '"'
    return f"authors : {quoted}" if term.field == "by" else quoted
