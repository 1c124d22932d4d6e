"""Which paper a text is: arXiv ids in all their spellings, titles where there is no id."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from tidemill.bench.settings import dumps

_ID = re.compile(
    r"(?P<new>\d\d(?:0[1-9]|1[0-2])\.\d{4,5})|(?P<archive>[a-z-]{2,9})(?:\.[A-Z]{2})?/(?P<old>\d{7})"
)
_PREFIX = r"(?:arxiv:\s*|oai:arxiv\.org:|(?:https?://)?(?:dx\.)?(?:doi\.org/)?10\.48550/arxiv\.)"
_ADDRESS = (
    r"(?:https?://)?(?:[a-z]+\.)*arxiv\.org/(?:abs|pdf|html|ps|format|e-print|src)/(?:arxiv:)?"
)
_SPELLINGS = re.compile(
    rf"(?:(?i:{_PREFIX})|(?i:{_ADDRESS}))?(?:{_ID.pattern})(?:v(?P<version>\d{{1,4}}))?"
    r"(?:\.pdf)?/?(?:[?#]\S*)?"
)
_CONTENT = (
    "title", "abstract", "authors", "subjects", "doi", "journal_ref", "comment", "license", "links",
)  # fmt: skip
DOI = re.compile(r"10\.\d{4,9}/[^\s\\{}\"`^|\x00-\x20\x7f]{1,300}")
"""A DOI; registrants may use more signs, but none does use those that a bibliography trips over."""
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")


def arxiv_id(text: str) -> tuple[str, int | None] | None:
    """The arXiv id that ``text`` is, without its version, and the version; None if it is none.

    ``2606.24417v2``, ``arXiv:2606.24417``, ``http://arxiv.org/pdf/2606.24417v2.pdf``,
    ``math.GT/0309136`` and arXiv's DOIs are read alike.
    """
    if not (found := _SPELLINGS.fullmatch(text.strip())):
        return None
    plain = found["new"] or f"{found['archive']}/{found['old']}"
    return plain, int(found["version"]) if found["version"] else None


def normal_title(title: str) -> str:
    """Letters and digits of a title, so that spelling, case and LaTeX do not matter."""
    text = _COMMAND.sub("", unicodedata.normalize("NFKC", title))
    folded = unicodedata.normalize("NFKC", text.casefold())
    return "".join(filter(str.isalnum, folded))


def title_key(title: str) -> str:
    """SHA-1 of the normal title in hex: equal for equal papers; 40 characters."""
    return hashlib.sha1(normal_title(title).encode(), usedforsecurity=False).hexdigest()


def id_of(number: str | None, title: str) -> str:
    """Identity of a paper: its arXiv id without version, else its normal title."""
    return f"arxiv:{number}" if number else f"title:{title_key(title)}"


def slug_of(paper_id: str) -> str:
    """The id in the form that stands in a URL: ``2606.24417``, ``math_0309136``, ``t-1f0c…``."""
    kind, _, rest = paper_id.partition(":")
    return rest.replace("/", "_") if kind == "arxiv" else f"t-{rest}"


def text_hash(title: str, abstract: str) -> str:
    """SHA-256 in hex of a text."""
    return hashlib.sha256(f"{title}\n{abstract}".encode()).hexdigest()


def content_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 in hex of what a reader sees of a paper."""
    return hashlib.sha256(dumps([row[name] for name in _CONTENT]).encode()).hexdigest()
