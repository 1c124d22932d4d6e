"""Bad input: one clear error each, and nothing lost or half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.blockgtq.tiny_models import ByteTokenizer, layer, llama, statistics

from tidemill.errors import ConfigError, CorruptFile, InputError, UnsupportedModel
from tidemill.models.hf_rope import frequencies_of
from tidemill.models.lloyd_max import Marginal, codebook
from tidemill.systems.blockgtq import Calibration, LayerStatistics, PackedStore, Window, kernels
from tidemill.systems.blockgtq.cache import BlockGTQCache
from tidemill.systems.blockgtq.capture import calibrate
from tidemill.systems.blockgtq.workloads import text


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration((statistics(),), (0,), "tiny", "text", 300)


def store_of(calibration: Calibration, window: Window | None = None) -> PackedStore:
    return PackedStore(calibration.plan(3, 3).heads[0], window, "layer 7")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"k_bits": 0.5}, "k_bits=0.5"),
        ({"k_bits": 9}, "k_bits=9"),
        ({"v_bits": 5}, "v_bits=5"),
        ({"mode": "best"}, "mode='best'"),
        ({"sink": -1}, "sink=-1"),
        ({"recent": 10**9}, "recent="),
        ({"mode": "paper", "mean_peel": True}, "mean_peel=True"),
        ({"mode": "uniform", "k_bits": 2.5}, "k_bits=2.5"),
    ],
)
def test_a_plan_that_cannot_be_names_field_and_range(
    calibration: Calibration, change: dict, names: str
) -> None:
    with pytest.raises(ConfigError, match="must be") as caught:
        calibration.plan(**change)
    assert names in str(caught.value)


def test_codebooks_have_one_to_eight_bits() -> None:
    with pytest.raises(ConfigError, match="bits=9"):
        codebook(9, 64, Marginal.SPHERE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["key", "value"])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_taken(
    calibration: Calibration, bad: float, which: str
) -> None:
    store = store_of(calibration)
    _, keys, values = layer(tokens=40)
    store.append(keys[None], values[None])
    before = [x.copy() for x in store.read()]
    broken = [keys.copy(), values.copy()]
    broken[which == "value"][1, 5, 3] = bad
    with pytest.raises(InputError, match=f"layer 7, head 1, position 45, row 0: a {which}"):
        store.append(broken[0][None], broken[1][None])
    assert store.length == 40
    assert all(np.array_equal(a, b) for a, b in zip(store.read(), before, strict=True))


def test_keys_of_another_model_or_batch_are_refused(calibration: Calibration) -> None:
    store = store_of(calibration)
    _, keys, values = layer(tokens=10)
    store.append(keys[None], values[None])
    with pytest.raises(InputError, match="another model or batch"):
        store.append(np.stack([keys] * 2), np.stack([values] * 2))
    with pytest.raises(InputError, match="another model or batch"):
        store.append(keys[None, :, :, :32], values[None, :, :, :32])


def test_no_more_is_cropped_than_is_held(calibration: Calibration) -> None:
    store = store_of(calibration)
    _, keys, values = layer(tokens=10)
    store.append(keys[None], values[None])
    with pytest.raises(ConfigError, match="crop=11"):
        store.crop(11)
    assert store.length == 10


def test_norms_out_of_the_calibrated_range_saturate_and_are_counted(
    calibration: Calibration,
) -> None:
    store = store_of(calibration)
    _, keys, values = layer(tokens=64)
    store.append(keys[None], values[None])
    assert store.saturated <= 2
    store.append(1000 * keys[None], values[None])
    assert store.saturated >= 64
    assert all(np.isfinite(x).all() for x in store.read())


def test_a_calibration_survives_the_disk(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded.plan(3, 3).digest == calibration.plan(3, 3).digest
    assert (loaded.n_tokens, loaded.text_sha256) == (300, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_a_damaged_calibration_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    calibration.save(path)
    whole = path.read_bytes()
    draw = np.random.default_rng(0)
    for at in [0, 9, len(whole) - 1, *draw.integers(0, len(whole), 40)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(InputError):
            Calibration.load(path)
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFile, match="calibrate again"):
            Calibration.load(path)


def test_places_that_cannot_be_read_or_written_say_so(
    calibration: Calibration, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such file"):
        Calibration.load(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be written"):
        calibration.save(tmp_path / "no" / "folder")


def test_a_calibration_of_other_weights_is_refused(tmp_path: Path) -> None:
    made = calibrate(llama(), ByteTokenizer(), text("train"), n_tokens=100)
    made.save(tmp_path / "c")
    assert Calibration.load(tmp_path / "c", llama()).fingerprint == made.fingerprint
    with pytest.raises(InputError, match="calibrate this one"):
        Calibration.load(tmp_path / "c", llama(seed=1))
    assert Calibration.load(tmp_path / "c", llama().to(torch.bfloat16))


def test_calibration_refuses_too_little_text_and_nan() -> None:
    with pytest.raises(ConfigError, match="n_tokens=100000"):
        calibrate(llama(), ByteTokenizer(), "short " * 20, n_tokens=100_000)
    queries, keys, values = layer(tokens=100)
    keys[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="calibration keys"):
        LayerStatistics.of(queries, keys, values, np.ones(32))


def test_rope_that_is_not_understood_is_refused() -> None:
    model = llama()
    model.config.model_type = "gptj"
    with pytest.raises(UnsupportedModel, match="gptj"):
        frequencies_of(model)
    model = llama()
    rotary = model.model.rotary_emb
    rotary.rope_type = "dynamic"
    with pytest.raises(UnsupportedModel, match="dynamic"):
        frequencies_of(model)
    rotary.rope_type, rotary.inv_freq = "default", rotary.inv_freq[:4]
    with pytest.raises(UnsupportedModel, match="8 of 16"):
        frequencies_of(model)


def test_an_update_that_fails_leaves_every_length_as_it_was() -> None:
    model = llama()
    plan = calibrate(model, ByteTokenizer(), text("train"), n_tokens=100).plan(4, 4)
    cache = BlockGTQCache(plan)
    good = torch.ones(1, 2, 5, 16)
    cache.update(good, good, 0)
    bad = good.clone()
    bad[0, 1, 2, 3] = torch.nan
    with pytest.raises(InputError, match="layer 0, head 1, position 7"):
        cache.update(bad, good, 0)
    assert cache.get_seq_length() == 5


def test_cache_bytes_that_are_damaged_or_of_another_plan_are_refused(
    calibration: Calibration,
) -> None:
    plan = calibration.plan(3, 3)
    cache = BlockGTQCache(plan)
    cache.update(torch.ones(1, 2, 5, 64), torch.ones(1, 2, 5, 64), 0)
    data = cache.to_bytes()
    with pytest.raises(InputError, match="same calibration"):
        BlockGTQCache.from_bytes(data, calibration.plan(2, 3))
    for broken in (data[:-1], data[:10], b"", data[:60] + b"x" + data[61:]):
        with pytest.raises(CorruptFile):
            BlockGTQCache.from_bytes(broken, plan)


def test_states_of_an_earlier_step_cannot_be_read_by_mistake(calibration: Calibration) -> None:
    cache = BlockGTQCache(calibration.plan(3, 3))
    ones = torch.ones(1, 2, 5, 64)
    early, _ = cache.update(ones, ones, 0)
    assert torch.isfinite(early + 0).all()
    cache.update(ones, ones, 0)
    with pytest.raises(InputError, match="earlier step"):
        _ = early + 0


def test_kernels_refuse_buffers_that_do_not_fit(calibration: Calibration) -> None:
    head, native = calibration.plan(3, 3).heads[0][0], kernels.load()
    codec, x = head.codec, np.ones((40, 64), np.float32)
    with pytest.raises(ValueError, match="too few tiles"):
        native.encode(codec, x, x, np.zeros(codec.tile_bytes, np.uint8), 0, 0)
    with pytest.raises(ValueError, match="tokens x dim"):
        native.encode(codec, x, x[:5], np.zeros(2 * codec.tile_bytes, np.uint8), 0, 0)
    q, none = np.ones((1, 2, 64), np.float32), np.empty((1, 0, 64), np.float32)
    five = native.make_group(5, codebook(5, 64, Marginal.SPHERE), 64, 0.0, 1.0)
    eye = np.eye(64, dtype=np.float32)
    flat = np.zeros(64, np.float32)
    with pytest.raises(ValueError, match="1-4 or 8 bits"):
        native.make_codec(
            [five], (eye, eye), five, (eye, eye), mean=flat, value_mean=flat, frequencies=x[0, :32]
        )
    with pytest.raises(ValueError, match="no token"):
        native.attend([codec], [np.empty(0, np.uint8)], q, none, none, q, 0, 0, 0, 1.0, 1)
