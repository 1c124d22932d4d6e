"""Laws of the nested format, of the choice of levels, and of the kernel."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from tidemill import native
from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.grinqh import LEVELS, GradedMatrix, NativeMatrix, Threads, selection
from tidemill.systems.grinqh.calibration import Calibration, _Energies
from tidemill.systems.grinqh.checkpoint import WEIGHTS, load, save
from tidemill.systems.grinqh.codebook import SHARED, gaussian
from tidemill.systems.grinqh.graded_matrix import pack, unpack
from tidemill.systems.grinqh.kernels import Selector
from tidemill.systems.grinqh.reading import outlier_bytes

NATIVE = native.available_levels()


def matrix(rows: int = 300, cols: int = 520, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    scale = np.exp(random.standard_normal(rows))[:, None] * np.exp(random.standard_normal(cols))
    return (random.standard_normal((rows, cols)) * scale).astype(np.float32)


def graded(weight: np.ndarray, levels: np.ndarray, quantised: GradedMatrix) -> np.ndarray:
    found = np.zeros_like(weight)
    for level in LEVELS:
        found[:, levels == level] = quantised.dequantise(level)[:, levels == level]
    return found


TOGETHER = {2: 4, 3: 4, 4: 2, 6: 2}


def integers(quantised: GradedMatrix, level: int, columns: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Products of the last bits' unit, (m, columns), of integer inputs, slowly."""
    values = quantised.codebook.values[level].astype(np.float64)
    largest = np.abs(values).max()
    codes = quantised.codes()[:, columns] >> (LEVELS[-1] - level)
    if level == 2:  # rounded two columns at a time
        fine = (np.rint(values / largest * 32767).astype(int)[codes] * x >> 14) + 1 >> 1
        fine[:, ::2] += np.pad(fine, ((0, 0), (0, fine.shape[1] % 2)))[:, 1::2]
        fine[:, 1::2] = 0
        return ((fine + 128) >> 8) * 256
    if level < 6:
        fine = (np.rint(values / largest * 32767).astype(int)[codes] * x >> 14) + 1 >> 1
        return ((fine + 128) >> 8) * 256
    cells = values.reshape(16, 4) / largest
    center = np.rint(cells.mean(axis=1) * 32767).astype(int)
    first = 7 - 2 * SHARED  # of the cells that share their steps, the one they are taken from
    step = np.rint(cells[first] * 32767 - center[first, None]).astype(int).ravel()
    fine = (center[codes >> 2] * x >> 14) + 1 >> 1
    whole = (fine + 128) >> 8
    rest = (step[codes] * x >> 14) + 1 >> 1
    return whole * 256 + 32 * ((fine - 256 * whole + 16 >> 5) + (rest + 16 >> 5))


def product(
    quantised: GradedMatrix, x: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's integers, slowly, and how far they may be from the exact product."""
    scaled = x * quantised.col_scale.astype(np.float32)
    y, bound = np.zeros(quantised.rows), np.zeros(quantised.rows)
    for level in LEVELS:
        values = quantised.codebook.values[level]
        largest = np.abs(values).max()
        codes = quantised.codes() >> (LEVELS[-1] - level)
        exact = quantised.scaled(level) - values[codes]
        columns = np.flatnonzero(levels == level)
        y += (exact[:, columns] * scaled[columns]).sum(axis=1)
        for chunk in (columns[i : i + 128] for i in range(0, len(columns), 128)):
            sizes = np.add.reduceat(np.abs(scaled[chunk]), range(0, len(chunk), TOGETHER[level]))
            top = sizes.max()
            inputs = np.rint(scaled[chunk] * np.float32(32000 / top)).astype(int)
            unit = float(top * largest / 32000) * 32768 / 32767
            y += integers(quantised, level, chunk, inputs).sum(axis=1) * unit
            bound += (40 if level == 6 else 135) * len(chunk) * unit
    rows = quantised.row_scale.astype(np.float64)
    return y * rows, (bound + 1e-3) * rows


def selector(quantised: GradedMatrix, level: str | None = None) -> Selector:
    return Selector(np.square(quantised.col_norm.astype(np.float32)), level=level)


def test_a_code_begins_with_the_codes_of_the_levels_below() -> None:
    tree = gaussian()
    for low, high in itertools.pairwise(LEVELS):
        parts = tree.values[high].reshape(1 << low, -1)
        assert (parts.min(axis=1) <= tree.values[low]).all()
        assert (tree.values[low] <= parts.max(axis=1)).all()


def test_each_level_errs_about_as_little_as_a_quantiser_of_its_own() -> None:
    found = [gaussian().distortions[level] ** 0.5 for level in LEVELS]
    assert (np.array(found) < [0.36, 0.19, 0.10, 0.03]).all()


def test_slopes_fall() -> None:
    assert (np.diff(gaussian().slopes()) < 0).all()


@pytest.mark.parametrize("rows", [1, 128, 255, 256, 300, 640, 700])
def test_bit_planes_give_their_codes_back(rows: int) -> None:
    codes = np.random.default_rng(rows).integers(0, 64, (rows, 5)).astype(np.uint8)
    assert (unpack(pack(codes), rows) == codes).all()


def test_error_falls_from_level_to_level_and_storage_is_that_of_one_copy() -> None:
    weight = matrix(1024, 1024)
    quantised = GradedMatrix.quantise(weight)
    errors = [np.linalg.norm(quantised.dequantise(level) - weight) for level in (0, *LEVELS)]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] / errors[0] < 0.03
    assert quantised.stored_bits <= LEVELS[-1] + 0.3


