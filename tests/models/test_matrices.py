"""Packed matrices: exact weights, products near the float ones, equal bits on every build."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill.native import available_levels, kernels

gguf = pytest.importorskip("gguf", reason="the peer that defines the formats is not installed")

TYPES = ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K")
FLOATS = ("F32", "F16", "BF16")
# Where a block keeps its fp16 scales (and minima): random bytes there would be NaN or huge.
HALVES = {
    "Q8_0": (0,),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
}
TOWERING = 3.0  # kTowering of activations.hpp
SHAPES = ((8, 256), (64, 512), (13, 768), (1, 256), (523, 256))


def random_raw(name: str, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """Every code, sub-scale and sign that the format can hold: bytes (rows, row bytes)."""
    rng = np.random.default_rng(seed)
    if name in FLOATS:
        kind = gguf.GGMLQuantizationType[name]
        values = rng.standard_normal((rows, cols), dtype=np.float32) * 0.05
        return gguf.quants.quantize(values, kind).view(np.uint8).reshape(rows, -1)
    columns, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (rows, cols // columns, size), dtype=np.uint8)
    for at in HALVES[name]:
        scales = rng.normal(0, 0.01, (rows, cols // columns)).astype(np.float16)
        blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def pack(room: ModuleType, name: str, raw: NDArray[np.uint8], cols: int):
    kind = gguf.GGMLQuantizationType[name].value
    return room.pack_linear(kind, raw.shape[0], cols, raw.reshape(-1), room.Pool(2))


def reference(name: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]).astype(np.float32)


def inputs(tokens: int, cols: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, cols), dtype=np.float32)


def quantised(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the kernels make of an input: int8 codes in blocks of 32, times their scale.

    What towers over its token's rms is kept as it is, and its block coded without it.
    """
    rms = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True))
    towers = np.abs(x) > TOWERING * rms
    blocks = np.where(towers, np.float32(0), x).reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, where=largest > 0, out=np.zeros_like(largest))
    codes = np.rint(blocks * inverse).astype(np.float64)
    return np.where(towers, x, (codes * (largest / np.float32(127))).reshape(x.shape))


BUILDS = [*((level, True) for level in available_levels()), ("avx2", False)]
"""Levels, and whether VNNI may be used where the CPU has it."""


