"""Texts that must follow a grammar, as a JSON schema: which tokens may come next.

The automata are those of ``llguidance``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, UnsupportedModel
from tidemill.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA_BYTES = 64 << 10
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: without blanks that a small model could go on writing for ever."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A tokenizer as llguidance wants it."""

    tokenizer: Tokenizer
    eos_token_id: int
    bos_token_id: int | None
    tokens: list[bytes]
    special_token_ids: list[int]

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special=False)


class Matcher:
    """One text on its way through a grammar; for one thread."""

    def __init__(self, native: LLMatcher) -> None:
        self._native = native

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of ``logits`` (vocab,), -inf where the grammar forbids the token."""
        bits = np.frombuffer(self._native.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool)
        masked = np.full_like(logits, -np.inf)
        masked[: len(allowed)][allowed] = logits[: len(allowed)][allowed]
        return masked

    def take(self, token: int) -> None:
        """Go on with ``token``.

        Raises:
            InputError: the grammar cannot go on, or has become too large.
        """
        if not self._native.consume_token(token):
            raise InputError(f"response_format — {self._native.get_error()}")


class Grammars:
    """Grammars over one vocabulary; threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Over the tokens of ``tokenizer``.

        Raises:
            UnsupportedModel: no token ends a text.
        """
        if not tokenizer.eos_ids:
            raise UnsupportedModel(
                "response_format — needs a token that ends a text, and this model has none."
            )
        self._tokenizer = tokenizer

    def json_schema(self, schema: Mapping[str, Any]) -> str:
        """The grammar of a JSON schema.

        Raises:
            InputError: it is no schema, too large, or uses what is not supported.
        """
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise InputError(
                f"response_format — the schema has {len(text)} bytes; at most {MAX_SCHEMA_BYTES}."
            )
        native = _llguidance()
        return self._checked(native.LLMatcher.grammar_from_json_schema(text, overrides=COMPACT))

    def lark(self, grammar: str) -> str:
        """A grammar in llguidance's Lark dialect.

        Raises:
            InputError: it is none.
        """
        return self._checked(_llguidance().LLMatcher.grammar_from_lark(grammar))

    def matcher(self, grammar: str) -> Matcher:
        """A new text that follows ``grammar``, which was checked before."""
        return Matcher(_llguidance().LLMatcher(self._native, grammar, log_level=0))

    def _checked(self, grammar: str) -> str:
        why = _llguidance().LLMatcher.validate_grammar(grammar, self._native)
        if why and not why.startswith("WARNING"):
            raise InputError(f"response_format — {why}")
        return grammar

    @functools.cached_property
    def _native(self) -> LLTokenizer:
        tokenizer = self._tokenizer
        tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        eos = min(tokenizer.eos_ids)
        special = sorted(tokenizer.special_ids | tokenizer.eos_ids)
        vocabulary = _Vocabulary(tokenizer, eos, tokenizer.bos_id, tokens, special)
        native = _llguidance()
        return native.LLTokenizer(native.TokenizerWrapper(vocabulary), n_vocab=len(tokens))


def _llguidance() -> Any:
    import llguidance

    return llguidance