def test_zero_rows_and_columns_stay_exactly_zero() -> None:
    weight = matrix()
    weight[7] = weight[:, 11] = 0
    found = GradedMatrix.quantise(weight).dequantise(2)
    assert not found[7].any()
    assert not found[:, 11].any()
    assert not GradedMatrix.quantise(np.zeros((3, 4), np.float32)).dequantise().any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    weight = matrix()
    weight[3, 4] = bad
    with pytest.raises(InputError, match=r"model\.layer\.q"):
        GradedMatrix.quantise(weight, "model.layer.q")


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        GradedMatrix.quantise(np.zeros((0, 4), np.float32))


@pytest.mark.parametrize("bits", [0, 1.3, 2, 2.5, 3, 4.7, 6])
def test_a_budget_is_met_to_one_step(bits: float) -> None:
    energy = np.random.default_rng(1).standard_normal(640).astype(np.float32) ** 2
    total = int(selection.by_budget(energy, bits).sum(dtype=int))
    assert bits * 640 - 2 < total <= bits * 640


def test_more_energy_never_gets_fewer_bits_and_ties_go_by_index() -> None:
    energy = np.random.default_rng(2).standard_normal(640).astype(np.float32) ** 2
    assert (np.diff(selection.by_budget(energy, 2.5)[np.argsort(energy)].astype(int)) >= 0).all()
    assert selection.by_budget(np.ones(4, np.float32), 1.0).tolist() == [2, 2, 0, 0]


def test_one_threshold_over_layers_gives_the_bits_asked_for() -> None:
    random = np.random.default_rng(3)
    groups, energies = {}, {}
    for name, scale, rows in (("small", 1e-3, 256), ("large", 1.0, 1024)):
        energy = (random.standard_normal((40, 640)) ** 2 * scale).astype(np.float32)
        seen = _Energies(np.ones(640, np.float32))
        seen.add(np.sqrt(energy))
        groups[name], energies[name] = seen.statistics(rows), energy
    known = Calibration(groups, 40)
    waters, budgets = known.waters(2.5), known.budgets(2.5)
    found = {
        name: selection.by_threshold(energies[name].reshape(-1), waters[name]).mean()
        for name in groups
    }
    assert (256 * found["small"] + 1024 * found["large"]) / 1280 == pytest.approx(2.5, abs=0.02)
    assert found == pytest.approx(budgets, abs=0.02)
    assert found["small"] < found["large"]


def test_fixed_shares_and_blocks() -> None:
    energy = np.arange(16, dtype=np.float32)
    shares = selection.by_proportion(energy, {4: 0.25, 3: 0.5, 2: 0.25})
    assert shares.tolist() == [2] * 4 + [3] * 8 + [4] * 4
    assert (np.diff(selection.by_budget(energy, 3.0, block=4).reshape(4, 4), axis=1) == 0).all()


@pytest.mark.parametrize("bits", [-1, 6.1, float("nan")])
def test_bits_out_of_range_are_refused(bits: float) -> None:
    with pytest.raises(ConfigError, match="bits"):
        selection.by_budget(np.ones(8, np.float32), bits)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("block", [1, 8])
