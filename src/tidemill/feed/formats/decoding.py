"""From bytes to text: the file's own word on its character set first, then UTF-8."""

from __future__ import annotations

import codecs
import re

LARGEST_FILE_BYTES = 50_000_000

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(
    rb"""<\?xml[^>]{0,80}?encoding\s*=\s*["']([\w.:-]{1,40})|"""
    rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""",
    re.IGNORECASE,
)
# Others are rare in papers, and some ("unicode_escape", "idna") are no character sets at all.
_KNOWN = re.compile(
    r"ascii|utf-(8|16.*)|iso8859-\d+|cp125\d|gb2312|gbk|gb18030|big5|shift_jis|euc_(jp|kr)|koi8-r"
)


class Unreadable(Exception):
    """The whole file cannot be used.

    Args:
        line: Where that shows.
        reason: Why, for the user.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


def decode(data: bytes) -> str:
    r"""The text of ``data``, its line ends as ``\n``.

    Raises:
        Unreadable: It is too large, or neither in the character set that it declares nor UTF-8.
    """
    if len(data) > LARGEST_FILE_BYTES:
        raise Unreadable(
            1,
            f"has {len(data):,} bytes, at most {LARGEST_FILE_BYTES:,} are read at once; split it "
            "(JSON lines: `split -C 40M`)",
        )
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _lines(_strictly(data[len(mark) :], encoding))
    declared = _declared(data)
    if declared:
        try:
            return _lines(data.decode(declared))
        except UnicodeDecodeError:
            pass  # it would not be the first file to lie about that
    return _lines(_strictly(data, "utf-8"))


def _declared(data: bytes) -> str | None:
    found = _DECLARED.search(data[:2048])
    if not found:
        return None
    try:
        name = codecs.lookup((found[1] or found[2]).decode("ascii")).name
    except (LookupError, UnicodeDecodeError):
        return None
    return name if _KNOWN.fullmatch(name) else None


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(
            line, f"is not {encoding.upper()} (byte 0x{data[error.start]:02x})"
        ) from error


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
