r"""Foreign text cut into prose, math and addresses, before anything is escaped.

Math stands in ``\(…\)``, ``\[…\]``, ``$$…$$`` and, with care for prices, in ``$…$``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_MATH = 2000
LONGEST_DOLLAR_MATH = 200
_LONGEST_ADDRESS = 2000

_GROUP = r"\s{0,4}\{((?:[^{}]|\{[^{}]{0,200}\}){0,300})\}"
_SPAN = re.compile(
    rf"\\\((?P<inline>.{{1,{LONGEST_MATH}}}?)\\\)"
    rf"|\\\[(?P<display>.{{1,{LONGEST_MATH}}}?)\\\]"
    rf"|\$\$(?P<dollars>[^$]{{1,{LONGEST_MATH}}})\$\$"
    rf"|(?<![\\$])\$(?P<dollar>(?:[^$\\]|\\.){{1,{LONGEST_DOLLAR_MATH}}})\$(?!\$)"
    r"|(?P<href>\\(?:href|url)(?![A-Za-z]))"
    rf"|(?P<bare>https?://(?:[!-~](?<![\"<>\\^`{{|}}])|\\[_~%\#&]){{1,{_LONGEST_ADDRESS}}})",
    re.DOTALL | re.IGNORECASE,
)
_HREF = re.compile(rf"\\href{_GROUP}{_GROUP}")
_URL = re.compile(rf"\\url{_GROUP}")
_LINK_IN_MATH = re.compile(r"\s*(\\(?:href|url)\s*\{.*\})\s*", re.DOTALL)
_ADDRESS = re.compile(r"https?://[a-z0-9\[][!-~]*", re.IGNORECASE)
_ESCAPE_IN_ADDRESS = re.compile(r"\\([_~%#&])")
_MACRO = re.compile(r"\\(?:text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+|\\.", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{2}")


@dataclass(frozen=True, slots=True)
class Prose:
    """Text to be read."""

    text: str


@dataclass(frozen=True, slots=True)
class Math:
    """LaTeX of a formula, without its delimiters."""

    tex: str
    display: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """An http or https address and what to show for it."""

    url: str
    label: str


Span = Prose | Math | Address


def spans(text: str) -> Iterator[Span]:
    """The parts of a text in order; their number is at most linear in its length."""
    done = at = 0
    while found := _SPAN.search(text, at):
        span, end = _span(text, found)
        if span is None:
            at = found.start() + 1
            continue
        if found.start() > done:
            yield Prose(text[done : found.start()])
        yield span
        done = at = end
    if done < len(text):
        yield Prose(text[done:])


def _span(text: str, found: re.Match[str]) -> tuple[Span | None, int]:
    end = found.end()
    if found["href"]:
        return _command(text, found.start())
    if found["bare"]:
        url = _without_tail(found["bare"])
        return _address(url, url), found.start() + len(url)
    if found["dollar"]:
        is_math = _is_math(found["dollar"], text[end : end + 1])
        return (Math(found["dollar"]) if is_math else None), end
    if tex := found["inline"]:
        if link := _LINK_IN_MATH.fullmatch(tex):
            span, length = _command(link[1], 0)
            if span and length == len(link[1]):
                return span, end
        return Math(tex), end
    return Math(found["display"] or found["dollars"], display=True), end


def _command(text: str, at: int) -> tuple[Span | None, int]:
    r"""The link of ``\href{url}{label}`` or ``\url{url}``; its label alone if it is no http."""
    if found := _HREF.match(text, at):
        return _address(found[1], found[2]) or Prose(found[2]), found.end()
    if found := _URL.match(text, at):
        return _address(found[1], found[1]) or Prose(found[1]), found.end()
    return None, at


def _address(url: str, label: str) -> Address | None:
    url = _ESCAPE_IN_ADDRESS.sub(r"\1", url.strip())
    if len(url) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(url):
        return None
    return Address(url, _ESCAPE_IN_ADDRESS.sub(r"\1", label).strip() or url)


def _without_tail(url: str) -> str:
    """Cut what belongs to the sentence: ``.,;:!?'`` and brackets opened before the address."""
    while url:
        last = url[-1]
        opener = {")": "(", "]": "["}.get(last)
        is_tail = last in ".,;:!?'" or (opener and url.count(last) > url.count(opener))
        if not is_tail:
            break
        url = url[:-1]
    return url


def _is_math(tex: str, following: str) -> bool:
    """Whether ``$…$`` is a formula; ``$5 and $10`` are prices, ``$HOME/bin:$PATH`` is a shell's."""
    if tex[0].isspace() or tex[-1].isspace():
        return False
    has_words = _WORD.search(_MACRO.sub(" ", tex)) is not None
    is_amount = tex.lstrip("-+.,~<>")[:1].isdigit()
    if is_amount:
        return not (has_words or following.isdigit())
    return not (has_words and following.isalnum())
