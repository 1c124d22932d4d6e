"""Citations out: BibTeX and RIS, whatever an entry's texts hold."""

from __future__ import annotations

import re
import unicodedata

from tidemill.feed.entry import Entry
from tidemill.feed.identity import DOI
from tidemill.feed.spans import Address, Math, Span, spans
from tidemill.feed.text import plain_latex

_TEX_SPECIAL = {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    # BibTeX counts the brace of "\{" as well
    "{": r"\textbraceleft{}", "}": r"\textbraceright{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}  # fmt: skip
_KEY = re.compile(r"[A-Za-z0-9]+")
_SUBJECT = re.compile(r"[A-Za-z-]{1,20}(?:\.[A-Za-z-]{1,20})?")
_COMMAND = re.compile(r"\\([A-Za-z@]+)")
_ACTS = re.compile(
    r".*@.*|(?:verbatim|lst)?input(?:listing)?|include(?:graphics)?|(?:Input)?IfFileExists|read|"
    r"write\w*|immediate|(?:open|close)(?:in|out)|new(?:read|write|command|environment)|csname|"
    r"(?:cat|lc|uc|sf|math|del)code|special|expandafter|[egx]?def|(?:future|global)?let|global|"
    r"(?:re|re?new|provide)?command|usepackage|RequirePackage|every\w+|loop|href|url|lua\w*|"
    r"directlua|pdf\w+|shipout|output|(?:err)?message|typeout|jobname|scantokens|filecontents"
)
"""Commands of TeX that do something besides setting a formula."""
_ASIDE = re.compile(r"\band\b|,", re.IGNORECASE)
"""What BibTeX takes for the end of a name, or of its family name."""


def bibtex(entry: Entry) -> str:
    """The entry as BibTeX; no text of it can end its field or be a command."""
    fields = {
        "title": f"{{{_tex(entry.title)}}}",
        "author": " and ".join(map(_name, entry.authors)),
        "year": f"{entry.announced:%Y}",
        "month": entry.announced.strftime("%m").lstrip("0"),
        "day": entry.announced.strftime("%d").lstrip("0"),
        "eprint": entry.arxiv_id or "",
        "archivePrefix": "arXiv" if entry.arxiv_id else "",
        "primaryClass": _subject(entry) if entry.arxiv_id else "",
        "journal": _tex(entry.journal_ref or ""),
        "doi": entry.doi if entry.doi and DOI.fullmatch(entry.doi) else "",
        "url": _verbatim(entry.links[0].url) if entry.links else "",
        "note": _tex(entry.comment or ""),
        "abstract": _tex(entry.abstract),
    }
    kind = "article" if entry.journal_ref else "misc"
    lines = [f"  {name} = {{{value}}},\n" for name, value in fields.items() if value]
    return f"@{kind}{{{_cite_key(entry)},\n{''.join(lines)}}}\n"


def ris(entry: Entry) -> str:
    """The entry as RIS, every value on its one line."""
    lines = [
        ("TY", "JOUR" if entry.journal_ref else "UNPB"),
        ("TI", entry.title),
        *(("AU", _family_first(name)) for name in entry.authors),
        ("AB", entry.abstract),
        ("PY", f"{entry.announced:%Y}"),
        ("DA", f"{entry.announced:%Y/%m/%d}"),
        ("T2", entry.journal_ref or ""),
        ("DO", entry.doi or ""),
        ("AN", f"arXiv:{entry.arxiv_id}" if entry.arxiv_id else ""),
        *(("UR", link.url) for link in entry.links),
        *(("KW", subject) for subject in entry.subjects),
        ("N1", entry.comment or ""),
    ]
    said = [(tag, " ".join(value.split())) for tag, value in lines]
    return "".join(f"{tag}  - {value}\r\n" for tag, value in said if value) + "ER  - \r\n"


def _subject(entry: Entry) -> str:
    first = entry.subjects[0] if entry.subjects else ""
    return first if _SUBJECT.fullmatch(first) else ""


def _verbatim(address: str) -> str:
    """An address without what ends a field; percent signs mean the same in it."""
    return re.sub(r"[\\{}\"\s]", lambda sign: f"%{ord(sign[0]):02X}", address)


def _name(name: str) -> str:
    """A name in braces where BibTeX would take it apart: ``{Tides and Sons, Inc.}``."""
    text = _tex(name)
    return f"{{{text}}}" if _ASIDE.search(text) else text


def _tex(text: str) -> str:
    return " ".join("".join(map(_tex_part, spans(text))).split())


def _tex_part(part: Span) -> str:
    if isinstance(part, Math) and _is_formula(part.tex):
        return f"${part.tex}$"
    if isinstance(part, Address):
        return rf"\url{{{_verbatim(part.url)}}}"
    text = part.tex if isinstance(part, Math) else plain_latex(part.text)
    return "".join(_TEX_SPECIAL.get(sign, sign) for sign in text)


def _is_formula(tex: str) -> bool:
    """Whether LaTeX can stand as it is: closed in itself, and nothing but a formula."""
    without_escaped = re.sub(r"\\.", "", tex, flags=re.DOTALL)
    is_closed = _is_balanced(tex) and _is_balanced(without_escaped) and not tex.endswith("\\")
    acts = any(_ACTS.fullmatch(name) for name in _COMMAND.findall(tex))
    return is_closed and not acts and not re.search(r"[$%#]|\^\^", without_escaped)


def _is_balanced(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            return False
    return depth == 0


def _family_first(name: str) -> str:
    given, _, last = name.rpartition(" ")
    return f"{last}, {given}" if given else name


def _cite_key(entry: Entry) -> str:
    """``lovelace2026engine``: ASCII, so that every BibTeX can read it."""
    last = entry.authors[0].rpartition(" ")[2] if entry.authors else ""
    words = [
        "".join(_KEY.findall(unicodedata.normalize("NFKD", word))).lower()
        for word in (last, *entry.title.split())
    ]
    title = next((word for word in words[1:] if len(word) > 3), "")
    return f"{words[0] or 'paper'}{entry.announced:%Y}{title}"
