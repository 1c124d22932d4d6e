"""The trials at a tiny size: every claim is answered; no figure of speed is asserted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.systems.blockgtq.tiny_models import ByteTokenizer, llama

from tidemill.bench import Budget, Context, Measurement, Progress
from tidemill.bench.settings import dumps
from tidemill.errors import MissingCapability
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
from tidemill.systems.blockgtq.scoring.token_scores import Reference
from tidemill.systems.blockgtq.workloads import haystack, text

CONTEXT = Context(BlockGTQConfig(), Budget.QUICK, Progress())
QUALITY = quality.Scale("tiny", 300, 2, 64, (300, 300))
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


@pytest.mark.parametrize("alike", [False, True])
def test_a_haystack_holds_each_answer_once_and_is_of_the_length_asked(alike: bool) -> None:
    tokenizer = ByteTokenizer()
    for seed in range(5):
        hay = haystack(tokenizer, 800, alike=alike, seed=seed)
        facts = 0
        for question, answer in hay.questions:
            fact = question.rpartition("Answer: ")[2]
            assert hay.text.count(f"{fact} {answer}.") == 1
            assert hay.text.count(answer) == 1
            facts += len(f" {fact} {answer}.")
        kinds = {
            question.rpartition("Answer: ")[2].split(" of ")[0] for question, _ in hay.questions
        }
        assert len(kinds) == (1 if alike else 4)
        assert 700 < len(hay.text) - facts <= 800


def test_a_comparison_in_pieces_is_that_of_whole_logits() -> None:
    model, draw = llama(), torch.Generator().manual_seed(1)
    row = torch.randint(0, 200, (1, 300), generator=draw)
    with torch.inference_mode():
        reference = Reference(model, row)
        other = reference.hidden + 0.3 * torch.randn(reference.hidden.shape, generator=draw)
        found, same = reference.compare(other), reference.compare(reference.hidden)
        logs = [model.lm_head(x[:-1]).log_softmax(-1) for x in (reference.hidden, other)]
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
    loss = -logs[1].gather(1, row[0, 1:, None])[:, 0]
    assert found.divergence == pytest.approx(divergence.tolist(), abs=1e-5)
    assert found.loss == pytest.approx(loss.tolist(), abs=1e-5)
    assert found.agrees == (logs[0].argmax(-1) == logs[1].argmax(-1)).tolist()
    assert max(same.divergence) < 1e-5


def test_llama_decodes_with_its_rounded_caches(found: dict[str, Measurement]) -> None:
    pytest.importorskip("llama_cpp")
    assert found["decode"].value > 0
    (measured,) = decoding.against_llama(CONTEXT, DECODING)
    assert measured.claim == "decode-llama"
    assert measured.value > 0


def test_calibration_and_test_text_are_different() -> None:
    assert not set(text("train").split("\n")[:200]) & set(text("test").split("\n")[:200]) - {
        "",
        " ",
    }
