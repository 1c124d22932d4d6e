"""Configurations from GGUF metadata and from config.json, against transformers' own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_builder import Gguf, Tensor, floats, llama

from tidemill.errors import ConfigError, CorruptFile, UnsupportedModel
from tidemill.models.config import DecoderConfig
from tidemill.models.gguf import GGUFFile

transformers = pytest.importorskip("transformers")


def written(folder: Path, found: Gguf) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(found.build())
    return path


def config_of(folder: Path, found: Gguf) -> DecoderConfig:
    with GGUFFile.open(written(folder, found)) as file:
        return DecoderConfig.from_gguf(file)


def renamed(architecture: str, **changed: Any) -> Gguf:
    """The tiny Llama under another architecture's name, with ``changed`` keys of its own."""
    plain = llama()
    metadata = {
        str(key).replace("llama.", f"{architecture}."): found
        for key, found in plain.metadata.items()
    }
    metadata |= {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key.replace('__', '.')}": v for key, v in changed.items()}
    extra: list[Tensor] = []
    if architecture == "qwen2":
        extra = [Tensor("blk.0.attn_q.bias", (32,), floats(32))]
    if architecture in ("qwen3", "gemma3"):
        extra = [Tensor("blk.0.attn_q_norm.weight", (8,), floats(8))]
    return Gguf(metadata, [*plain.tensors, *extra])  # type: ignore[arg-type]


def same_but_for_the_permutation(found: DecoderConfig, peer: DecoderConfig) -> None:
    """The one difference: in GGUF, Llama's rows are permuted so that neighbours rotate."""
    assert dataclasses.replace(found, rope_interleaved=False) == peer


PEERED = {
    "llama": llama(llama__rope__dimension_count=8),
    "qwen2": renamed("qwen2", rope__freq_base=1e6),
    "qwen3": renamed("qwen3", attention__key_length=128, attention__value_length=128),
    "gemma3": renamed(
        "gemma3",
        block_count=14,
        attention__key_length=256,
        attention__value_length=256,
        attention__sliding_window=16,
        rope__freq_base=1e6,
    ),
}


@pytest.mark.parametrize("architecture", PEERED)
def test_a_gguf_configuration_is_what_transformers_makes_of_the_file(
    architecture: str, tmp_path: Path
) -> None:
    path = written(tmp_path, PEERED[architecture])
    peer = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name).to_dict()
    with GGUFFile.open(path) as file:
        found = DecoderConfig.from_gguf(file)
    expected = DecoderConfig.from_hf(peer | {"tie_word_embeddings": found.tied_head})
    same_but_for_the_permutation(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m",
        pytest.param("gemma-3-270m", marks=pytest.mark.slow),
        pytest.param("qwen2.5-coder-0.5b", marks=pytest.mark.slow),
    ],
)
def test_a_real_files_configuration_is_what_transformers_makes_of_it(
    model_path: Callable[[str], Path], name: str
) -> None:
    path = model_path(name)
    peer = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name).to_dict()
    with GGUFFile.open(path) as file:
        found = DecoderConfig.from_gguf(file)
    same_but_for_the_permutation(
        found, DecoderConfig.from_hf(peer | {"tie_word_embeddings": found.tied_head})
    )


def test_gemma_has_its_own_arithmetic(model_path: Callable[[str], Path]) -> None:
    with GGUFFile.open(model_path("gemma-3-270m")) as file:
        found = DecoderConfig.from_gguf(file)
    assert (found.rope_theta, found.rope_theta_local, found.sliding_window) == (1e6, 1e4, 512)
    assert [i for i, sliding in enumerate(found.sliding_layers) if not sliding] == [5, 11, 17]
    assert found.query_scale == 1 / 16
    assert found.embedding_scale == math.sqrt(640)
    assert (found.activation, found.post_norms, found.qk_norm) == ("gelu_tanh", True, True)
    assert (found.window(0), found.window(5)) == (512, None)


def test_the_largest_gemma_scales_queries_by_its_own_rule() -> None:
    sizes = {"hidden_size": 5376, "num_attention_heads": 32, "head_dim": 128}
    config = transformers.Gemma3TextConfig(**sizes, query_pre_attn_scalar=168).to_dict()
    assert DecoderConfig.from_hf(config).query_scale == pytest.approx(168**-0.5)


