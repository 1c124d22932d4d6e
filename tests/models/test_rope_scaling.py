"""Angles of rotary positions, plain and stretched, against transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_builder import Tensor, llama

from tidemill.errors import ConfigError, CorruptFile
from tidemill.models.config import DecoderConfig
from tidemill.models.gguf import GGUFFile
from tidemill.models.rope_scaling import RopeScaling, inverse_frequencies

transformers = pytest.importorskip("transformers")
SCALINGS: dict[str, dict[str, Any]] = {
    "plain": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama 3.1": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn with its own settings": {"rope_type": "yarn", "factor": 16.0, "beta_fast": 20.0}
    | {"beta_slow": 2.0, "attention_factor": 0.9, "original_max_position_embeddings": 4096},
}


def peer(scaling: dict[str, Any], head_dim: int, theta: float) -> Any:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        num_hidden_layers=1,
        max_position_embeddings=131072,
        rope_parameters=scaling | {"rope_theta": theta},
    )
    return config, LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_the_angles_are_those_of_transformers(scaling: str, head_dim: int, theta: float) -> None:
    config, rotary = peer(SCALINGS[scaling], head_dim, theta)
    found = DecoderConfig.from_hf(config.to_dict())
    expected = rotary.inv_freq.numpy()
    np.testing.assert_allclose(found.inverse_frequencies(0), expected, rtol=1e-6)
    assert found.rope_magnitude(0) == pytest.approx(rotary.attention_scaling)


def test_llama_3s_divisors_in_a_gguf_file_say_the_same(tmp_path: Path) -> None:
    scaled = RopeScaling(kind="llama3", factor=8.0, original_context_length=8192)
    expected = inverse_frequencies(8, 5e5, scaled)
    divisors = inverse_frequencies(8, 5e5, None) / expected
    found = llama(llama__rope__freq_base=5e5)
    found.tensors = [*found.tensors, Tensor("rope_freqs.weight", (4,), divisors.tobytes())]
    (tmp_path / "a.gguf").write_bytes(found.build())
    with GGUFFile.open(tmp_path / "a.gguf") as file:
        config = DecoderConfig.from_gguf(file)
    np.testing.assert_allclose(config.inverse_frequencies(0), expected, rtol=1e-6)
    assert config.rope_scaling is not None
    assert config.rope_scaling.factor == 8.0


@pytest.mark.parametrize("divisors", [(1.0, 0.0, 1.0, 1.0), (1.0, math.nan, 1.0, 1.0), (1.0,) * 3])
def test_divisors_that_make_no_sense_are_refused(
    divisors: tuple[float, ...], tmp_path: Path
) -> None:
    data = np.array(divisors, np.float32).tobytes()
    found = llama()
    found.tensors = [*found.tensors, Tensor("rope_freqs.weight", (len(divisors),), data)]
    (tmp_path / "a.gguf").write_bytes(found.build())
    with GGUFFile.open(tmp_path / "a.gguf") as file, pytest.raises(CorruptFile, match="divisor"):
        DecoderConfig.from_gguf(file)


def test_yarn_in_a_gguf_file_is_read_as_in_a_config(tmp_path: Path) -> None:
    found = llama(
        llama__rope__scaling__type="yarn",
        llama__rope__scaling__factor=4.0,
        llama__rope__scaling__original_context_length=16,
    )
    (tmp_path / "a.gguf").write_bytes(found.build())
    with GGUFFile.open(tmp_path / "a.gguf") as file:
        scaling = DecoderConfig.from_gguf(file).rope_scaling
    assert scaling == RopeScaling(kind="yarn", factor=4.0, original_context_length=16)
    assert scaling.magnitude == pytest.approx(0.1 * math.log(4) + 1)


def test_sliding_layers_are_never_stretched() -> None:
    config = transformers.Gemma3TextConfig(num_hidden_layers=6).to_dict()
    config["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    found = DecoderConfig.from_hf(config)
    np.testing.assert_array_equal(found.inverse_frequencies(0), inverse_frequencies(256, 1e4, None))
    np.testing.assert_allclose(
        found.inverse_frequencies(5), inverse_frequencies(256, 1e6, None) / 8, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"kind": "magic"}, "kind='magic'"),
        ({"factor": 0.0}, "factor=0.0"),
        ({"factor": math.nan}, "factor=nan"),
        ({"beta_fast": 1e-300}, "beta_fast=1e-300"),
        ({"original_context_length": 2**60}, "from 1 to"),
        ({"kind": "llama3", "frequency_divisors": (1.0, 0.0)}, "frequency_divisors"),
        ({"original_context_length": 0}, "original_context_length=0"),
        ({"high_freq_factor": 1.0}, "more than low_freq_factor"),
        ({"attention_factor": -1.0}, "attention_factor=-1.0"),
    ],
)
def test_a_scaling_that_makes_no_sense_is_refused(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        RopeScaling(**({"kind": "yarn"} | changed))
