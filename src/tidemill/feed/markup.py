"""Foreign text as safe HTML: prose escaped, math as MathML, addresses as links.

Whatever goes in, what comes out holds no element and no attribute but those listed here.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET

import nh3
from latex2mathml.converter import convert

from tidemill.feed.spans import Address, Math, Prose, Span, spans
from tidemill.feed.text import join_han, plain_latex

MARK, UNMARK = "\ue000", "\ue001"
"""What stands around a hit in a snippet until it is escaped; from Unicode's private area."""

_TAGS = {
    "a", "code", "mark", "math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover",
    "mpadded", "mphantom", "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle",
    "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
_ATTRIBUTES = {
    "a": {"href"},
    "math": {"display"},
    "mo": {
        "accent", "fence", "form", "largeop", "lspace", "maxsize", "minsize", "movablelimits",
        "rspace", "separator", "stretchy", "symmetric",
    },
    "mi": {"mathvariant"},
    "mn": {"mathvariant"},
    "mtext": {"mathvariant"},
    "mstyle": {"displaystyle", "mathvariant", "scriptlevel"},
    "mspace": {"depth", "height", "linebreak", "width"},
    "mpadded": {"depth", "height", "lspace", "voffset", "width"},
    "mfrac": {"linethickness"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "munderover": {"accent", "accentunder"},
    "menclose": {"notation"},
    "mtable": {"columnalign", "columnspacing", "displaystyle", "rowspacing"},
    "mtd": {"columnalign", "columnspan", "rowspan"},
}  # fmt: skip
_REWRITTEN = {  # what latex2mathml does not know and arXiv's abstracts use
    r"\arg": r"\operatorname{arg}",
    r"\ensuremath": "",
    r"\nolimits": "",
    r"\num": "",
    r"\textsc": r"\text",
    r"\xspace": "",
}
_MACRO = re.compile(r"\\[A-Za-z]+")
_MARKS = re.compile(f"[{MARK}{UNMARK}]")
_IN_ADDRESS = re.compile(rf"https?://[!-~{MARK}{UNMARK}]+")
_CUT_DELIMITER = re.compile(r"\\[()\[\]]")


def render(text: str) -> str:
    """Safe HTML for one title or abstract."""
    parts = list(spans(text))
    if all(isinstance(part, Prose) for part in parts):
        return "".join(map(_html, parts))  # nothing to clean, and that is most texts
    return _cleaned("".join(map(_html, parts)))


def render_snippet(text: str) -> str:
    """Safe HTML for a piece cut out of an abstract, `MARK` and `UNMARK` around the hits."""
    text = _IN_ADDRESS.sub(lambda address: _MARKS.sub("", address.group()), join_han(text))
    parts = [_html(_without_marks(part)) for part in spans(text)]
    marked = "".join(parts).replace(MARK, "<mark>").replace(UNMARK, "</mark>")
    return _cleaned(marked)


def _without_marks(part: Span) -> Span:
    """Prose keeps its marks and loses a delimiter whose other half was cut off."""
    if isinstance(part, Prose):
        return Prose(_CUT_DELIMITER.sub("", part.text))
    return Math(_MARKS.sub("", part.tex), part.display) if isinstance(part, Math) else part


def mathml(tex: str, *, display: bool = False) -> str | None:
    """MathML for a formula, not yet cleaned; None if it cannot be converted entirely.

    Cost: 0.1 to 2 ms.
    """
    known = _MACRO.sub(lambda macro: _REWRITTEN.get(macro.group(), macro.group()), tex)
    try:
        found = convert(known, display="block" if display else "inline")
        names = {element.tag.rpartition("}")[2] for element in ET.fromstring(found).iter()}
    except Exception:  # its tree walk raises what comes: IndexError, KeyError, RecursionError, …
        return None
    if "\\" in found or not names <= _TAGS:  # an unknown macro is left as written, \text{<b>} too
        return None
    return found


def _html(part: Span) -> str:
    if isinstance(part, Prose):
        return html.escape(plain_latex(part.text), quote=False)
    if isinstance(part, Address):
        label = html.escape(plain_latex(part.label), quote=False)
        return f'<a href="{html.escape(part.url)}">{label}</a>'
    return mathml(part.tex, display=part.display) or f"<code>{html.escape(part.tex)}</code>"


def _cleaned(markup: str) -> str:
    return nh3.clean(
        markup,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https"},
        link_rel="nofollow noopener",
    )
