"""The packed cache in a native decoder: no torch, calibrated on first use."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import ConfigError, MissingCapability, OutOfPool
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.sockets import kv_plug
from tidemill.models.store import ModelStore
from tidemill.systems.blockgtq.capture import calibrate
from tidemill.systems.blockgtq.config import Mode
from tidemill.systems.blockgtq.plug import BlockGTQPlug, calibrate_natively, calibration_of
from tidemill.systems.blockgtq.workloads import load_model, text

CALIBRATION = 96


def opened(name: str) -> ModelFile:
    try:
        return open_model(str(ModelStore().pull(name)))
    except MissingCapability as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrations")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelFile]:
    """RoPE of neighbouring dimensions."""
    with opened("smollm2-135m") as file:
        yield file


@pytest.fixture(scope="module")
def dense(model: ModelFile) -> NativeDecoder:
    return NativeDecoder(model, context=128, kv_tokens=256, threads=2)


@pytest.fixture(scope="module")
def decoder(model: ModelFile, folder: Path) -> NativeDecoder:
    return packed(model, folder)


def packed(model: ModelFile, folder: Path, k: float = 3, v: int = 3, **rest: int) -> NativeDecoder:
    plug = BlockGTQPlug(k, v, calibration_tokens=CALIBRATION, folder=folder)
    return NativeDecoder(model, kv=plug, **{"context": 128, "kv_tokens": 256, "threads": 2} | rest)


def ids_of(model: ModelFile, count: int) -> list[int]:
    text = "The tide came in slowly, and the old mill by the river began to turn again. " * 20
    return model.tokenizer.encode(text)[:count]


def closeness(one: NativeDecoder, two: NativeDecoder, ids: list[int]) -> float:
    """Mean cosine of the logits of the last half."""
    found, wanted = (d.step([Part(d.sequence(), ids, len(ids) // 2)]) for d in (one, two))
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / norms).mean())


def test_logits_are_nearly_those_of_the_dense_cache(
    model: ModelFile, dense: NativeDecoder, decoder: NativeDecoder, folder: Path
) -> None:
    ids = ids_of(model, 80)
    finest, fine = packed(model, folder, 8, 8), packed(model, folder, 8, 4)
    coarse = packed(model, folder, 1, 1)
    found = [closeness(each, dense, ids) for each in (finest, fine, decoder, coarse)]
    assert found[0] > 0.995
    assert found == sorted(found, reverse=True)


def test_heads_of_256_with_sliding_layers_are_packed_too(folder: Path) -> None:
    with opened("gemma-3-270m") as file:
        fine = packed(file, folder, 8, 4)
        plain = NativeDecoder(file, context=128, kv_tokens=256, threads=2)
        assert closeness(fine, plain, ids_of(file, 60)) > 0.97


def test_a_prompt_in_pieces_gives_the_same_bits(model: ModelFile, decoder: NativeDecoder) -> None:
    ids, rows = ids_of(model, 75), []
    for cuts in ((75,), (32, 33, 75), (1, 3, 8, 74, 75)):
        sequence, start = decoder.sequence(), 0
        for stop in cuts:
            last = decoder.step([Part(sequence, ids[start:stop])])
            start = stop
        rows.append(last[0])
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_a_truncated_sequence_goes_on_as_if_it_had_never_been_longer(
    model: ModelFile, decoder: NativeDecoder
) -> None:
    ids = ids_of(model, 90)
    once, again = decoder.sequence(), decoder.sequence()
    decoder.prefill(once, ids[:40])
    decoder.prefill(again, ids)
    again.truncate(40)
    assert (once.length, once.bytes) == (again.length, again.bytes)
    step = [decoder.step([Part(s, ids[40:45])]) for s in (once, again)]
    assert np.array_equal(step[0], step[1])


def test_it_is_smaller_and_gives_its_tiles_back(
    model: ModelFile, dense: NativeDecoder, decoder: NativeDecoder
) -> None:
    ids = ids_of(model, 96)
    plain, kept = dense.sequence(), decoder.sequence()
    dense.prefill(plain, ids)
    decoder.prefill(kept, ids)
    assert 4.5 * kept.bytes < plain.bytes
    others = [decoder.sequence() for _ in range(2)]
    decoder.prefill(others[0], ids)
    with pytest.raises(OutOfPool, match="pages of 32 tokens"):
        decoder.prefill(others[1], ids)
    del others, kept
    gc.collect()
    fresh = [decoder.sequence() for _ in range(2)]
    for sequence in fresh:
        decoder.prefill(sequence, ids)
    assert [sequence.length for sequence in fresh] == [96, 96]


def test_a_calibration_is_kept_and_a_damaged_one_made_anew(
    model: ModelFile, tmp_path: Path
) -> None:
    made = calibration_of(model, 64, tmp_path)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    assert calibration_of(model, 64, tmp_path).fingerprint == made.fingerprint
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-7])
    again = calibration_of(model, 64, tmp_path)
    assert np.array_equal(again.layers[0].key_mean, made.layers[0].key_mean)
    assert path.stat().st_mtime_ns != written


def test_calibration_without_torch_sees_what_transformers_shows(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_MODELS", str(model.path.parent))
    loaded, tokenizer = load_model(model.path.stem)
    theirs = calibrate(loaded, tokenizer, text("train"), n_tokens=64)
    ours = calibrate_natively(model, "", 64)
    assert ours.windows == theirs.windows
    for one, two in zip(ours.layers, theirs.layers, strict=True):
        assert np.allclose(one.frequencies, two.frequencies, rtol=1e-5)
        for name in ("query_energy", "key_energy"):
            logs = [np.log(getattr(x, name).ravel() + 1e-9) for x in (one, two)]
            assert np.corrcoef(*logs)[0, 1] > 0.98


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ("", BlockGTQPlug(3, 3)),
        ("k2v2", BlockGTQPlug(2, 2)),
        ("k2.5v4", BlockGTQPlug(2.5, 4)),
        ("k8v8", BlockGTQPlug(8, 8)),
        ("k3v2,paper", BlockGTQPlug(3, 2, Mode.PAPER)),
    ],
)
def test_options_say_bits_and_mode(options: str, made: BlockGTQPlug) -> None:
    assert kv_plug(f"blockgtq:{options}") == made


@pytest.mark.parametrize("options", ["k3", "k9v3", "k3v5", "3", "k3v3,best", "k8.5v2"])
def test_options_that_cannot_be_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        kv_plug(f"blockgtq:{options}")
