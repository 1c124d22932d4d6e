"""The trials at a tiny size: every claim is answered; no figure of speed is asserted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.systems.grinqh.tiny_models import llama

from tidemill.bench import Budget, Context, Measurement, Progress
from tidemill.bench.settings import dumps
from tidemill.errors import ConfigError, MissingCapability
from tidemill.systems.grinqh import SYSTEM, GrinqhConfig, baselines, quality, speed, workloads
from tidemill.systems.grinqh.scores import Sample

CONTEXT = Context(GrinqhConfig(), Budget.QUICK, Progress(), 1)
QUALITY = quality.Scale("tiny", Sample(2, 16, 32, 256), (2.0, 3.0, 4.0), 1)
RACE = speed.Scale(256, 128, 2, (2.0, 3.0, 4.0), "none", 2, "tiny", 24, 5)
NEEDS_A_DECODER = {"decode-speed", "decode-llama", "kl-llama"}


def letters(_: str, split: str, count: int, length: int) -> list[list[int]]:
    ids = list(workloads.text(split).encode())
    return [ids[i * length : (i + 1) * length] for i in range(count)]


@pytest.fixture(scope="module")
def found() -> dict[str, Measurement]:
    with pytest.MonkeyPatch.context() as patch:
        # the seam to the package index: a random model stands in for the catalogue's
        patch.setattr(workloads, "torch_model", lambda name: llama())
        patch.setattr(workloads, "windows", letters)
        made = [
            *quality.frontier(CONTEXT, QUALITY),
            *quality.second(CONTEXT, QUALITY),
            *speed.products(CONTEXT, RACE),
            *speed.prefill(CONTEXT, RACE),
        ]
        return {each.claim: each for each in made}


def test_every_claim_is_answered_in_plain_json(found: dict[str, Measurement]) -> None:
    assert set(found) | NEEDS_A_DECODER == {claim.id for claim in SYSTEM.claims}
    for measurement in found.values():
        dumps(measurement.detail)


def test_more_bits_diverge_less_and_choices_beat_one_level(
    found: dict[str, Measurement],
) -> None:
    rows: Any = found["monotone"].detail["decode"]
    scores = {row["name"]: row for row in rows}
    assert scores["GRINQH 4"]["kl"] < scores["GRINQH 3"]["kl"] < scores["GRINQH 2"]["kl"]
    assert scores["GRINQH 4"]["bits"] == pytest.approx(4, abs=0.1)
    assert scores["GRINQH 3"]["kl"] < scores["uniform 3"]["kl"]


def test_a_prompt_reads_all_bits_and_one_copy_is_stored(found: dict[str, Measurement]) -> None:
    assert found["prefill-bits"].value == 6
    assert found["prefill-bits"].detail["channels"]["6"] == 1  # type: ignore[index,call-overload]
    assert found["stored"].value > 6


def test_rounding_to_nearest_is_exact_on_its_own_grid_and_near_else() -> None:
    draw = np.random.default_rng(0)
    grid = draw.integers(0, 16, (3, 128)).astype(np.float32) - 8
    grid[:, ::64], grid[:, 1::64] = -8, 7
    way = baselines.round_to_nearest(4)
    assert (way.weight("", grid) == grid).all()
    weight = draw.standard_normal((5, 100)).astype(np.float32)
    step = (weight.max(axis=1) - weight.min(axis=1)) / 15
    assert (np.abs(way.weight("", weight) - weight).max(axis=1) < 0.75 * step).all()
    assert way.bits == pytest.approx(4.3125)


@pytest.mark.skipif(baselines.llama_missing() is not None, reason="llama-cpp-python is missing")
def test_llama_quantises_a_real_file(tmp_path: Path) -> None:
    from tidemill.models.store import ModelStore

    try:
        source = ModelStore().path_of("smollm2-135m")
    except ConfigError:
        pytest.skip("the catalogue has no small model")
    if not source.is_file():
        pytest.skip("the model is not in the store")
    made = baselines.llama_quantised(source, "Q2_K", tmp_path / "small.gguf")
    assert baselines.real_bits(made) < baselines.real_bits(source)


def test_without_llama_cpp_its_trial_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingCapability, match=r"tidemill\[peers\]"):
        baselines.llama_quantised(Path("a"), "Q2_K", Path("b"))