HUB = {
    "mistral that slides": (
        {"model_type": "mistral", "sliding_window": 16},
        {"architecture": "llama", "sliding_window": 16, "sliding_layers": (True, True)},
    ),
    "qwen2 that slides from a layer on": (
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        {"sliding_window": 8, "sliding_layers": (False, True), "attention_bias": True},
    ),
    "qwen2 that does not": (
        {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1},
        {"sliding_window": None, "sliding_layers": (False, False)},
    ),
    "names from before transformers 5": (
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": 5e5},
    ),
    "gemma3 from before transformers 5": (
        {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 2e4}
        | {"sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 64},
        {"rope_theta_local": 2e4, "sliding_layers": (True, False), "query_scale": 0.125},
    ),
    "a text model within a larger one": (
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}},
        {"architecture": "gemma3", "tied_head": True},
    ),
}
PLAIN: dict[str, Any] = {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "vocab_size": 5,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("case", HUB)
def test_a_hub_configuration_is_understood(case: str) -> None:
    changed, expected = HUB[case]
    config = PLAIN | changed
    if "text_config" in config:
        config["text_config"] = PLAIN | config["text_config"]
    found = DecoderConfig.from_hf(config)
    assert {key: getattr(found, key) for key in expected} == expected


REFUSED_HUB: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no type": ({"model_type": None}, CorruptFile, "has no 'model_type'"),
    "another type": ({"model_type": "mamba"}, UnsupportedModel, "mamba"),
    "no layers": ({"num_hidden_layers": 0}, CorruptFile, "layers=0"),
    "a billion layers": ({"num_hidden_layers": 10**9}, CorruptFile, "layers=1000000000"),
    "layers of text": ({"num_hidden_layers": "2"}, CorruptFile, "must be a count"),
    "heads that keys do not divide": ({"num_key_value_heads": 3}, CorruptFile, "divisor of"),
    "an odd head": ({"head_dim": 7}, CorruptFile, "even"),
    "epsilon NaN": ({"rms_norm_eps": math.nan}, CorruptFile, "must be a number"),
    "epsilon below 0": ({"rms_norm_eps": -1.0}, CorruptFile, "a positive number"),
    "an unknown activation": ({"hidden_act": "relu"}, UnsupportedModel, "relu"),
    "softcapping": ({"final_logit_softcapping": 30.0}, UnsupportedModel, "softcapping"),
    "another's quantisation": ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quant"),
    "half rotations": ({"partial_rotary_factor": 0.5}, UnsupportedModel, "a part of each head"),
    "unknown scaling": ({"rope_scaling": {"rope_type": "longrope"}}, UnsupportedModel, "longrope"),
    "scaling of text": ({"rope_scaling": "yarn"}, CorruptFile, "must be an object"),
    "sliding of nothing": ({"layer_types": ["full_attention"]}, CorruptFile, "sliding_layers"),
}


@pytest.mark.parametrize("case", REFUSED_HUB)
def test_a_hub_configuration_that_makes_no_sense_is_refused(case: str) -> None:
    changed, error, text = REFUSED_HUB[case]
    with pytest.raises(error, match=text):
        DecoderConfig.from_hf(PLAIN | changed)


REFUSED_GGUF: dict[str, tuple[Gguf, type[Exception], str]] = {
    "no architecture": (llama(general__architecture=None), CorruptFile, "general.architecture"),
    "another architecture": (llama(general__architecture="mamba"), UnsupportedModel, "mamba"),
    "an absurd architecture": (llama(general__architecture="\x1b" * 9999), UnsupportedModel, "…"),
    "no layers": (llama(llama__block_count=None), CorruptFile, "has no llama.block_count"),
    "0 layers": (llama(llama__block_count=0), CorruptFile, "layers=0"),
    "2^32 - 1 layers": (llama(llama__block_count=2**32 - 1), CorruptFile, "1024 is the most"),
    "layers of text": (llama(llama__block_count="2"), CorruptFile, "not a count"),
    "0 heads": (llama(llama__attention__head_count=0), CorruptFile, "head_count is 0"),
    "3 key heads": (llama(llama__attention__head_count_kv=3), CorruptFile, "divisor of heads=4"),
    "0 key heads": (llama(llama__attention__head_count_kv=0), CorruptFile, "kv_heads=0"),
    "another width": (llama(llama__embedding_length=64), CorruptFile, "is 32 wide"),
    "more words than rows": (
        llama(tokenizer__ggml__tokens=list("abcdef")),
        CorruptFile,
        "6 tokens but only 5",
    ),
    "long values": (llama(llama__attention__value_length=4), UnsupportedModel, "another length"),
    "half rotations": (llama(llama__rope__dimension_count=4), UnsupportedModel, "only a part"),
    "experts": (llama(llama__expert_count=8), UnsupportedModel, "mixture of experts"),
    "softcapping": (llama(llama__final_logit_softcapping=30.0), UnsupportedModel, "softcapping"),
    "one of many files": (llama(split__count=3), UnsupportedModel, "one of 3 files"),
    "unknown scaling": (llama(llama__rope__scaling__type="longrope"), UnsupportedModel, "longrope"),
    "epsilon infinite": (
        llama(llama__attention__layer_norm_rms_epsilon=math.inf),
        CorruptFile,
        "not a number",
    ),
    "theta below 0": (llama(llama__rope__freq_base=-1.0), CorruptFile, "above 1"),
    "theta almost 0": (llama(llama__rope__freq_base=1e-30), CorruptFile, "above 1"),
    "no embedding": (Gguf(llama().metadata), CorruptFile, "token_embd.weight"),
}


@pytest.mark.parametrize("case", REFUSED_GGUF)
def test_a_gguf_configuration_that_makes_no_sense_is_refused(case: str, tmp_path: Path) -> None:
    found, error, text = REFUSED_GGUF[case]
    with pytest.raises(error, match=text):
        config_of(tmp_path, found)


def test_a_configuration_made_by_hand_is_checked(tmp_path: Path) -> None:
    config = config_of(tmp_path, llama())
    for changed, text in (
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"activation": "relu"}, "activation='relu'"),
        ({"sliding_layers": (True, False)}, "sliding_window=None"),
        ({"sliding_layers": (True, False), "sliding_window": 0}, "sliding_window=0"),
        ({"sliding_layers": (True,)}, "2 booleans"),
    ):
        with pytest.raises(ConfigError, match=text):
            dataclasses.replace(config, **changed)
    with pytest.raises(UnsupportedModel, match="mamba"):
        dataclasses.replace(config, architecture="mamba")
