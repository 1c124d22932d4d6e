"""The native decoder when something is wrong: damaged weights, two threads on one sequence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plugs import Floats

from tidemill.errors import InputError
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.native import available_levels

IDS = [2, 108, 9, 77, 1500, 42]


class Damaged(Floats):
    """The `down` matrices in float32, one number of one layer not a number."""

    def __init__(self, layer: int, wrong: float) -> None:
        super().__init__("down")
        self.layer, self.wrong = layer, wrong

    def weights(self, model: ModelFile, layer: int | None) -> np.ndarray:
        weights = super().weights(model, layer)
        if layer == self.layer:
            weights[3, 5] = self.wrong
        return weights


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> ModelFile:
    return open_model(model_path("gemma-3-270m"))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_found_where_they_are(
    model: ModelFile, wrong: float
) -> None:
    decoder = NativeDecoder(model, context=64, kv_tokens=64, weights=Damaged(7, wrong))
    sequence = decoder.sequence()
    with pytest.raises(InputError, match=r"logits — are not finite: layer 7 or 8 .* verify"):
        decoder.prefill(sequence, IDS)
    assert sequence.length == 0


def test_two_threads_on_one_sequence_are_told_so_once(model: ModelFile) -> None:
    decoder = NativeDecoder(model, threads=1, context=512, kv_tokens=1024)
    sequence, ids = decoder.sequence(), [5] * 250
    begin, errors = threading.Barrier(2), list[str]()

    def read() -> None:
        begin.wait()
        try:
            decoder.step([Part(sequence, ids, 0)])
        except InputError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert "it is for one thread" in errors[0]
    assert sequence.length == len(ids)  # the other one's step was not disturbed
    other = decoder.sequence()
    decoder.step([Part(other, ids, 0)])
    again = [decoder.step([Part(each, [7])])[0] for each in (sequence, other)]
    assert np.array_equal(*again)


@pytest.mark.skipif(len(available_levels()) < 2, reason="one build of the kernels only")
def test_the_portable_build_computes_what_the_fast_one_does(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[np.ndarray] = []
    for level in available_levels():
        monkeypatch.setenv("TIDEMILL_NATIVE", level)
        decoder = NativeDecoder(model, context=64, kv_tokens=64)
        found.append(decoder.step([Part(decoder.sequence(), IDS, len(IDS))]))
    fast, portable = found
    lengths = np.linalg.norm(fast, axis=1) * np.linalg.norm(portable, axis=1)
    cosines = (fast * portable).sum(axis=1) / lengths
    # products are equal bit for bit (test_matrices); sums of floats between them are fused on one
    # side only, which tips codes over, and some positions of Gemma make much of that
    assert np.median(cosines) > 0.9999
    assert cosines.min() > 0.995
