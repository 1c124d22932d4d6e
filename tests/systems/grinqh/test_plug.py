"""The plug for the native decoder: its matrices multiply as the format says, and read as told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidemill import native
from tidemill.errors import ConfigError
from tidemill.models.sockets import weight_plug
from tidemill.systems.grinqh import GradedMatrix, GrinqhWeights, NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.codebook import LEVELS

SHAPES = {
    **{"q": (128, 96), "k": (40, 96), "v": (40, 96), "o": (96, 128)},
    **{"gate": (700, 96), "up": (700, 96), "down": (96, 700), "output": (2200, 96)},
}


def weight(role: str, layer: int | None) -> np.ndarray:
    draw = np.random.default_rng([*role.encode(), layer or 0])
    return draw.standard_normal(SHAPES[role]).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return SimpleNamespace(weight=weight, path=path)


@pytest.fixture
def kernels() -> Any:
    return native.kernels("models")


def inputs(tokens: int, cols: int = 96) -> np.ndarray:
    return np.random.default_rng(tokens).standard_normal((tokens, cols)).astype(np.float32)


def multiply(kernels: Any, linears: list[Any], x: np.ndarray, threads: int = 2) -> Any:
    return kernels.multiply_shared(linears, x, kernels.Pool(threads))[0]


def test_one_token_reads_levels_chosen_for_all_that_share_its_input(model, kernels) -> None:
    plug = GrinqhWeights(2.5, cache=None)
    linears = [plug.pack(model, role, 0, None) for role in ("q", "k", "v")]
    matrices = [GradedMatrix.quantise(weight(role, 0)) for role in ("q", "k", "v")]
    norm2 = sum(np.square(each.col_norm.astype(np.float32)) for each in matrices)
    x = inputs(1)
    levels = Selector(norm2).within(x, 2.5)
    expected = [NativeMatrix(each).apply(x, levels, Threads(1)) for each in matrices]
    for found, wanted in zip(multiply(kernels, linears, x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_a_few_tokens_are_each_alone_and_threads_change_nothing(model, kernels) -> None:
    plug = GrinqhWeights(3.0, cache=None)
    linear, x = plug.pack(model, "gate", 0, None), inputs(4)
    together = multiply(kernels, [linear], x)[0]
    for row, wanted in zip(x, together, strict=True):
        assert (multiply(kernels, [linear], row[None], 1)[0][0] == wanted).all()


@pytest.mark.parametrize("role", ["k", "gate", "down"])
def test_a_prompt_reads_the_top_level(model, kernels, role: str) -> None:
    linear = GrinqhWeights(2.0, cache=None).pack(model, role, 0, None)
    x = inputs(21, SHAPES[role][1])
    expected = x @ GradedMatrix.quantise(weight(role, 0)).dequantise().T
    found = multiply(kernels, [linear], x)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_rows_are_unpacked_as_stored(model, kernels) -> None:
    linear = GrinqhWeights(cache=None).pack(model, "gate", 1, None)
    expected = GradedMatrix.quantise(weight("gate", 1)).dequantise()[250:270]
    np.testing.assert_allclose(linear.unpack(250, 20), expected, rtol=1e-5)


def test_a_new_setting_is_taken_up_by_the_first_layer(model, kernels) -> None:
    plug = GrinqhWeights(4.0, cache=None)
    first, later = plug.pack(model, "q", 0, None), plug.pack(model, "down", 1, None)
    x, inner = inputs(1), inputs(1, 700)
    multiply(kernels, [first], x)
    before = multiply(kernels, [later], inner)[0]
    plug.bits = 2.0
    assert (multiply(kernels, [later], inner)[0] == before).all()
    multiply(kernels, [first], x)
    assert (multiply(kernels, [later], inner)[0] != before).any()
    assert plug.bits == 2.0


def test_an_input_that_is_not_finite_shows(model, kernels) -> None:
    linear = GrinqhWeights(cache=None).pack(model, "q", 0, None)
    for tokens in (1, 9):
        x = inputs(tokens)
        x[0, 5] = np.nan
        assert np.isnan(multiply(kernels, [linear], x)[0][0]).all()


def test_what_is_quantised_is_kept_and_damage_is_made_good(model, kernels, tmp_path: Path) -> None:
    folder, x = tmp_path / "cache", inputs(1, 128)
    first = GrinqhWeights(3.0, cache=folder).pack(model, "o", 2, None)
    expected = multiply(kernels, [first], x)[0]
    model.weight = None  # not asked again
    again = GrinqhWeights(3.0, cache=folder).pack(model, "o", 2, None)
    assert (multiply(kernels, [again], x)[0] == expected).all()
    model.weight = weight
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    made = GrinqhWeights(3.0, cache=folder).pack(model, "o", 2, None)
    assert (multiply(kernels, [made], x)[0] == expected).all()


def test_a_head_of_its_own_has_bits_of_its_own(model, kernels) -> None:
    plug = GrinqhWeights.parse("2.0, head=6")
    plug._cache = None
    assert plug.pack(model, "embedding", None, None) is None
    head, x = plug.pack(model, "output", None, None), inputs(1)
    expected = x @ GradedMatrix.quantise(weight("output", None)).dequantise().T
    found = multiply(kernels, [head], x)[0]
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_fewer_bits_are_fewer_bytes(model) -> None:
    sizes = [
        GrinqhWeights(bits, cache=None).pack(model, "gate", 0, None).bytes
        for bits in (2.0, 4.0, float(LEVELS[-1]))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.5 * sizes[2]


def test_the_socket_finds_it_by_name() -> None:
    assert weight_plug("grinqh:2.5").bits == 2.5
    assert weight_plug("grinqh").bits == 3.0


@pytest.mark.parametrize("options", ["7", "many", "3.0,tail=2", "3,head=9", "nan"])
def test_bad_options_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        GrinqhWeights.parse(options)
