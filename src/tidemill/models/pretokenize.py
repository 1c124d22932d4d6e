"""How text is cut before byte pairs merge: one list of patterns for every ``tokenizer.ggml.pre``.

No token crosses a cut, so the patterns are part of a model as its merges are. A GGUF file only
names them; the patterns are those the models were trained with, written as in their own
``tokenizer.json`` (where llama.cpp spells them differently, it means the same).
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import PreTokenizer, Sequence, Split

from tidemill.errors import UnsupportedModel

_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """What one ``tokenizer.ggml.pre`` means."""

    patterns: tuple[str, ...]
    """Each cuts what the one before left into its matches and what lies between them."""
    whole_pieces: bool = False
    """A piece that is itself a token is not taken apart, whatever the merges say."""
    add_bos: bool = False
    """Whether a file that does not say so wants the beginning-of-text token."""

    def build(self) -> PreTokenizer:
        """The cutter; it holds no state, so threads may share it."""
        splits: list[PreTokenizer] = [
            Split(Regex(pattern), behavior="isolated") for pattern in self.patterns
        ]
        return Sequence(splits)


_LLAMA3 = PreTokenization(
    (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_TAIL}",), whole_pieces=True, add_bos=True
)
_QWEN2 = PreTokenization((rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_TAIL}",))
_DIGITS = PreTokenization((r"\p{N}", _GPT2))
_PLAIN = PreTokenization((_GPT2,))

PRE_TOKENIZATIONS: dict[str, PreTokenization] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "phi-2", "jina-es", "jina-de", "roberta-bpe"), _PLAIN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), _QWEN2),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenization(_LLAMA3.patterns)),
    "default": PreTokenization(
        (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    ),
    "falcon": PreTokenization((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "qwen35": PreTokenization(
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )
    ),
    "gpt-4o": PreTokenization((_GPT4O,)),
    "llama4": PreTokenization((_GPT4O,)),
    "tekken": PreTokenization((_TEKKEN,), whole_pieces=True, add_bos=True),
    "deepseek-v3": PreTokenization((r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3)),
}
"""By the name in ``tokenizer.ggml.pre``; llama.cpp takes ``default`` where none is named."""


def pre_tokenization(name: str) -> PreTokenization:
    """What ``name`` means.

    Raises:
        UnsupportedModel: it is not known, so text would be cut in other places than in training.
    """
    try:
        return PRE_TOKENIZATIONS[name]
    except KeyError:
        raise UnsupportedModel(
            f"tokenizer.ggml.pre={name[:60]!r} — how this model cuts text is not known; known are "
            f"{', '.join(sorted(PRE_TOKENIZATIONS))}; its tokens would be wrong, so it is refused."
        ) from None
