"""A page saved from a browser, as lines of text with the addresses behind them.

The standard library's ``html.parser`` was tried: Python 3.11's takes 131 s for 150 kB of ``<a <a``.
This scanner looks at every character once. It builds no tree and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

from tidemill.feed.formats.digest_page import Line

_OPENS = re.compile(r"<(?=[A-Za-z/!?])")
_QUOTE_OR_END = re.compile(r"(?<==)\s*[\"']|>")
_NAME = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
_ATTRIBUTE = re.compile(
    r"""(?<![A-Za-z-])([A-Za-z-]{1,40})=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
)
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|d[dlt]|details|dialog|div|fieldset|fig(caption|ure)|"
    "footer|form|h[1-6r]|header|html|li|main|nav|[ou]l|p|pre|section|summary|table|t(body|[dhr]|"
    "foot|head)"
)
_VOID = re.compile("area|base|br|col|embed|hr|i(mg|nput)|link|meta|source|track|wbr")
_RAW = frozenset(("script", "style", "textarea", "title"))
_UNSEEN = frozenset(("noscript", "svg", "template", "annotation-xml"))


@dataclass(frozen=True, slots=True)
class _Tag:
    name: str
    closes: bool
    is_empty: bool
    attributes: dict[str, str]


def html_lines(html: str) -> list[Line]:
    """The visible text, a line for each block or ``<br>``, blocks with blank lines between.

    Rendered KaTeX turns back into its LaTeX; what only screen readers or no one sees is left out.
    """
    reader = _Reader()
    for number, token in _tokens(html):
        if isinstance(token, _Tag):
            reader.tag(token)
        else:
            reader.text(unescape(token), number)
    reader.end_line()
    return reader.lines


@dataclass(slots=True)
class _Reader:
    lines: list[Line] = field(default_factory=list[Line])
    parts: list[str] = field(default_factory=list[str])
    links: list[str] = field(default_factory=list[str])
    number: int = 1
    link: str = ""
    unseen: str = ""  # the element whose content is passed over, and how deep inside of itself
    depth: int = 0
    math_at: int = 0
    tex_at: int | None = None
    tex: str = ""

    def text(self, text: str, number: int) -> None:
        if self.unseen:
            return
        if text.strip():
            if not any(part.strip() for part in self.parts[:1]):
                self.number = number + text[: len(text) - len(text.lstrip())].count("\n")
            self.links += [self.link] if self.link else []
        self.parts.append(text)

    def tag(self, tag: _Tag) -> None:
        if self.unseen:
            if tag.name == self.unseen and not tag.is_empty:
                self.depth += -1 if tag.closes else 1
            self.unseen = self.unseen if self.depth else ""
        elif _BLOCK.fullmatch(tag.name):
            self.end_line()
            if self.lines and self.lines[-1].text:
                self.lines.append(Line(self.number, ""))
        elif tag.name == "br":
            self.end_line()
        elif tag.name == "a":
            self.link = "" if tag.closes else unescape(tag.attributes.get("href", "")).strip()
        elif tag.name in ("math", "annotation"):
            self._math(tag)
        if not (self.unseen or tag.closes or tag.is_empty) and (
            tag.name in _UNSEEN or tag.attributes.get("aria-hidden", "").lower() == "true"
        ):
            self.unseen, self.depth = tag.name, 1

    def _math(self, tag: _Tag) -> None:
        if tag.name == "annotation":
            if not tag.closes:
                is_tex = tag.attributes.get("encoding") == "application/x-tex"
                self.tex_at = len(self.parts) if is_tex else None
            elif self.tex_at is not None:
                self.tex = "".join(self.parts[self.tex_at :]).strip()
        elif not tag.closes:
            self.math_at, self.tex_at, self.tex = len(self.parts), None, ""
        elif self.tex:
            self.parts[self.math_at :] = [rf"\({self.tex}\)"]

    def end_line(self) -> None:
        if text := " ".join("".join(self.parts).split()):
            self.lines.append(Line(self.number, text, tuple(dict.fromkeys(self.links))))
            self.links = []
        self.parts = []


def _tokens(html: str) -> Iterator[tuple[int, _Tag | str]]:
    """Tags and the text between them, each with its line; an unclosed tag or comment ends all."""
    at, number = 0, 1
    while True:
        found = _OPENS.search(html, at)
        start = found.start() if found else len(html)
        yield number, html[at:start]
        if found is None:
            return
        number += html.count("\n", at, start)
        tag = None
        if html.startswith("<!--", start):
            at = _after(html, "-->", start + 4)
        elif html[start + 1] in "!?" or not (name := _NAME.match(html, start)):
            at = _after(html, ">", start)
        else:
            at = _end_of_tag(html, name.end())
            tag = _tag(name, html[name.end() : at])
            yield number, tag
        number += html.count("\n", start, at)
        if tag and tag.name in _RAW and not tag.closes:
            end = re.compile(rf"</{tag.name}", re.IGNORECASE).search(html, at)
            raw_end = end.start() if end else len(html)
            number += html.count("\n", at, raw_end)
            at = raw_end


def _after(html: str, mark: str, start: int) -> int:
    end = html.find(mark, start)
    return len(html) if end < 0 else end + len(mark)


def _end_of_tag(html: str, at: int) -> int:
    while found := _QUOTE_OR_END.search(html, at):
        if found.group() == ">":
            return found.end()
        at = _after(html, found.group()[-1], found.end())
    return len(html)


def _tag(name: re.Match[str], rest: str) -> _Tag:
    attributes = {
        key.lower(): double or single or bare
        for key, double, single, bare in _ATTRIBUTE.findall(rest)
    }
    element = name[2].lower()
    is_empty = rest.endswith("/>") or _VOID.fullmatch(element) is not None
    return _Tag(element, bool(name[1]), is_empty, attributes)
