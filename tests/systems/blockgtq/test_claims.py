"""The trials at a tiny size: every claim is answered; no figure of speed is asserted."""

from __future__ import annotations

from typing import Any

import pytest
from tests.systems.blockgtq.tiny_models import ByteTokenizer, llama

from tidemill.bench import Budget, Context, Measurement, Progress
from tidemill.bench.settings import dumps
from tidemill.errors import MissingCapability
from tidemill.models.haystack import Kind
from tidemill.models.store import ModelStore
from tidemill.systems.blockgtq import (
    SYSTEM,
    BlockGTQConfig,
    accuracy,
    decoding,
    quality,
    speed,
    workloads,
)

CONTEXT = Context(BlockGTQConfig(), Budget.QUICK, Progress())
NEEDLES = tuple((kind, 300) for kind in Kind)
QUALITY = quality.Scale("tiny", 300, 2, 64, NEEDLES, quality.Greedy(3, 40, 12))
RACE = speed.Scale((512, 1024), 1024, 2, (3, 1), 5, 4096, 2)
DECODING = decoding.Scale("smollm2-135m", 64, 2, 5, 64, 1024)
SCALES: dict[str, Any] = {
    "logits": accuracy.Scale(("tiny",), 300, 100),
    "perplexity": QUALITY,
    "retrieval": QUALITY,
    "second": QUALITY,
    "attention": RACE,
    "compression": DECODING,
    "decoding": DECODING,
    "memory": RACE,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measurement]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("smollm2-135m", "gemma-3-270m"):
        try:
            (folder / f"{name}.gguf").symlink_to(ModelStore().pull(name))
        except MissingCapability as error:
            pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        # calibrations that decoders make are not for the user's own models
        patch.setenv("TIDEMILL_MODELS", str(folder))
        # the seam to the package index: a random model stands in for the catalogue's
        patch.setattr(workloads, "load_model", lambda name: (llama(), ByteTokenizer()))
        trials = {trial.name: trial for trial in SYSTEM.trials}
        return {
            each.claim: each
            for name, scale in SCALES.items()
            for each in trials[name].measure(CONTEXT, scale)
        }


def test_every_claim_is_answered_in_plain_json(found: dict[str, Measurement]) -> None:
    assert set(found) == {claim.id for claim in SYSTEM.claims} - {"decode-llama"}
    for measurement in found.values():
        dumps(measurement.detail)


def test_what_is_packed_is_small_in_count_and_in_memory(found: dict[str, Measurement]) -> None:
    assert found["compression"].value > 4.2
    assert found["compression-wide"].value > 4.8
    free = found["peak-memory"].detail["free"]
    assert free["packed"]["kept_bytes"] * 4 < free["dense"]["kept_bytes"]
    assert free["packed"]["ok"]
    assert free["dense"]["ok"]
    # both took a step over the same tokens
    assert free["packed"]["norm"] == pytest.approx(free["dense"]["norm"], rel=0.5)


def test_texts_part_from_the_dense_one_at_their_first_different_token(
    found: dict[str, Measurement],
) -> None:
    detail: dict[str, Any] = found["greedy-k3v2"].detail
    assert list(detail) == ["uniform K3V2", "paper K3V2", "compact+peel K3V2"]
    for way in detail.values():
        assert len(way["lengths"]) == 3
        assert all(1 <= length <= 12 for length in way["lengths"])
        assert sum(length - 1 for length in way["lengths"]) <= 36 * way["equal"] + 1e-9


def test_llama_decodes_with_its_rounded_caches(found: dict[str, Measurement]) -> None:
    pytest.importorskip("llama_cpp")
    assert found["decode"].value > 0
    (measured,) = decoding.against_llama(CONTEXT, DECODING)
    assert measured.claim == "decode-llama"
    assert measured.value > 0