@pytest.fixture(params=[build for build in BUILDS if build[0] in available_levels()], ids=str)
def room(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    level, vnni = request.param
    room = kernels("models", level)
    before = room.set_vnni(vnni)
    yield room
    room.set_vnni(before)


@pytest.mark.parametrize("name", TYPES + FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_unpacked_weights_are_those_of_gguf_bit_for_bit(room, name, shape):
    raw = random_raw(name, *shape)
    matrix = pack(room, name, raw, shape[1])
    found = matrix.unpack(0, shape[0])
    assert (matrix.rows, matrix.cols) == shape
    assert np.array_equal(found.view(np.uint32), reference(name, raw).view(np.uint32))


@pytest.mark.parametrize("name", TYPES + FLOATS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 8, 33, 128, 131])
def test_products_are_those_of_the_dequantised_weights(room, name, tokens):
    rows, cols = 77, 512
    raw = random_raw(name, rows, cols)
    matrix = pack(room, name, raw, cols)
    x = inputs(tokens, cols)
    (found,), finite = room.multiply_shared([matrix], x, room.Pool(2))
    seen = x.astype(np.float64) if name in FLOATS else quantised(x)
    weights = reference(name, raw).astype(np.float64)
    expected = seen @ weights.T
    bound = np.abs(seen) @ np.abs(weights.T)  # a sum's rounding is relative to its terms
    assert finite
    assert np.all(np.abs(found - expected) <= 2e-6 * bound)


@pytest.mark.parametrize("name", TYPES)
def test_quantising_the_input_turns_the_product_by_very_little(room, name):
    raw = random_raw(name, 256, 1024)
    matrix = pack(room, name, raw, 1024)
    x = inputs(4, 1024)
    (found,), _ = room.multiply_shared([matrix], x, room.Pool(1))
    exact = x @ reference(name, raw).T
    cosine = np.sum(found * exact) / np.linalg.norm(found) / np.linalg.norm(exact)
    assert cosine > 0.9999


@pytest.mark.parametrize("name", TYPES + FLOATS)
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_every_build_gives_the_same_bits(name, tokens):
    raw, x = random_raw(name, 61, 512), inputs(tokens, 512)
    products = []
    for level in available_levels():
        room = kernels("models", level)
        for vnni in (False, True):
            before = room.set_vnni(vnni)
            (found,), _ = room.multiply_shared([pack(room, name, raw, 512)], x, room.Pool(1))
            room.set_vnni(before)
            products.append(found)
    assert all(np.array_equal(found, products[0]) for found in products)


@pytest.mark.parametrize("tokens", [1, 7, 130])
def test_results_do_not_depend_on_threads_or_on_neighbours(room, tokens):
    cols = 768
    raws = [random_raw(name, rows, cols) for name, rows in (("Q5_0", 403), ("Q6_K", 65))]
    matrices = [
        pack(room, name, raw, cols) for name, raw in zip(("Q5_0", "Q6_K"), raws, strict=True)
    ]
    x = inputs(tokens, cols)
    alone = [room.multiply_shared([matrix], x, room.Pool(1))[0][0] for matrix in matrices]
    for threads in (1, 2, 3):
        together, _ = room.multiply_shared(matrices, x, room.Pool(threads))
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    single = np.concatenate(
        [room.multiply_shared(matrices[:1], row[None], room.Pool(2))[0][0] for row in x]
    )
    assert np.array_equal(single, alone[0])


def test_inputs_that_tower_over_the_rest_cost_no_precision(room):
    """A product's error follows the token's energy, not its largest input."""
    cols = 2048
    weights = inputs(64, cols, seed=3).round(2)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    matrix = pack(room, "Q8_0", raw, cols)
    x = inputs(5, cols)
    x[:, ::64] *= np.float32(60)  # in every other block
    (found,), _ = room.multiply_shared([matrix], x, room.Pool(1))
    exact = x.astype(np.float64) @ reference("Q8_0", raw).astype(np.float64).T
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error < TOWERING / 127 / np.sqrt(12)


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_K", "Q6_K"])
def test_extreme_codes_do_not_overflow(room, name):
    columns, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    raw = np.full((8, 512 // columns, size), 0x80 if name == "Q8_0" else 0xFF, np.uint8)
    for at in HALVES[name]:
        raw[..., at : at + 2] = np.float16(1).reshape(1).view(np.uint8)
    raw = raw.reshape(8, -1)
    x = np.full((1, 512), -3.0, np.float32)
    (found,), _ = room.multiply_shared([pack(room, name, raw, 512)], x, room.Pool(1))
    assert found == pytest.approx(x.astype(np.float64) @ reference(name, raw).T, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_is_reported_and_shows_only_in_its_token(room, value):
    raw = random_raw("Q5_0", 24, 256)
    matrix = pack(room, "Q5_0", raw, 256)
    x = inputs(3, 256)
    (clean,), _ = room.multiply_shared([matrix], x, room.Pool(1))
    x[1, 100] = value
    (found,), finite = room.multiply_shared([matrix], x, room.Pool(2))
    assert not finite
    assert np.isnan(found[1]).all()
    assert np.array_equal(found[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-31, 1e30])
def test_zero_tiny_and_huge_inputs_stay_finite(room, scale):
    matrix = pack(room, "Q8_0", random_raw("Q8_0", 8, 64), 64)
    x = (inputs(2, 64) * np.float32(scale)).astype(np.float32)
    (found,), finite = room.multiply_shared([matrix], x, room.Pool(1))
    assert finite
    assert np.isfinite(found).all()
    assert (found == 0).all() == (scale < 1e-30)


def test_float_matrices_take_any_number_of_columns(room):
    raw = random_raw("F16", 9, 37)
    matrix = pack(room, "F16", raw, 37)
    x = inputs(2, 37)
    (found,), _ = room.multiply_shared([matrix], x, room.Pool(1))
    assert found == pytest.approx(x @ reference("F16", raw).T, abs=1e-5)


@pytest.mark.parametrize(
    ("type_", "shape", "size", "message"),
    [
        (8, (8, 32), 271, "raw holds 271 bytes, the matrix 272"),
        (8, (8, 33), 272, "cols=33 must be a multiple of 32"),
        (12, (8, 32), 144, "cols=32 must be a multiple of 256"),
        (8, (0, 32), 0, "rows and cols"),
        (8, (2**40, 2**40), 0, "rows and cols"),
        (1, (2, 2), 7, "raw holds 7 bytes, the matrix 8"),
        (99, (8, 32), 272, "GGML type 99 cannot be packed"),
    ],
)
def test_bytes_that_are_no_such_matrix_are_refused(room, type_, shape, size, message):
    with pytest.raises(ValueError, match=message):
        room.pack_linear(type_, *shape, np.zeros(size, np.uint8), room.Pool(1))


def test_an_input_of_another_width_is_refused(room):
    matrix = pack(room, "Q8_0", random_raw("Q8_0", 8, 64), 64)
    with pytest.raises(ValueError, match="the matrix has 64 columns, its input 32"):
        room.multiply_shared([matrix], inputs(1, 32), room.Pool(1))
    with pytest.raises(ValueError, match="rows first"):
        matrix.unpack(7, 2)


@pytest.mark.parametrize(("name", "more"), [("Q5_0", 1), ("Q2_K", 1), ("Q3_K", 114 / 110)])
def test_packed_weights_take_hardly_more_memory_than_in_the_file(room, name, more):
    raw = random_raw(name, 896, 1024)
    assert pack(room, name, raw, 1024).bytes == raw.size * more
