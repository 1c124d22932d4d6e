"""The vocabulary of a GGUF file, checked: what each token spells, its type, scores or merges.

Nothing in the metadata is believed: lengths must agree, ids must be tokens', scores must be
numbers, and what a merge makes must be a token. A file that breaks this is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, UnsupportedModel
from tidemill.models.string_array import StringArray

MAX_TOKENS = 1 << 22
MAX_MERGES = (1 << 24) - 1
_PREFIX = "tokenizer.ggml."
_SPACE = "\u2581"  # how SentencePiece writes a space


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``, numbered as in llama.cpp."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


MARKUP = frozenset((TokenType.UNKNOWN, TokenType.CONTROL))
"""Tokens that are no text: found only where markup is parsed, left out of decoded text."""


def _byte_alphabet() -> dict[int, str]:
    """Byte to the character that GPT-2 vocabularies write for it."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {
        byte: chr(256 + rank) for rank, byte in enumerate(others)
    }


BYTE_ALPHABET = _byte_alphabet()
_UNSPELLABLE = "\U0010ffff"
_TO_LATIN1 = {byte: _UNSPELLABLE for byte in range(256)} | {
    ord(character): chr(byte) for byte, character in BYTE_ALPHABET.items()
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of one file. Ids index all sequences."""

    kind: str
    """``gpt2``: byte-level BPE with merges. ``llama``: SentencePiece with scores."""
    texts: Sequence[str]
    """As the file writes them."""
    types: NDArray[np.int32]
    metadata: Mapping[str, object]

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Vocabulary:
        """Read and check tokens and types.

        Raises:
            UnsupportedModel: the file's tokenizer is of another kind, or absent.
            CorruptFile: the metadata contradict themselves.
        """
        kind = metadata.get(f"{_PREFIX}model")
        if kind not in ("gpt2", "llama"):
            raise UnsupportedModel(
                f"tokenizer.ggml.model={kind!r:.60} — cannot be used; known are gpt2 "
                "(byte-level BPE) and llama (SentencePiece); convert the model with a current "
                "llama.cpp."
            )
        texts = _strings(metadata, "tokens")
        if not 0 < len(texts) <= MAX_TOKENS:
            raise _corrupt("tokens", f"holds {len(texts)} tokens", f"1 to {MAX_TOKENS}")
        types = np.full(len(texts), TokenType.NORMAL, np.int32)
        if f"{_PREFIX}token_type" in metadata:
            types = _numbers(metadata, "token_type", len(texts)).astype(np.int32)
        return cls(str(kind), texts, types, metadata)

    def spellings(self) -> tuple[bytes, NDArray[np.uint64]]:
        """The bytes that the tokens stand for in text, one after the other, and where each ends."""
        spell = _spell_byte_level if self.kind == "gpt2" else _spell_sentencepiece
        spelled, ends = bytearray(), np.empty(len(self.texts), np.uint64)
        for token_id, (text, kind) in enumerate(zip(self.texts, self.types.tolist(), strict=True)):
            spelled += spell(text, kind)
            ends[token_id] = len(spelled)
        return bytes(spelled), ends

    def findable(self) -> NDArray[np.uint8]:
        """1 for the tokens that merging may make; never those that are markup or a lone byte."""
        barred = [*MARKUP, TokenType.BYTE]
        findable = ~np.isin(self.types, barred)
        if self.kind == "llama":  # a raw blank is written by user-defined tokens only
            findable &= np.fromiter((" " not in text for text in self.texts), bool, len(self.texts))
        return findable.astype(np.uint8)

    def added(self, types: frozenset[TokenType]) -> dict[str, int]:
        """Text to id of the tokens of ``types``."""
        chosen = np.flatnonzero(np.isin(self.types, [*types])).tolist()
        return {self.texts[token_id]: token_id for token_id in chosen}

    def token_id(self, name: str) -> int | None:
        """The id under ``tokenizer.ggml.<name>``, or None where the file gives none."""
        value = self.metadata.get(_PREFIX + name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise _corrupt(name, f"is {value!r}", "a token id")
        if not 0 <= value < len(self.texts):
            raise _corrupt(name, f"is {value}", f"a token id under {len(self.texts)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """The boolean under ``tokenizer.ggml.<name>``."""
        value = self.metadata.get(_PREFIX + name, default)
        if not isinstance(value, bool):
            raise _corrupt(name, f"is {value!r}", "true or false")
        return value

    def scores(self) -> NDArray[np.float32]:
        """The score of each token; merging takes the highest first."""
        scores = _numbers(self.metadata, "scores", len(self.texts)).astype(np.float32)
        if not np.isfinite(scores).all():
            raise _corrupt("scores", "holds values that are no finite numbers", "finite numbers")
        return scores

    def merges(self) -> NDArray[np.int32]:
        """Left, right and merged ids of every merge, in order: shape (3, merges)."""
        merges = _strings(self.metadata, "merges")
        if len(merges) > MAX_MERGES:
            raise _corrupt("merges", f"holds {len(merges)} merges", f"at most {MAX_MERGES}")
        ids = {text: token_id for token_id, text in enumerate(self.texts)}
        found = np.empty((len(merges), 3), np.int32)
        for rank, merge in enumerate(merges):
            cut = merge.find(" ", 1)
            left, right = merge[:cut], merge[cut + 1 :]
            try:
                if cut < 0:
                    raise KeyError(merge)
                found[rank] = ids[left], ids[right], ids[left + right]
            except KeyError as error:
                raise _corrupt(
                    "merges",
                    f"has {merge[:60]!r} as merge {rank}, but {str(error)[:60]} is no token",
                    "pairs of tokens that make a token",
                ) from None
        return np.ascontiguousarray(found.T)

    def byte_ids(self) -> NDArray[np.int32]:
        """The token of each of the 256 bytes.

        Where there is none: for SentencePiece the unknown token; for byte-level BPE -1, and the
        byte is lost, as in llama.cpp and ``tokenizers`` (SmolLM2 cannot write some of ASCII's
        control characters).
        """
        byte_level = self.kind == "gpt2"
        names = [BYTE_ALPHABET[byte] if byte_level else f"<0x{byte:02X}>" for byte in range(256)]
        wanted = frozenset(names)
        ids = {text: token_id for token_id, text in enumerate(self.texts) if text in wanted}
        if byte_level:
            return np.array([ids.get(name, -1) for name in names], np.int32)
        unknown = self.token_id("unknown_token_id")
        found = [ids.get(name, unknown) for name in names]
        if None in found:
            raise _corrupt(
                "tokens",
                f"has no token <0x{found.index(None):02X}>, and none for what is unknown",
                "a token for each byte, or an unknown_token_id",
            )
        return np.array(found, np.int32)


def _spell_byte_level(text: str, kind: int) -> bytes:
    if kind in (TokenType.NORMAL, TokenType.UNUSED, TokenType.BYTE):
        try:
            return text.translate(_TO_LATIN1).encode("latin-1")
        except UnicodeEncodeError:
            pass
    return _utf8(text)


def _spell_sentencepiece(text: str, kind: int) -> bytes:
    if kind == TokenType.BYTE:
        try:
            if len(text) != 6 or not text.startswith("<0x"):
                raise ValueError(text)
            return bytes((int(text[3:5], 16),))
        except ValueError:
            raise _corrupt(
                "tokens", f"has {text[:60]!r} as a byte token", "<0x00> to <0xFF>"
            ) from None
    return _utf8(text if kind in MARKUP else text.replace(_SPACE, " "))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _corrupt("tokens", f"has {text[:60]!r}", "Unicode text") from None


def _strings(metadata: Mapping[str, object], name: str) -> Sequence[str]:
    value = metadata.get(_PREFIX + name)
    if isinstance(value, StringArray):
        return value
    if not isinstance(value, list | tuple):
        raise _corrupt(name, "is missing" if value is None else "is no list", "a list of texts")
    texts = cast("Sequence[object]", value)
    if not all(isinstance(text, str) for text in texts):
        raise _corrupt(name, "holds values that are no text", "a list of texts")
    return cast("Sequence[str]", texts)


def _numbers(metadata: Mapping[str, object], name: str, length: int) -> NDArray[np.float64]:
    value = metadata.get(_PREFIX + name)
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty((0, 0))
    if numbers.shape != (length,):
        found = "is missing" if value is None else "is no list of one number for each token"
        raise _corrupt(name, found, f"{length} numbers")
    return numbers


def _corrupt(name: str, found: str, allowed: str) -> CorruptFile:
    return CorruptFile(
        f"{_PREFIX}{name} — {found}; must be {allowed}; pull or convert the model again."
    )
