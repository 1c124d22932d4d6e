"""Tokenizers of tiny vocabularies: what metadata mean, and which are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.tokenizer import Tokenizer
from tidemill.models.vocabulary import BYTE_ALPHABET


@pytest.fixture
def tiny() -> Callable[..., dict[str, object]]:
    """Metadata of a byte-level vocabulary: bytes, a few merges, a control token, a blank run."""

    def metadata(**changed: object) -> dict[str, object]:
        tokens = [*BYTE_ALPHABET.values(), "ab", "abc", "\u0120a", "<|end|>", "  "]
        found: dict[str, object] = {
            "model": "gpt2",
            "pre": "gpt-2",
            "tokens": tokens,
            "token_type": [1] * 259 + [3, 4],
            "merges": ["a b", "ab c", "\u0120 a"],
            "eos_token_id": 259,
            "bos_token_id": 259,
        }
        found |= changed
        return {f"tokenizer.ggml.{key}": item for key, item in found.items() if item is not None}

    return metadata


@pytest.fixture
def tiny_scored(tiny: Callable[..., dict[str, object]]) -> Callable[..., dict[str, object]]:
    """Metadata of a SentencePiece vocabulary that puts a space before texts."""

    def metadata(**changed: object) -> dict[str, object]:
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        tokens += ["\u2581", "a", "b", "ab", "\u2581ab", "<x>"]
        types = [2, 3, 3] + [6] * 256 + [1] * 5 + [4]
        scores = [0.0] * 261 + [-3.0, -1.0, -2.0, 0.0]
        return tiny(
            **{
                "model": "llama",
                "tokens": tokens,
                "token_type": types,
                "scores": [0.0] * (len(tokens) - len(scores)) + scores,
                "merges": None,
                "unknown_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            }
            | changed
        )

    return metadata


def test_merges_apply_in_order_and_added_tokens_come_first(
    tiny: Callable[..., dict[str, object]],
) -> None:
    tokenizer = Tokenizer.from_gguf(tiny())
    byte = {character: token_id for token_id, character in enumerate(BYTE_ALPHABET.values())}
    assert tokenizer.encode("abc") == [257]
    assert tokenizer.encode("abab ab acab") == (
        [256, 256, byte["\u0120"], 256, 258, byte["c"], 256]
    )
    assert tokenizer.encode("a  b") == [byte["a"], 260, byte["b"]]
    assert tokenizer.encode("<|end|>", parse_special=True) == [259]
    assert 259 not in tokenizer.encode("<|end|>")


def test_flags_of_the_file_decide_what_is_added(tiny: Callable[..., dict[str, object]]) -> None:
    tokenizer = Tokenizer.from_gguf(tiny(add_bos_token=True, add_eos_token=True))
    assert tokenizer.encode("abc") == [259, 257, 259]
    assert tokenizer.encode("abc", add_special=False) == [257]
    assert Tokenizer.from_gguf(tiny(pre="llama-bpe")).encode("abc") == [259, 257]


def test_sentencepiece_puts_a_space_before_text_and_takes_it_away_again(
    tiny_scored: Callable[..., dict[str, object]],
) -> None:
    tokenizer = Tokenizer.from_gguf(tiny_scored())
    ids = tokenizer.encode("ab ab<x>ab")
    assert ids == [1, 263, 263, 264, 263]
    assert tokenizer.decode(ids) == "ab ab<x> ab"
    bare = Tokenizer.from_gguf(tiny_scored(add_space_prefix=False, add_bos_token=False))
    assert bare.encode("ab\u00e9") == [262, 3 + 0xC3, 3 + 0xA9]
    assert bare.decode([262, 3 + 0xC3, 3 + 0xA9]) == "ab\u00e9"


def test_bytes_without_a_token_become_the_unknown_token(
    tiny_scored: Callable[..., dict[str, object]],
) -> None:
    metadata = tiny_scored(add_space_prefix=False, add_bos_token=False)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    tokens[3 + 0xA9] = "gone"
    metadata["tokenizer.ggml.token_type"] = [1] * len(tokens)
    assert Tokenizer.from_gguf(metadata).encode("\u00e9") == [3 + 0xC3, 0]
    del metadata["tokenizer.ggml.unknown_token_id"]
    with pytest.raises(CorruptFile, match="no token <0xA9>"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"model": None}, UnsupportedModel, "tokenizer.ggml.model=None"),
        ({"model": "bert"}, UnsupportedModel, "tokenizer.ggml.model='bert'"),
        ({"pre": "no-such"}, UnsupportedModel, "tokenizer.ggml.pre='no-such'"),
        ({"tokens": None}, CorruptFile, "tokens — is missing"),
        ({"tokens": []}, CorruptFile, "tokens — holds 0 tokens"),
        ({"tokens": "abc"}, CorruptFile, "tokens — is no list"),
        ({"tokens": [1, 2]}, CorruptFile, "tokens — holds values that are no text"),
        ({"tokens": ["\ud800"] * 261}, CorruptFile, "must be Unicode text"),
        ({"token_type": [1]}, CorruptFile, "token_type — is no list of one number"),
        ({"token_type": ["a"] * 261}, CorruptFile, "token_type"),
        ({"merges": None}, CorruptFile, "merges — is missing"),
        ({"merges": ["ab"]}, CorruptFile, "merges — has 'ab' as merge 0"),
        ({"merges": ["a x y"]}, CorruptFile, "merge 0"),
        ({"merges": ["a z"]}, CorruptFile, "'az' is no token"),
        ({"eos_token_id": 261}, CorruptFile, "eos_token_id — is 261"),
        ({"eos_token_id": -1}, CorruptFile, "eos_token_id — is -1"),
        ({"bos_token_id": "x"}, CorruptFile, "bos_token_id — is 'x'"),
        ({"add_bos_token": 1}, CorruptFile, "add_bos_token — is 1"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(
    tiny: Callable[..., dict[str, object]],
    changed: dict[str, object],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        Tokenizer.from_gguf(tiny(**changed))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"scores": None}, "scores — is missing"),
        ({"scores": [0.0]}, "scores — is no list"),
        ({"scores": [float("nan")] * 265}, "scores — holds values that are no finite numbers"),
        ({"token_type": [6] * 265}, "'<unk>' as a byte token"),
    ],
)
def test_scores_and_bytes_that_cannot_be_are_refused(
    tiny_scored: Callable[..., dict[str, object]], changed: dict[str, object], named: str
) -> None:
    with pytest.raises(CorruptFile, match=named):
        Tokenizer.from_gguf(tiny_scored(**changed))


def test_lone_surrogates_are_refused(tiny: Callable[..., dict[str, object]]) -> None:
    with pytest.raises(InputError, match=r"U\+D800 at character 2"):
        Tokenizer.from_gguf(tiny()).encode("ab\ud800")


@pytest.mark.parametrize("token_id", [-1, 261, 10**12])
def test_ids_outside_the_vocabulary_are_refused(
    tiny: Callable[..., dict[str, object]], token_id: int
) -> None:
    tokenizer = Tokenizer.from_gguf(tiny())
    with pytest.raises(InputError, match="not in the vocabulary; ids are 0 to 260"):
        tokenizer.decode([1, token_id])
    with pytest.raises(InputError, match="not in the vocabulary"):
        tokenizer.token_bytes(token_id)
