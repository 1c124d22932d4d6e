"""Text as its tokens come: no half characters, and nothing shown that a stop string takes back.

A token may end in the middle of a character, and a stop string may begin in one token and end in
another. Both are held back until they are decided; what was given out is never withdrawn.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tidemill.errors import ConfigError
from tidemill.models.tokenizer import Tokenizer

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 4096


class Detokenizer:
    """One generated text; for one thread.

    What ``add`` and ``finish`` give, put together, is ``tokenizer.decode(ids)`` up to the first
    stop string, whatever the tokens. Cost: O(bytes of the token) for each.
    """

    stopped_by: str | None = None
    """The stop string that ended the text; later tokens add nothing."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        continues: bool = False,
    ) -> None:
        """Begin a text.

        Args:
            tokenizer: Whose ids will come.
            stop: Strings that end the text; none of them is part of it.
            skip_special: Leave control tokens out.
            continues: The text goes on from a prompt, so a first space belongs to it, even where
                the tokenizer puts one before every text.

        Raises:
            ConfigError: ``stop`` holds the empty string, or too many, or too long ones.
        """
        check_stop(stop)
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special else frozenset[int]()
        self._utf8: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.strips_first_space and not continues
        self._search = _StopSearch(tuple(stop))

    def add(self, token_id: int) -> str:
        """The text that this token settles; often empty.

        Raises:
            InputError: the id is outside the vocabulary.
        """
        spelled = self._tokenizer.token_bytes(token_id)
        if token_id in self._skip:
            return ""
        return self._settle(self._utf8.decode(spelled), last=False)

    def finish(self) -> str:
        """What was held back; the text is complete."""
        return self._settle(self._utf8.decode(b"", True), last=True)

    def _settle(self, text: str, *, last: bool) -> str:
        if self.stopped_by is not None:
            return ""
        if self._strip and text:
            text = text.removeprefix(" ")
            self._strip = False
        settled = self._search.feed(text, last=last)
        self.stopped_by = self._search.found
        return settled


class _StopSearch:
    """Finds the first of some strings to be complete in text that comes in parts.

    Of two that end at one place it is the longer. By where they end, not where they begin: else it
    would depend on how the text was cut.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held: str = ""
        self.found: str | None = None

    def feed(self, text: str, *, last: bool) -> str:
        """The text that surely lies before any stop string."""
        if not self._stop:
            return text
        text = self._held + text
        hits = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if hits:
            end, at = min(hits)
            self.found = text[at:end]
            self._held = ""
            return text[:at]
        keep = 0 if last else max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that ``stop`` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def check_stop(stop: Sequence[str]) -> None:
    """Refuse stop strings that cannot be searched for.

    Raises:
        ConfigError: one is empty or too long, or there are too many.
    """
    if isinstance(stop, str):
        raise ConfigError.of("stop", stop, "a list of strings", f"write [{stop!r}]")
    if len(stop) > MAX_STOPS:
        raise ConfigError.of("stop", f"{len(stop)} strings", f"at most {MAX_STOPS} strings")
    for text in stop:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARACTERS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError.of("stop", text, f"strings of 1 to {MAX_STOP_CHARACTERS} characters")
