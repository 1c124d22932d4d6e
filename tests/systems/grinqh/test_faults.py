"""Bad input: one clear error each, and nothing lost or half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.grinqh import GradedMatrix, GrinqhConfig, NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.calibration import Calibration, statistics_of
from tidemill.systems.grinqh.checkpoint import CONFIG, KEY, WEIGHTS, load, save


@pytest.fixture
def graded() -> GradedMatrix:
    draw = np.random.default_rng(0)
    return GradedMatrix.quantise(draw.standard_normal((300, 40)).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"decode_bits": 0.1}, "decode_bits=0.1"),
        ({"decode_bits": 7}, "decode_bits=7"),
        ({"block": 3}, "block=3"),
        ({"outlier": 1.0}, "outlier=1.0"),
        ({"tokens": 1000}, "tokens=1000"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_a_setting_that_cannot_be_names_field_and_range(change: dict, names: str) -> None:
    with pytest.raises(ConfigError, match="must be") as caught:
        GrinqhConfig(**change)
    assert names in str(caught.value)


def test_a_matrix_of_nothing_but_outliers_is_refused_and_named() -> None:
    weight = (np.random.default_rng(0).random((200, 200)) < 0.1).astype(np.float32)
    with pytest.raises(InputError, match=r"layers\.3\.up — .*beyond"):
        GradedMatrix.quantise(weight, "layers.3.up", outlier=2.0)


def test_one_enormous_weight_does_not_spoil_the_others() -> None:
    weight = np.random.default_rng(0).standard_normal((300, 200)).astype(np.float32)
    weight[17, 5] = 1e4
    found = GradedMatrix.quantise(weight).dequantise()
    assert found[17, 5] == pytest.approx(1e4, rel=1e-3)
    others = np.delete(np.delete(np.stack([found - weight, weight]), 17, 1), 5, 2)
    assert np.linalg.norm(others[0]) < 0.03 * np.linalg.norm(others[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_refused(bad: float) -> None:
    x = np.ones((2, 8), np.float32)
    x[1, 3] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        Selector(np.ones(8, np.float32)).within(x, 2.0)


def test_a_huge_input_does_not_overflow_the_sums(graded: GradedMatrix) -> None:
    x = np.full((1, 40), 1e15, np.float32)
    x[0, 7] = -1e15
    y = NativeMatrix(graded).apply(x, np.full((1, 40), 6, np.uint8), Threads(1))
    exact = x @ graded.dequantise().T
    assert np.linalg.norm(y - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x | {"levels": np.full((1, 40), 5, np.uint8)},
        lambda x: x | {"levels": np.full((1, 39), 2, np.uint8)},
        lambda x: x | {"x": np.ones((2, 40), np.float32)},
    ],
)
def test_the_kernel_checks_what_it_is_given(
    graded: GradedMatrix, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    native = NativeMatrix(graded).native
    given = {"x": np.ones((1, 40), np.float32), "levels": np.full((1, 40), 2, np.uint8)}
    out = np.empty((1, 300), np.float32)
    with pytest.raises(ValueError, match="levels"):
        native.apply(**spoil(given), y=out, threads=Threads(1).native)


def test_a_level_that_is_not_stored_is_refused() -> None:
    weight = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    native = NativeMatrix(GradedMatrix.quantise(weight, levels=(0, 2, 3)))
    with pytest.raises(ValueError, match="stored"):
        native.apply(np.ones((1, 40), np.float32), np.full((1, 40), 6, np.uint8), Threads(1))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda about: about | {"format_version": 1},
        lambda about: about | {"quant_method": "awq"},
        lambda about: about | {"sha256": "0" * 64},
        lambda about: about | {"shapes": {"a": [300, 41, 2, 6]}},
        lambda about: about | {"edges": []},
        lambda about: {},
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    graded: GradedMatrix, tmp_path: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    save({"a": graded}, tmp_path)
    path = tmp_path / CONFIG
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {KEY: spoil(config[KEY])}))
    with pytest.raises(CorruptFile, match="quantise"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 5000, -1])
def test_a_truncated_file_is_refused(graded: GradedMatrix, tmp_path: Path, keep: int) -> None:
    save({"a": graded}, tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match="checksum"):
        load(tmp_path)


def test_a_folder_that_cannot_be_written_leaves_what_was_there(
    graded: GradedMatrix, tmp_path: Path
) -> None:
    save({"a": graded}, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        save({"a": graded}, tmp_path, about={"levels": object()})
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(after) == set(before)
    assert after[CONFIG] == before[CONFIG]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder"):
        save({"a": graded}, tmp_path / "file")


def test_bits_beyond_any_calibration_are_refused() -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((30, 20)).astype(np.float32)
    known = Calibration({"a": statistics_of(weight, weight)}, 30)
    for bits in (-1, 6.5, float("nan")):
        with pytest.raises(ConfigError, match="bits"):
            known.budgets(bits)
