"""Tokens of real vocabularies against llama.cpp and transformers, and what hostile files do."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture_text import SENTENCEPIECE_SPACE, TORTURE

from tidemill.models.gguf import GGUFFile
from tidemill.models.pretokenize import PRE_TOKENIZATIONS
from tidemill.models.tokenizer import Tokenizer

try:
    import llama_cpp
except ImportError:  # the extra [peers]; transformers alone then
    llama_cpp = None
needs_llama_cpp = pytest.mark.skipif(llama_cpp is None, reason="needs the extra [peers]")
MODELS = ("qwen2.5-coder-0.5b", "gemma-3-270m")


class Peers(NamedTuple):
    """One model's tokenizers: ours, llama.cpp's, and the one transformers makes of the file."""

    ours: Tokenizer
    llama: Any
    transformers: Any

    def llama_ids(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        return self.llama.tokenize(text.encode(), add_bos=add_special, special=parse_special)

    def transformers_ids(self, text: str, *, parse_special: bool) -> list[int]:
        self.transformers.encode_special_tokens = not parse_special
        return self.transformers.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def peers(model_path: Callable[[str], Path]) -> Callable[[str], Peers]:
    made: dict[str, Peers] = {}

    def of(name: str) -> Peers:
        if name not in made:
            gguf = pytest.importorskip("transformers.integrations.gguf")
            path = model_path(name)
            with GGUFFile.open(path) as file:
                ours = Tokenizer.from_gguf(file.metadata)
            llama = llama_cpp and llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
            architecture, vocabulary, _ = gguf.get_gguf_tokenizer(str(path))
            backend, _ = gguf.convert_gguf_tokenizer(architecture, vocabulary)
            made[name] = Peers(ours, llama, backend)
        return made[name]

    return of


def agrees_with_transformers(name: str, text: str) -> bool:
    """Whether transformers reads this text as SentencePiece itself does.

    Made from a GGUF file, its Gemma cuts more than 31 spaces (its longest token of them) in other
    places, and takes U+2581 in text for a space that may join others.
    """
    return name != "gemma-3-270m" or not (" " * 32 in text or "\u2581" in text)


@pytest.mark.parametrize("parse_special", [False, True], ids=["plain", "parsed"])
@pytest.mark.parametrize("text", [*TORTURE.values(), SENTENCEPIECE_SPACE], ids=[*TORTURE, "U+2581"])
@pytest.mark.parametrize("name", MODELS)
def test_ids_of_the_torture_text_are_those_of_llama_cpp_and_transformers(
    peers: Callable[[str], Peers], name: str, text: str, parse_special: bool
) -> None:
    made = peers(name)
    ids = made.ours.encode(text, add_special=False, parse_special=parse_special)
    if made.llama:
        assert ids == made.llama_ids(text, parse_special=parse_special)
    if agrees_with_transformers(name, text):
        assert ids == made.transformers_ids(text, parse_special=parse_special)
    if "\u2581" not in text or made.ours.vocab_size < 200_000:
        assert made.ours.decode(ids, skip_special=False) == text


def assigned(character: str) -> bool:
    """Not in a plane on which the peers' Unicode tables are of different age."""
    return unicodedata.category(character) not in ("Cn", "Co", "Cs")


TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8").filter(assigned),
        st.sampled_from(
            " \t\n\r'sStTdDmMlLrReEvV0123456789<>|_im_startend.,;:()[]{}é中a\u0301\u200d"
        ),
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", MODELS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, parse_special=st.booleans())
def test_ids_of_random_text_are_those_of_llama_cpp_and_transformers(
    peers: Callable[[str], Peers], name: str, text: str, parse_special: bool
) -> None:
    made = peers(name)
    ids = made.ours.encode(text, add_special=False, parse_special=parse_special)
    if made.llama:
        assert ids == made.llama_ids(text, parse_special=parse_special)
    if agrees_with_transformers(name, text):
        assert ids == made.transformers_ids(text, parse_special=parse_special)
    if "\u2581" not in text:
        assert made.ours.decode(ids, skip_special=False) == text


