"""Against llama.cpp on the same file: greedy texts, logits, perplexity, speed of the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tidemill.bench.claim import Measurement, Verdict
from tidemill.bench.promise import Recorder, checked_parts
from tidemill.errors import ConfigError
from tidemill.models import agreement as module
from tidemill.models.agreement import agreement, cosines
from tidemill.models.llama_peer import LlamaModel, LlamaPeer, PeerSettings
from tidemill.models.llm_bench import PROMISES, parts
from tidemill.models.llm_speed import OURS, PEER, Workload, compare_speed
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import NativeDecoder
from tidemill.models.perplexity import losses, perplexity, perplexity_of

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

TEXT = "The tide comes in and goes out, and the mill turns with it, whatever the wind does. " * 12


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> ModelFile:
    return open_model(model_path("smollm2-135m"))


@pytest.fixture(scope="module")
def decoder(model: ModelFile) -> NativeDecoder:
    return NativeDecoder(model, threads=2, context=512)


@pytest.fixture(scope="module")
def llama(model: ModelFile) -> Iterator[LlamaModel]:
    with LlamaModel(model.path) as loaded:
        yield loaded


@pytest.fixture
def peer(llama: LlamaModel) -> Iterator[LlamaPeer]:
    with llama.context(PeerSettings(), threads=1, tokens=256) as context:
        yield context


def test_greedy_texts_are_those_of_llama_cpp_but_for_near_ties(
    model: ModelFile, decoder: NativeDecoder, peer: LlamaPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROMPTS", module.PROMPTS[:4])
    found = agreement(decoder, model.tokenizer, peer, tokens=16)
    assert (found.prompts, found.positions, found.cosines) == (4, 64, ())
    assert len(found.divergences) <= found.differing <= 6
    for each in found.divergences:  # both sides round their inputs to int8
        assert each.ours != each.peers
        assert min(each.our_gap, each.peer_gap) < 0.5


def test_the_reference_is_asked_along_the_same_texts(
    model: ModelFile, decoder: NativeDecoder, peer: LlamaPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from tidemill.models.reference import ReferenceDecoder

    monkeypatch.setattr(module, "PROMPTS", module.PROMPTS[:2])
    reference = ReferenceDecoder(model.config, model)
    found = agreement(
        decoder, model.tokenizer, peer, tokens=12,
        reference=lambda ids: reference.logits(ids).numpy(),
    )  # fmt: skip
    assert len(found.cosines) == len(found.peer_cosines) > 24
    assert min(found.cosines) > 0.999  # of this model the least is 0.99950
    assert np.mean(found.peer_cosines) > 0.99


def test_cosines_are_of_rows() -> None:
    a = np.array([[1, 0], [1, 1], [2, 0]], np.float32)
    b = np.array([[0, 1], [2, 2], [-3, 0]], np.float32)
    assert cosines(a, b) == pytest.approx([0, 1, -1])


def test_perplexity_is_near_that_of_llama_cpp(
    model: ModelFile, decoder: NativeDecoder, peer: LlamaPeer
) -> None:
    ids = model.tokenizer.encode(TEXT)
    ours = perplexity(decoder, ids, window=128)

    def losses_of(cut: list[int], first: int) -> np.ndarray:
        peer.truncate(0)
        return losses(peer.all_logits(cut)[first - 1 : -1], cut[first:])

    theirs = perplexity_of(losses_of, ids, window=128)
    assert (ours.tokens, ours.windows) == (theirs.tokens, theirs.windows)
    assert ours.value == pytest.approx(theirs.value, rel=0.01)


@pytest.mark.parametrize("workload", [Workload(16, 2), Workload(16, 2, 3), Workload(32, 0)])
def test_both_sides_do_the_same_work(
    model: ModelFile, decoder: NativeDecoder, llama: LlamaModel, workload: Workload
) -> None:
    ids = model.tokenizer.encode(TEXT)
    found = compare_speed(decoder, llama, ids, workload, repeats=5)
    assert {timing.name: timing.work for timing in found.comparison.timings} == {
        OURS: workload.work,
        PEER: workload.work,
    }
    assert str(found.settings) in found.tried
    assert found.tried[str(found.settings)] == max(found.tried.values())


def test_a_figure_is_stored_with_its_verdict() -> None:
    assert {promise.part for promise in PROMISES} == set(parts())
    assert checked_parts(["decode", "memory", "decode"], parts()) == ("decode", "memory")
    with pytest.raises(ConfigError, match="decode, streams"):
        checked_parts(["speed"], parts())
    found = Measurement(claim="decode", value=1.3, low=1.1, high=1.4, repeats=5)
    stored = cast(
        "dict[str, Any]", Recorder("tidemill bench-llm x").entries(PROMISES, [found])["decode"]
    )
    assert stored["verdict"] == Verdict.UNCLEAR
    assert stored["target"] == 1.2
    assert stored["code"]
