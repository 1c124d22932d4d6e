"""Every block format against the gguf package, bit for bit, and Q8_K against its definition."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import UnsupportedModel
from tidemill.models.ggml_types import GGMLType
from tidemill.models.gguf import GGUFFile
from tidemill.models.quants import DEQUANTIZERS, dequantize

gguf = pytest.importorskip("gguf")
PEERED = sorted(set(DEQUANTIZERS) - {GGMLType.Q8_K, GGMLType.F64})


def bits(weights: np.ndarray) -> np.ndarray:
    """Bit patterns with every NaN the same, as its payload is nobody's promise."""
    return np.where(np.isnan(weights), np.float32(np.nan), weights).view(np.uint32)


@pytest.mark.parametrize("kind", PEERED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("blocks", [1, 3, 1030])
def test_random_bytes_unpack_as_in_the_gguf_package(kind: GGMLType, blocks: int) -> None:
    raw = np.random.default_rng(kind).integers(0, 256, blocks * kind.block_bytes, np.uint8)
    with np.errstate(all="ignore"):
        peer = gguf.quants.dequantize(raw[None], gguf.GGMLQuantizationType(int(kind)))
    assert np.array_equal(bits(dequantize(raw, kind)), bits(peer.reshape(-1)))


@pytest.mark.parametrize("kind", PEERED, ids=lambda kind: kind.name)
def test_sizes_are_those_of_the_gguf_package(kind: GGMLType) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind))]
    assert (kind.block_size, kind.block_bytes) == size
    assert kind.bits_per_weight == 8 * size[1] / size[0]


@pytest.mark.parametrize("kind", GGMLType, ids=lambda kind: kind.name)
def test_every_known_type_has_the_number_and_size_of_the_gguf_package(kind: GGMLType) -> None:
    peer = gguf.GGMLQuantizationType[kind.name]
    assert (int(peer), gguf.GGML_QUANT_SIZES[peer]) == (kind, (kind.block_size, kind.block_bytes))


def test_q8_k_is_scale_times_code() -> None:
    rng = np.random.default_rng(8)
    blocks, expected = b"", []
    for scale in (0.5, -2.0, 0.0):
        codes = rng.integers(-128, 128, 256)
        blocks += struct.pack("<f256b16h", scale, *codes, *([7] * 16))
        expected += [np.float32(scale) * np.float32(code) for code in codes]
    assert dequantize(np.frombuffer(blocks, np.uint8), GGMLType.Q8_K).tolist() == expected


def test_f64_is_rounded_once() -> None:
    numbers = np.array([1 / 3, -1e-300, 1e300])
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float32)
    assert dequantize(numbers.view(np.uint8), GGMLType.F64).tolist() == expected.tolist()


def test_a_type_without_a_dequantiser_says_which_have_one() -> None:
    with pytest.raises(UnsupportedModel, match=r"IQ1_S.*Q4_K"):
        dequantize(np.zeros(50, np.uint8), GGMLType.IQ1_S)


@pytest.mark.parametrize("name", ["gemma-3-270m", "qwen2.5-coder-0.5b", "smollm2-135m"])
def test_a_real_layer_unpacks_as_in_the_gguf_package(
    model_path: Callable[[str], Path], name: str
) -> None:
    with GGUFFile.open(model_path(name)) as file:
        for info in file.tensors.values():
            if info.name.startswith("blk.1."):
                raw = file.raw(info.name).reshape(info.shape[0], -1)
                peer = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(int(info.type)))
                found = file.dequantize(info.name)
                assert found.shape == info.shape
                assert np.array_equal(bits(found.reshape(-1)), bits(peer.reshape(-1)))