@pytest.mark.parametrize("name", MODELS)
def test_decoding_random_ids_gives_what_transformers_gives(
    peers: Callable[[str], Peers], name: str
) -> None:
    made = peers(name)
    rng = np.random.default_rng(1)
    normal = sorted(set(range(made.transformers.get_vocab_size())) - made.ours.special_ids)
    if name == "gemma-3-270m":  # its decoder replaces broken bytes one by one
        normal = [token_id for token_id in normal if not 238 <= token_id < 238 + 256]
        backend: Any = None
    else:
        backend = made.transformers
    for _ in range(200):
        ids = [int(token_id) for token_id in rng.choice(normal, 12)]
        text = made.ours.decode(ids)
        assert text == b"".join(map(made.ours.token_bytes, ids)).decode("utf-8", "replace")
        if backend is not None:
            assert text == backend.decode(ids)


@pytest.mark.parametrize("name", MODELS)
def test_control_tokens_come_of_markup_only_where_it_is_parsed(
    peers: Callable[[str], Peers], name: str
) -> None:
    ours = peers(name).ours
    for token_id in sorted(ours.special_ids)[:300]:
        text = ours.token_bytes(token_id).decode()
        assert ours.encode(text, add_special=False, parse_special=True) == [token_id]
        assert not ours.special_ids & set(ours.encode(text, add_special=False))
        assert ours.decode([token_id]) == ""
        assert ours.decode([token_id], skip_special=False) == text


@needs_llama_cpp
@pytest.mark.parametrize("name", MODELS)
def test_a_text_begins_as_llama_cpp_lets_it_begin(peers: Callable[[str], Peers], name: str) -> None:
    made = peers(name)
    for text in ("", "hi", " hi", "<bos>hi"):
        assert made.ours.encode(text) == made.llama_ids(text, parse_special=False, add_special=True)


@needs_llama_cpp
@pytest.mark.parametrize("name", MODELS)
def test_texts_end_at_the_ids_at_which_llama_cpp_ends_them(
    peers: Callable[[str], Peers], name: str
) -> None:
    made = peers(name)
    vocabulary = llama_cpp.llama_model_get_vocab(made.llama._model.model)
    ends = {
        token_id
        for token_id in range(made.ours.vocab_size)
        if llama_cpp.llama_vocab_is_eog(vocabulary, token_id)
    }
    # llama.cpp counts `</s>` even where it is text: in Gemma it ends HTML's struck-out text
    ends = {token_id for token_id in ends if made.ours.token_bytes(token_id) != b"</s>"}
    assert made.ours.eos_ids == ends


@pytest.fixture(scope="module")
def renamed(
    model_path: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Tokenizer, Any]]:
    """Qwen's vocabulary under another ``tokenizer.ggml.pre``, ours and llama.cpp's."""
    gguf = pytest.importorskip("gguf")
    with GGUFFile.open(model_path(MODELS[0])) as file:
        metadata = dict(file.metadata)
    folder = tmp_path_factory.mktemp("renamed")

    def of(name: str) -> tuple[Tokenizer, Any]:
        path = folder / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name)
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_types(metadata["tokenizer.ggml.token_type"].tolist())
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        path.unlink()
        return Tokenizer.from_gguf(metadata | {"tokenizer.ggml.pre": name}), llama

    return of


@needs_llama_cpp
@pytest.mark.parametrize(
    "name", ["default", "gpt-2", "smollm", "llama-bpe", "falcon", "qwen35", "deepseek-v3", "dbrx"]
)
def test_text_is_cut_where_llama_cpp_cuts_it(
    renamed: Callable[[str], tuple[Tokenizer, Any]], name: str
) -> None:
    ours, llama = renamed(name)
    assert name in PRE_TOKENIZATIONS
    wrong = [
        kind
        for kind, text in TORTURE.items()
        if ours.encode(text, add_special=False)
        != llama.tokenize(text.encode(), add_bos=False, special=False)
    ]
    assert not wrong