def test_the_kernel_selects_as_the_reference(level: str, block: int) -> None:
    quantised = GradedMatrix.quantise(matrix())
    found = selector(quantised, level)
    x = np.random.default_rng(4).standard_normal(520).astype(np.float32)
    for bits in (0.0, 2.0, 2.5, 3.7, 6.0):
        levels = found.within(x[None], bits, block)[0]
        energy = x * x * np.square(quantised.col_norm.astype(np.float32))
        expected = selection.by_budget(energy, bits, block)
        assert levels.sum(dtype=int) == expected.sum(dtype=int)
        assert (levels != expected).mean() <= (0 if block == 1 else 0.05)


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("rows", [1, 256, 640, 700])
@pytest.mark.parametrize("bits", [1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
def test_the_kernel_multiplies_as_the_dequantised_matrix(
    level: str, rows: int, bits: float
) -> None:
    weight = matrix(rows)
    quantised = GradedMatrix.quantise(weight)
    kernel = NativeMatrix(quantised, level)
    x = np.random.default_rng(5).standard_normal(520).astype(np.float32)
    levels = selector(quantised, level).within(x[None], bits)[0]
    y = kernel.apply(x, levels, Threads(2, level))
    expected, bound = product(quantised, x, levels)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))
    exact = (graded(weight, levels, quantised) * x).sum(axis=1)
    assert (np.abs(y - exact) <= bound).all()
    assert (y == kernel.apply(x, levels, Threads(1, level))).all()


@pytest.mark.skipif(len(NATIVE) < 2, reason="this machine runs one native level only")
def test_both_native_levels_agree() -> None:
    quantised = GradedMatrix.quantise(matrix())
    x = np.random.default_rng(6).standard_normal(520).astype(np.float32)
    levels = selector(quantised).within(x[None], 3.0)[0]
    first, second = (NativeMatrix(quantised, n).apply(x, levels, Threads(1, n)) for n in NATIVE)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-4 * float(np.abs(first).max()))


def test_what_is_saved_is_loaded_and_damage_is_refused(tmp_path: Path) -> None:
    quantised = GradedMatrix.quantise(matrix())
    save({"a": quantised}, tmp_path)
    assert (load(tmp_path)["a"].dequantise(3) == quantised.dequantise(3)).all()
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match="checksum"):
        load(tmp_path)
    with pytest.raises(InputError, match="must hold"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("rows", [1, 300, 5000])
@pytest.mark.parametrize("cols", [37, 2100])
def test_outliers_are_counted_as_the_kernel_keeps_them(rows: int, cols: int) -> None:
    quantised = GradedMatrix.quantise(matrix(rows, cols))
    assert outlier_bytes(quantised) == NativeMatrix(quantised).native.outlier_bytes


@pytest.mark.parametrize("level", NATIVE)
@pytest.mark.parametrize("rows", [1, 128, 300, 640, 700])
def test_tiles_are_the_dequantised_matrix(level: str, rows: int) -> None:
    quantised = GradedMatrix.quantise(matrix(rows, 37))
    kernel, threads = NativeMatrix(quantised, level), Threads(2, level)
    for width in LEVELS:
        tiles = [
            kernel.tile(width, range(first, first + 1), threads) for first in range(-(-rows // 256))
        ]
        np.testing.assert_allclose(
            np.concatenate(tiles, axis=1), quantised.dequantise(width).T, rtol=1e-6, atol=0
        )
        assert (kernel.plane(width) == quantised.planes[width]).all()


@pytest.mark.parametrize("levels", [(0, 2, 4), (0, 4), (0, 2, 3, 4, 6)])
@pytest.mark.parametrize("native_level", NATIVE)
def test_fewer_levels_and_thresholds_select_as_the_reference(
    native_level: str, levels: tuple[int, ...]
) -> None:
    random = np.random.default_rng(7)
    x = random.standard_normal((3, 96)).astype(np.float32)
    norm2 = random.random(96).astype(np.float32)
    found = Selector(norm2, levels, native_level)
    for row, energy in zip(x, x * x * norm2, strict=True):
        by_budget = selection.by_budget(energy, 2.5, levels=levels)
        assert (found.within(row[None], 2.5)[0] == by_budget).all()
        by_threshold = selection.by_threshold(energy, 0.01, levels=levels)
        assert (found.above(row[None], 0.01)[0] == by_threshold).all()


@pytest.mark.parametrize("bits", [0.5, 2.0, 2.5, 3.0, 4.5, 6.0])
def test_fixed_shares_have_the_average_asked_for(bits: float) -> None:
    energy = np.random.default_rng(8).random(4000).astype(np.float32)
    levels = selection.by_proportion(energy, selection.shares_for(bits))
    assert levels.mean() == pytest.approx(bits, abs=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_of_as_many_bits_errs_less(seed: int) -> None:
    energy = np.random.default_rng(seed).standard_normal(5).astype(np.float32) ** 2
    distortion = gaussian().distortions
    levels = selection.by_budget(energy, 2.6)

    def error(choice: tuple[int, ...]) -> float:
        return sum(float(e) * distortion[b] for e, b in zip(energy, choice, strict=True))

    best = min(
        error(choice)
        for choice in itertools.product((0, *LEVELS), repeat=5)
        if sum(choice) <= levels.sum()
    )
    assert error(tuple(map(int, levels))) == pytest.approx(best, rel=1e-5)
