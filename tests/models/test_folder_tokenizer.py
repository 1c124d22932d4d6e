"""Tokenizers and chat templates of Hugging Face folders: those of transformers, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torture_text import SENTENCEPIECE_SPACE, TORTURE

from tidemill.errors import CorruptFile, TidemillError, UnsupportedModel
from tidemill.models.folder_tokenizer import (
    MAX_TOKENIZER_BYTES,
    FolderTokenizer,
    folder_chat_template,
    folder_special_tokens,
)
from tidemill.models.generation import generate
from tidemill.models.model_file import open_model
from tidemill.models.native_decoder import NativeDecoder
from tidemill.models.sampling import SamplingParams

transformers = pytest.importorskip("transformers")

SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The tide mill grinds at ebb; 12 times a day it does not.",
    "Ein Mühlrad läuft, wenn das Wasser fällt. 潮汐磨坊 нет да",
    "def turn(wheel):\n    return wheel + 1  # half\n\n",
] * 3
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
EMBEDDINGS = 1000


def byte_level() -> tokenizers.Tokenizer:
    """As Qwen's and Llama 3's."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers.Regex(r" ?\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"), "isolated"
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens(["<tool_call>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """As Llama 2's: a space before the text, bytes for what no token spells."""
    trained = tokenizers.Tokenizer(models.BPE())
    normal = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.normalizer = normal
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL + names, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    said = json.loads(trained.to_str())
    said["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    said["added_tokens"] = [each for each in said["added_tokens"] if each["content"] in SPECIAL]
    made = tokenizers.Tokenizer.from_str(json.dumps(said))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return made


def saved(folder: Path, made: tokenizers.Tokenizer, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", **config,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module", params=[byte_level, sentencepiece], ids=lambda make: make.__name__)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FolderTokenizer, Any]:
    """Ours and transformers'."""
    folder = saved(tmp_path_factory.mktemp("folder"), request.param())
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return FolderTokenizer(folder, embeddings=EMBEDDINGS), peer


def check_same(both: tuple[FolderTokenizer, Any], text: str) -> None:
    ours, peer = both
    for special in (True, False):
        ids = peer(text, add_special_tokens=special).input_ids
        assert ours.encode(text, add_special=special, parse_special=True) == ids
        for skip in (True, False):
            told = peer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            if "\ufffd" not in told:  # how many stand for broken bytes is told differently
                assert ours.decode(ids, skip_special=skip) == told
    assert ours.special_ids.isdisjoint(ours.encode(text, add_special=False))


@pytest.mark.parametrize(
    "text", [*TORTURE.values(), SENTENCEPIECE_SPACE, " ", "a <|im_start|>user</s> b <tool_call>x"]
)
def test_ids_and_text_are_those_of_transformers(
    both: tuple[FolderTokenizer, Any], text: str
) -> None:
    check_same(both, text)


@given(text=st.text(max_size=40))
def test_any_text_is_cut_as_transformers_cuts_it(
    both: tuple[FolderTokenizer, Any], text: str
) -> None:
    check_same(both, text)


def test_what_tokens_are_is_told_as_of_a_gguf_file(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level())
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 9999, true, "x", 7]}')
    ours = FolderTokenizer(folder, embeddings=EMBEDDINGS)
    assert (ours.bos_id, ours.add_bos, ours.add_eos) == (0, True, False)
    assert ours.eos_ids == {1, 7, ours.encode("<|im_end|>", parse_special=True)[-1]}
    assert ours.special_ids == set(range(5))
    whole = ours.encode("潮汐 wheel", add_special=False)
    assert b"".join(map(ours.token_bytes, whole)).decode() == "潮汐 wheel"
    assert ours.token_bytes(3) == b"<|im_start|>"
    assert not ours.strips_first_space


