"""Tokens that are found in text before anything else is done to it: markup and control tokens.

Unlike all others they are no product of merging: where such a token's text stands, it is that
token. User-defined ones (``<tool_call>``, runs of blanks) always are; control tokens
(``<|im_start|>``) only where the text is trusted, or a user could write the markup of a chat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class AddedTokens:
    """Finds the tokens of ``ids`` (text to id) in text, the longest where several begin."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {text: token_id for text, token_id in ids.items() if text}
        lengths: dict[str, set[int]] = {}
        for text in self._ids:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        firsts = "".join(re.escape(first) for first in sorted({text[0] for text in self._ids}))
        self._candidate = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def __len__(self) -> int:
        return len(self._ids)

    def partition(self, text: str) -> Iterator[str | int]:
        """The text between added tokens, never empty, and the ids of those, in order.

        Cost: O(length) while few of the characters that tokens begin with are in the text.
        """
        begin = at = 0
        while match := self._candidate.search(text, at):
            at = match.start()
            length = self._length_at(text, at)
            if not length:
                at += 1
                continue
            if at > begin:
                yield text[begin:at]
            yield self._ids[text[at : at + length]]
            begin = at = at + length
        if begin < len(text):
            yield text[begin:]

    def _length_at(self, text: str, at: int) -> int:
        for start in (text[at : at + 2], text[at]):
            for length in self._lengths.get(start, ()):
                if text[at : at + length] in self._ids:
                    return length
        return 0
