"""Cleaning of foreign text, so that whatever was stored can be shown, searched and sent on."""

from __future__ import annotations

import re
import unicodedata

_UNWANTED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters, not allowed in XML 1.0
    "\ufffe\uffff\ufeff\u00ad\ue000\ue001"  # not characters, byte order mark, soft hyphen, marks
    "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069]"  # invisible; can turn what is read around
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_HAN = (
    "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3038-\u303b\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U000323af"
)
_EACH_HAN = re.compile(f"([{_HAN}])")
_BETWEEN_HAN = re.compile(f"([{_HAN}][\ue000\ue001]*) +(?=[\ue000\ue001]*[{_HAN}])")  # or marks
_LETTER = re.compile(r"[^\W\d_]")

_ACCENTS = {
    '"': "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", "=": "\u0304",
    ".": "\u0307", "c": "\u0327", "v": "\u030c", "u": "\u0306", "H": "\u030b", "k": "\u0328",
    "r": "\u030a", "d": "\u0323", "b": "\u0331",
}  # fmt: skip
_LETTERS = {
    "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ",
    "aa": "å", "AA": "Å", "i": "ı", "j": "ȷ", "dh": "ð", "th": "þ",
}  # fmt: skip
_COMMAND = r"""\\(?:([%s])|([cvuHkrdb])(?=[\s{\\]))\s*(?:\{\s*\\?([A-Za-z])\s*\}|\\?([A-Za-z]))"""
_SPECIAL = re.compile(
    rf"\{{\\({'|'.join(_LETTERS)})\s*\}}|\\({'|'.join(_LETTERS)})(?![A-Za-z])(?:\{{\}}|\s)?"
)


def _accented(signs: str) -> re.Pattern[str]:
    command = _COMMAND % signs
    return re.compile(rf"\{{\s*{command}\s*\}}|{command}")


_IN_NAMES = _accented("\"'`^~=.")
_IN_PROSE = _accented("\"'`^")  # there "\~" stands in addresses, "\=" and "\." in tables and code
_STYLED = re.compile(r"\\(?:emph|text(?:bf|it|md|normal|rm|sc|sf|sl|tt|up))\s*\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([&%$#_{}])")
_BRACE = re.compile(r"(?<!\\)[{}]")


def clean(text: str) -> str:
    """One line of printable text: white space collapsed, invisible characters dropped.

    Half characters, which JSON can smuggle in and UTF-8 cannot say, become U+FFFD.
    """
    return " ".join(_SURROGATE.sub("\ufffd", _UNWANTED.sub("", text)).split())


def decode_accents(text: str, *, prose: bool = False) -> str:
    r"""LaTeX's accented letters as letters: ``G\"odel`` and ``{\v S}`` become Gödel and Š.

    Args:
        text: A name or title.
        prose: Leave alone what means something else in an abstract.
    """
    if "\\" not in text:
        return text

    def compose(match: re.Match[str]) -> str:
        sign, base = (next(filter(None, match.groups()[at::4]), "") for at in (0, 2))
        sign = sign or next(filter(None, match.groups()[1::4]), "")
        base = base or next(filter(None, match.groups()[3::4]), "")
        letter = unicodedata.normalize("NFC", base + _ACCENTS[sign])
        return letter if len(letter) == 1 else match.group()

    text = (_IN_PROSE if prose else _IN_NAMES).sub(compose, text)
    if prose:
        return text
    return _SPECIAL.sub(lambda match: _LETTERS[match.group(1) or match.group(2)], text)


def split_han(text: str) -> str:
    """Spaces around every Han and kana character, so that each is a word of the search index."""
    return _EACH_HAN.sub(r" \1 ", text)


def join_han(text: str) -> str:
    """Undo `split_han` where nobody would have written a space."""
    return _BETWEEN_HAN.sub(r"\1", text)


def language(text: str) -> str:
    """Chinese, "zh", if at least three letters in ten are Han characters, else "en"."""
    letters = len(_LETTER.findall(text))
    return "zh" if letters and len(_EACH_HAN.findall(text)) >= 0.3 * letters else "en"


def plain_latex(text: str, *, keep_braces: bool = True) -> str:
    r"""Prose without LaTeX's styles and escapes: ``\emph{10\%}`` becomes 10%.

    Args:
        text: Without math.
        keep_braces: False drops those that only keep capitals in a bibliography.
    """
    text = _STYLED.sub(r"\1", text)
    return _ESCAPED.sub(r"\1", text if keep_braces else _BRACE.sub("", text))