def test_a_folder_of_a_model_has_its_tokenizer_and_template(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=EMBEDDINGS,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    saved(tmp_path, byte_level(), chat_template=TEMPLATE)
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Ebb."}]
    with open_model(tmp_path) as model:
        text = model.chat_template.render(messages).text
        assert text == peer.apply_chat_template(messages, tokenize=False)
        assert model.tokenizer.encode(text, parse_special=True) == peer(text).input_ids
        decoder = NativeDecoder(model, threads=1)
        ids = model.tokenizer.encode("The tide mill")
        pieces = list(generate(decoder, model.tokenizer, ids, SamplingParams(max_tokens=4)))
        assert pieces


def test_the_template_of_its_own_file_comes_first(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level(), chat_template="old")
    assert folder_chat_template(folder).source == "old"
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert folder_chat_template(folder).source == TEMPLATE


def test_a_template_of_ones_own_knows_the_special_tokens(tmp_path: Path) -> None:
    saved(tmp_path, byte_level(), eos_token="<|end|>")
    assert folder_special_tokens(tmp_path)["eos_token"] == "<|end|>"


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert (
        folder_chat_template(saved(tmp_path, byte_level(), chat_template=templates)).source == "d"
    )


def word_level() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))


def broken(said: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(said.encode("latin-1"))

    return write


def changed(**parts: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        said = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(said | parts))

    return write


REFUSED: dict[str, tuple[Callable[[Path], object], type[TidemillError], str]] = {
    "missing": (
        lambda folder: (folder / "tokenizer.json").unlink(), UnsupportedModel, "is not there",
    ),
    "no JSON": (broken("{"), CorruptFile, "is no tokenizer"),
    "no UTF-8": (broken("\xff{}"), CorruptFile, "is not UTF-8"),
    "empty": (broken(""), CorruptFile, "is no tokenizer"),
    "another kind": (
        lambda folder: word_level().save(str(folder / "tokenizer.json")),
        UnsupportedModel, "WordLevel",
    ),
    "no decoder": (changed(decoder=None), UnsupportedModel, "with the decoder None"),
    "a merge of no tokens": (
        changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]}),
        CorruptFile, "is no tokenizer",
    ),
    "an id that takes the memory": (
        changed(model={"type": "BPE", "vocab": {"a": 4_000_000_000}, "merges": []}),
        CorruptFile, "has ids up to 4000000000, the model 1000 embeddings",
    ),
    "a bad regex": (
        changed(pre_tokenizer={
            "type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False,
        }),
        CorruptFile, "is no tokenizer",
    ),
    "config of no object": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        CorruptFile, "not an object",
    ),
    "a beginning that is no token": (
        lambda folder: saved(folder, byte_level(), bos_token="<nope>"),
        CorruptFile, "'<nope>' as bos_token, which is no token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_damaged_or_hostile_folder_is_refused(tmp_path: Path, case: str) -> None:
    damage, kind, message = REFUSED[case]
    folder = saved(tmp_path, byte_level())
    damage(folder)
    with pytest.raises(kind, match=re.escape(message)):
        FolderTokenizer(folder, embeddings=EMBEDDINGS)


def test_a_file_larger_than_any_honest_one_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, byte_level())
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(CorruptFile, match="has more than 67108864 bytes"):
        FolderTokenizer(folder, embeddings=EMBEDDINGS)


def test_more_ids_than_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFile, match="the model 100 embeddings"):
        FolderTokenizer(saved(tmp_path, byte_level()), embeddings=100)


@pytest.mark.parametrize(
    ("template", "kind"), [(None, UnsupportedModel), (7, CorruptFile), ("{% for %}", CorruptFile)]
)
def test_a_template_that_is_none_is_refused(
    tmp_path: Path, template: object, kind: type[TidemillError]
) -> None:
    with pytest.raises(kind):
        folder_chat_template(saved(tmp_path, byte_level(), chat_template=template))


@given(cut=st.integers(0, 20_000), flips=st.lists(st.integers(0, 20_000), max_size=4))
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    data = bytearray(WHOLE[: max(cut, len(WHOLE) - cut)])
    for at in flips:
        data[at % len(data)] ^= 1 << at % 8
    (folder / "tokenizer.json").write_bytes(data)
    try:
        ours = FolderTokenizer(folder, embeddings=EMBEDDINGS)
        assert all(0 <= each < ours.vocab_size for each in ours.encode("The tide 12"))
    except (CorruptFile, UnsupportedModel):
        pass


WHOLE = byte_level().to_str().encode()
