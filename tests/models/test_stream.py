"""Streamed text: the decoded whole, cut at stop strings, never half a character."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError, InputError
from tidemill.models.stream import Detokenizer
from tidemill.models.tokenizer import Tokenizer
from tidemill.models.vocabulary import BYTE_ALPHABET

EXTRA = ["ab", "abc", "cab", "\u0120a", "<|end|>"]
END = 260


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes, a few tokens of letters, and a control token."""
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": [*BYTE_ALPHABET.values(), *EXTRA],
            "tokenizer.ggml.token_type": [1] * 260 + [3],
            "tokenizer.ggml.merges": [],
        }
    )


def parts(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


def until_first_stop(text: str, stop: list[str]) -> str:
    """``text`` before the stop string that is complete first, longest of those that end there."""
    ends = [(at + len(word), at) for word in stop for at in [text.find(word)] if at >= 0]
    return text[: min(ends)[1]] if ends else text


IDS = st.lists(
    st.one_of(st.integers(0, END), st.integers(256, END), st.sampled_from(list(b"abc "))),
    max_size=40,
)


@given(IDS, st.lists(st.text("abc \ufffd", min_size=1, max_size=4), max_size=4), st.booleans())
def test_the_parts_make_the_whole_up_to_the_first_stop(
    tokenizer: Tokenizer, ids: list[int], stop: list[str], skip_special: bool
) -> None:
    detokenizer = Detokenizer(tokenizer, stop=stop, skip_special=skip_special)
    whole = tokenizer.decode(ids, skip_special=skip_special)
    found = parts(detokenizer, ids)
    assert "".join(found) == until_first_stop(whole, stop)
    assert (detokenizer.stopped_by is not None) == any(word in whole for word in stop)


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_text_in_single_bytes_is_whole_characters_at_every_step(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    ids = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer, stop=stop)
    wanted = until_first_stop(text, stop)
    for so_far in accumulate(parts(detokenizer, ids)):
        assert wanted.startswith(so_far)


def test_nothing_is_held_back_without_need(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, stop=["abx"])
    assert parts(detokenizer, tokenizer.encode("cab")) == ["c", "", "", "ab"]
    plain = Detokenizer(tokenizer)
    assert parts(plain, tokenizer.encode("a\u00e9b")) == ["a", "", "\u00e9", "b", ""]


def test_a_stop_across_tokens_is_found_and_ends_the_text(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, stop=["\u00e9a", "zz"])
    ids = [*tokenizer.encode("b\u00e9"), 256, *tokenizer.encode("more")]
    assert "".join(parts(detokenizer, ids)) == "b"
    assert detokenizer.stopped_by == "\u00e9a"


def test_of_two_stops_the_one_complete_first_ends_the_text_however_it_is_cut(
    tokenizer: Tokenizer,
) -> None:
    byte = tokenizer.encode("abcabx")
    for ids in (byte, [257, *byte[3:]], [256, byte[2], 256, byte[5]], [*byte[:2], 258, byte[5]]):
        detokenizer = Detokenizer(tokenizer, stop=["abcabx", "ca"])
        assert "".join(parts(detokenizer, ids)) == "ab"
        assert detokenizer.stopped_by == "ca"


def test_a_space_put_before_the_text_is_taken_away_unless_the_text_goes_on() -> None:
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a"]
    tokenizer = Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.token_type": [2] + [6] * 256 + [1] * 3,
        }
    )
    ids = tokenizer.encode("a a", add_special=False)
    assert "".join(parts(Detokenizer(tokenizer), ids)) == tokenizer.decode(ids) == "a a"
    assert "".join(parts(Detokenizer(tokenizer, continues=True), ids)) == " a a"


def test_tokens_of_another_model_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="token id 261"):
        Detokenizer(tokenizer).add(261)


@pytest.mark.parametrize("stop", [[""], "word", ["a"] * 65, ["a" * 5000], [3]])
def test_stop_strings_that_cannot_be_searched_for_are_refused(
    tokenizer: Tokenizer, stop: list[str]
) -> None:
    with pytest.raises(ConfigError, match="stop="):
        Detokenizer(tokenizer, stop=stop)
