"""Laws of the mechanism: codebooks, allocation, rotations, tiles, the store."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.systems.blockgtq.tiny_models import FREQUENCIES, layer, statistics

from tidemill.models.hf_rope import rotate
from tidemill.models.lloyd_max import Marginal, codebook, distortion
from tidemill.models.rotation import rotation
from tidemill.native import available_levels
from tidemill.systems.blockgtq import (
    Calibration,
    PackedStore,
    Window,
    allocate,
    allocate_within,
    kernels,
)
from tidemill.systems.blockgtq.allocator import predicted
from tidemill.systems.blockgtq.config import Mode

MODES = [("uniform", False), ("paper", False), ("compact", False), ("compact", True)]
# Max 1960 for 1-5 bits; 6-8 bits from solving Lloyd's equations to 1e-13 by Newton steps
KNOWN = (0.363380, 0.117482, 0.0345478, 0.00950101, 0.00250467, 6.4424e-4, 1.63478e-4, 4.11851e-5)


def calibration(**rest: int) -> Calibration:
    return Calibration((statistics(**rest),), (0,), "tiny")


@pytest.mark.parametrize("bits", range(1, 9))
def test_gaussian_codebooks_have_the_known_distortion(bits: int) -> None:
    assert distortion(bits, 64, Marginal.GAUSSIAN) == pytest.approx(KNOWN[bits - 1], rel=1e-4)


@pytest.mark.parametrize("dim", [2, 4, 6, 10, 64, 256])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_every_sphere_centroid_is_the_mean_of_its_cell(bits: int, dim: int) -> None:
    centroids = np.array(codebook(bits, dim, Marginal.SPHERE))
    edges = np.concatenate(([-1], (centroids[1:] + centroids[:-1]) / 2, [1]))
    for low, high, centroid in zip(edges[:-1], edges[1:], centroids, strict=True):
        angle = np.arcsin(low) + (np.arange(4000) + 0.5) / 4000 * (np.arcsin(high) - np.arcsin(low))
        weight = np.cos(angle) ** (dim - 2)
        mean = (weight * np.sin(angle)).sum() / weight.sum()
        assert centroid == pytest.approx(mean, abs=1e-5)


def test_one_bit_of_the_circle_is_two_over_pi() -> None:
    assert codebook(1, 2, Marginal.SPHERE)[1] == pytest.approx(2 / np.pi, abs=1e-9)


@given(
    scores=st.lists(st.floats(0, 1e6), min_size=1, max_size=4),
    extra=st.integers(0, 12),
)
@settings(max_examples=60)
def test_the_greedy_allocation_is_the_best_there_is(scores: list[float], extra: int) -> None:
    total = min(len(scores) + extra, 8 * len(scores))
    energy = np.array(scores)
    best = min(
        predicted(energy, widths)
        for widths in itertools.product(range(1, 9), repeat=len(scores))
        if sum(widths) == total
    )
    found = allocate(energy, total)
    assert sum(found) == total
    assert predicted(energy, found) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("bits", [80, 144, 208, 300])
def test_an_allocation_within_a_budget_counts_its_norms(bits: int) -> None:
    energy = np.exp(-np.arange(32) / 4.0)
    widths = allocate_within(energy, bits, 8)
    assert 2 * sum(widths) + 8 * len(set(widths)) <= bits


@pytest.mark.parametrize("dim", [2, 6, 64])
def test_rotations_are_orthogonal_without_reflection(dim: int) -> None:
    found = rotation(dim, 42)
    assert np.allclose(found @ found.T, np.eye(dim), atol=1e-12)
    assert np.linalg.det(found) == pytest.approx(1)


def test_rotations_leave_no_direction_preferred() -> None:
    firsts = np.array([rotation(4, seed)[0] for seed in range(2000)])
    assert np.abs(firsts.mean(axis=0)).max() < 0.05
    assert np.allclose((firsts**2).mean(axis=0), 0.25, atol=0.02)


@pytest.mark.parametrize("v_bits", [3, 8])
@pytest.mark.parametrize(("mode", "peel"), MODES)
def test_codes_are_the_same_at_every_level(mode: str, peel: bool, v_bits: int) -> None:
    k_bits = 3.5 if mode == "paper" else 3
    head = calibration().plan(k_bits, v_bits, mode, mean_peel=peel).heads[0][0]
    _, keys, values = layer(seed=5)
    tiles = []
    for level in available_levels():
        codec = head.native(FREQUENCIES, level)
        buffer = np.zeros(10 * codec.tile_bytes, np.uint8)
        kernels.load(level).encode(codec, keys[0], values[0], buffer, 0, 7)
        tiles.append(buffer)
    assert all((other == tiles[0]).all() for other in tiles[1:])


@pytest.mark.parametrize(("mode", "peel"), MODES)
def test_keys_and_values_come_back_within_the_predicted_error(mode: str, peel: bool) -> None:
    plan = calibration(tokens=600).plan(3, 3, mode, mean_peel=peel)
    _, keys, values = layer(tokens=400, seed=1)
    turned = rotate(keys, FREQUENCIES, np.arange(400))
    store = PackedStore(plan.heads[0])
    store.append(turned[None], values[None])
    got_keys, got_values = store.read()
    source = statistics(tokens=600)
    energy = (source.residual_energy if peel else source.key_energy)[0]
    head = plan.heads[0][0]
    lost = ((got_keys[0, 0] - turned[0]) ** 2).sum(axis=1).mean()
    assert lost == pytest.approx(head.distortion(energy) * energy.sum(), rel=0.3)
    share = ((got_values[0] - values) ** 2).sum() / (values**2).sum()
    assert share == pytest.approx(distortion(3, 64, head.marginal), rel=0.08)


@pytest.mark.parametrize("v_bits", [1, 2, 4, 8])
def test_values_of_any_width_come_back_within_the_known_error(v_bits: int) -> None:
    plan = calibration(tokens=600).plan(3, v_bits)
    _, keys, values = layer(tokens=400, seed=1)
    store = PackedStore(plan.heads[0])
    store.append(keys[None], values[None])
    share = ((store.read()[1][0] - values) ** 2).sum() / (values**2).sum()
    # what is kept has the value's norm again, to within half a step of its eight bits
    low, high = plan.heads[0][0].v_range
    norm = ((high - low) / 254 * np.log(2)) ** 2 / 12
    turned = 2 - 2 * np.sqrt(1 - distortion(v_bits, 64, Marginal.SPHERE))
    assert share == pytest.approx(turned + norm, rel=0.1)


@pytest.mark.parametrize("v_bits", [2, 8])
def test_bits_are_counted_to_the_byte(v_bits: int) -> None:
    for mode, peel in MODES:
        head = calibration().plan(3, v_bits, mode, mean_peel=peel).heads[0][0]
        assert head.codec.tile_bytes == 32 * (head.key_bits + head.value_bits) // 8
        if mode == "compact":
            assert head.key_bits <= 3 * 64 + 16


def test_a_block_of_more_energy_never_gets_fewer_bits() -> None:
    source = statistics()
    widths = np.array(calibration().plan(3, 3, Mode.PAPER).heads[0][0].widths)
    score = source.query_energy[0] + source.key_energy[0]
    assert (np.diff(widths[np.argsort(-score, kind="stable")]) <= 0).all()


def test_a_zero_vector_comes_back_as_zero() -> None:
    plan = calibration().plan(3, 3, "compact", mean_peel=False)
    store = PackedStore(plan.heads[0])
    store.append(np.zeros((1, 2, 5, 64), np.float32), np.zeros((1, 2, 5, 64), np.float32))
    assert not any(x.any() for x in store.read())


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 33, 100])
def test_packing_in_pieces_gives_what_packing_at_once_does(cut: int) -> None:
    plan = calibration().plan(3, 3)
    _, keys, values = layer(tokens=133, seed=2)
    whole, pieces = PackedStore(plan.heads[0]), PackedStore(plan.heads[0])
    whole.append(keys[None], values[None])
    for part in (slice(0, cut), slice(cut, None)):
        pieces.append(keys[None, :, part], values[None, :, part])
    assert all(np.array_equal(a, b) for a, b in zip(whole.read(), pieces.read(), strict=True))
    assert whole.nbytes == pieces.nbytes


@pytest.mark.parametrize(("sink", "recent"), [(0, 0), (4, 0), (0, 16), (4, 16)])
def test_cropped_tokens_can_be_written_again(sink: int, recent: int) -> None:
    plan = calibration().plan(3, 3)
    _, keys, values = layer(tokens=120, seed=3)
    once = PackedStore(plan.heads[0], Window(sink))
    again = PackedStore(plan.heads[0], Window(sink, recent))
    once.append(keys[None], values[None])
    again.append(keys[None], values[None])
    again.append(10 * keys[None, :, :50], values[None, :, :50])
    again.crop(50)
    again.append(keys[None], values[None])
    assert again.length == 240
    again.crop(120)
    got, wanted = again.read(), once.read()
    packed = slice(sink, 120)
    assert np.array_equal(got[0][:, :, packed], wanted[0][:, :, packed]) or recent
    assert got[0].shape == wanted[0].shape
    again.crop(120)
    assert again.length == 0


def test_windows_stay_dense() -> None:
    plan = calibration().plan(2, 2)
    _, keys, values = layer(tokens=100, seed=4)
    store = PackedStore(plan.heads[0], Window(sink=4, recent=16))
    for start in range(0, 100, 7):
        store.append(keys[None, :, start : start + 7], values[None, :, start : start + 7])
    got = store.read()[0][0]
    assert np.allclose(got[:, :4], keys[:, :4], rtol=1e-3, atol=1e-3)
    assert np.allclose(got[:, -16:], keys[:, -16:], rtol=1e-3, atol=1e-3)
    assert not np.allclose(got[:, 4:-16], keys[:, 4:-16], rtol=1e-3, atol=1e-3)


def test_a_sliding_layer_does_not_grow() -> None:
    plan = calibration().plan(3, 3)
    _, keys, values = layer(tokens=300, seed=4)
    store = PackedStore(plan.heads[0], Window(sliding=64))
    sizes = []
    for _ in range(20):
        store.append(keys[None, :, :40], values[None, :, :40])
        sizes.append(store.nbytes)
    assert max(sizes) <= 10 * plan.heads[0][0].codec.tile_bytes * 2
    assert store.visible == 63


def test_rows_can_be_selected_and_repeated() -> None:
    plan = calibration().plan(3, 3)
    _, keys, values = layer(tokens=40, seed=4)
    store = PackedStore(plan.heads[0])
    store.append(np.stack([keys, -keys, 2 * keys]), np.stack([values] * 3))
    before = store.read()[0]
    store.select([2, 0, 2])
    assert np.array_equal(store.read()[0], before[[2, 0, 2]])
    store.append(np.stack([keys] * 3), np.stack([values] * 3))
    assert store.length == 80
