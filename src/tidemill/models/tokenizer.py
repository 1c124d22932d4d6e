"""Text to token ids and back, from the metadata of a GGUF file alone.

The ids are those of llama.cpp on the same file, and of ``transformers`` on it wherever the two
agree (``tests/models/test_tokenizer.py`` tells the rest). The ``tokenizers`` package cuts text by
the model's patterns; merging is native, because its own ``BPE`` needs merges derived from a
SentencePiece vocabulary first: 1.5 s and 143 MB for Gemma's 262,144 tokens, against 0.2 s and
less than 50 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import PreTokenizer

from tidemill import native
from tidemill.errors import InputError
from tidemill.models.added_tokens import AddedTokens
from tidemill.models.pretokenize import pre_tokenization
from tidemill.models.vocabulary import MARKUP, TokenType, Vocabulary

MAX_TEXT_BYTES = 1 << 30

END_OF_GENERATION = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>",
    "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>",
    "<|file_sep|>",
)  # fmt: skip
"""Control tokens that end a text whatever the metadata say, as in llama.cpp."""


class _Table(Protocol):
    def spelled(self, ids: list[int]) -> bytes: ...


class _Merger(Protocol):
    def encode(self, text: bytes, ends: NDArray[np.int64]) -> list[int]: ...


class TokenKernels(Protocol):
    """What the native room does for tokenizers."""

    def TokenTable(
        self, bytes: bytes, ends: NDArray[np.uint64], findable: NDArray[np.uint8]
    ) -> _Table:
        """What tokens spell."""
        ...

    def RankMerger(
        self,
        table: _Table,
        *,
        byte_ids: NDArray[np.int32],
        left: NDArray[np.int32],
        right: NDArray[np.int32],
        merged: NDArray[np.int32],
        whole_pieces: bool,
    ) -> _Merger:
        """Byte pairs in the order of a list."""
        ...

    def ScoreMerger(
        self, table: _Table, byte_ids: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> _Merger:
        """SentencePiece's merging."""
        ...


class Tokenizer:
    """The tokenizer of one model; immutable, so threads may share it."""

    vocab_size: int
    bos_id: int | None
    """What a text begins with, whether or not this model wants it."""
    eos_ids: frozenset[int]
    """Ids that end a generated text."""
    special_ids: frozenset[int]
    """Markup: never made of plain text, left out by ``decode(skip_special=True)``."""
    add_bos: bool
    add_eos: bool

    def __init__(self, vocabulary: Vocabulary) -> None:
        kernels = cast("TokenKernels", native.kernels("models"))
        byte_level = vocabulary.kind == "gpt2"
        self._table = kernels.TokenTable(*vocabulary.spellings(), vocabulary.findable())
        byte_ids = vocabulary.byte_ids()
        self._cut: PreTokenizer | None = None
        self._merger: _Merger
        bos_default = True
        if byte_level:
            cut = pre_tokenization(str(vocabulary.metadata.get("tokenizer.ggml.pre", "default")))
            bos_default = cut.add_bos
            self._cut = cut.build()
            left, right, merged = vocabulary.merges()
            self._merger = kernels.RankMerger(
                self._table,
                byte_ids=byte_ids,
                left=left,
                right=right,
                merged=merged,
                whole_pieces=cut.whole_pieces,
            )
        else:
            self._merger = kernels.ScoreMerger(self._table, byte_ids, vocabulary.scores())
        self._space_prefix = vocabulary.flag("add_space_prefix", not byte_level) and not byte_level
        user_defined = frozenset((TokenType.USER_DEFINED,))
        self._plain = AddedTokens(vocabulary.added(user_defined))
        self._parsed = AddedTokens(vocabulary.added(user_defined | MARKUP))
        self._name_special_tokens(vocabulary, bos_default)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Build it from ``GGUFFile.metadata``.

        Cost: 0.2 to 0.5 s for 150,000 to 262,144 tokens.

        Raises:
            UnsupportedModel: a kind of tokenizer or of cutting text that is not known.
            CorruptFile: the metadata contradict themselves.
        """
        return cls(Vocabulary.from_gguf(metadata))

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The ids of ``text``.

        Args:
            text: Any Unicode text, NUL included.
            add_special: Begin and end it with the tokens that the model wants there.
            parse_special: Read control tokens where their text stands. Never for text of a user.

        Raises:
            InputError: the text holds a lone surrogate, or is longer than 1 GiB.
        """
        check_text(text)
        ids: list[int] = []
        if add_special and self.add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        after_special = True
        for part in (self._parsed if parse_special else self._plain).partition(text):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                ids += self._encode_plain(part, after_special)
                after_special = False
        if add_special and self.add_eos and self._eos_id is not None:
            ids.append(self._eos_id)
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: an id is outside the vocabulary.
        """
        kept = [self._checked(token_id) for token_id in ids]
        if skip_special:
            kept = [token_id for token_id in kept if token_id not in self.special_ids]
        text = self._table.spelled(kept).decode("utf-8", "replace")
        return text[1:] if self.strips_first_space and text.startswith(" ") else text

    def token_bytes(self, token_id: int) -> bytes:
        """What one token spells: part of a character perhaps. Markup spells its own name.

        Raises:
            InputError: the id is outside the vocabulary.
        """
        return self._table.spelled([self._checked(token_id)])

    @property
    def strips_first_space(self) -> bool:
        """Whether encoding puts a space before a text, so that decoding takes one away."""
        return self._space_prefix

    def _encode_plain(self, text: str, after_special: bool) -> list[int]:
        if self._cut is None:
            prefix = " " if self._space_prefix and after_special else ""
            pieces = [(prefix + text.replace("\u2581", " ")).encode()]
        else:
            pieces = [piece.encode() for piece, _ in self._cut.pre_tokenize_str(text)]
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return self._merger.encode(b"".join(pieces), ends)

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:
            raise InputError(
                f"token id {token_id} — is not in the vocabulary; ids are 0 to "
                f"{self.vocab_size - 1}; it comes from another model's tokenizer perhaps."
            )
        return int(token_id)

    def _name_special_tokens(self, vocabulary: Vocabulary, bos_default: bool) -> None:
        self.vocab_size = len(vocabulary.texts)
        self.bos_id = vocabulary.token_id("bos_token_id")
        self._eos_id = vocabulary.token_id("eos_token_id")
        self.add_bos = vocabulary.flag("add_bos_token", bos_default)
        self.add_eos = vocabulary.flag("add_eos_token", False)
        markup = vocabulary.added(MARKUP)
        self.special_ids = frozenset(markup.values())
        named = (vocabulary.token_id(f"{name}_token_id") for name in ("eos", "eot", "eom"))
        self.eos_ids = frozenset(
            [token_id for token_id in named if token_id is not None]
            + [markup[text] for text in END_OF_GENERATION if text in markup]
        )


def check_text(text: str) -> None:
    """Refuse what has no bytes in UTF-8, or too many."""
    if len(text) > MAX_TEXT_BYTES // 4 and len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise InputError(f"text of {len(text)} characters — at most 1 GiB at once; encode parts.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text — holds the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}, which no UTF-8 can hold; decode the input with errors='replace'."
        ) from None
