"""The trials at a tiny size: every claim is answered, honestly; no figure of speed is asserted."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from tidemill.bench import Budget, Context, Measurement, Progress, Status, Verdict
from tidemill.bench.settings import dumps
from tidemill.errors import ClaimError, MissingCapability
from tidemill.systems.cusbf import (
    SYSTEM,
    CuSBFConfig,
    SuperBloom,
    accuracy,
    pack,
    sweep,
    throughput,
)
from tidemill.systems.cusbf.baselines import Contender, rbloom_filter
from tidemill.systems.cusbf.claims import charts

CONTEXT = Context(CuSBFConfig(genome="lambda", bits=1 << 20), Budget.QUICK, Progress())
RACE = throughput.Scale(
    bases=150_000,
    slow_bases=100_000,
    repeats=5,
    large_bits=1 << 22,
    between_bits=(1 << 21,),
    strings=2_000,
)
COUNTS = accuracy.Scale(queries=20_000, loads=(6.0, 10.7))
SWEEP = sweep.Scale(s=(27, 28), m=(15, 16), hashes=(4, 8), repeats=5, queries=500_000)
SCALES: dict[str, Any] = {
    "sizes": RACE,
    "threads": RACE,
    "peers": RACE,
    "rbloom": RACE,
    "sweep": SWEEP,
    "matched-memory": COUNTS,
    "theory": COUNTS,
    "misses": COUNTS,
}


@cache
def measured(trial: str) -> tuple[Measurement, ...]:
    measure: Any = next(each.measure for each in SYSTEM.trials if each.name == trial)
    return tuple(measure(CONTEXT, SCALES[trial]))


@pytest.fixture(scope="module")
def found() -> dict[str, Measurement]:
    return {each.claim: each for trial in SCALES for each in measured(trial)}


@pytest.mark.parametrize("trial", SCALES)
def test_a_trial_answers_each_of_its_claims_once(trial: str) -> None:
    own = [claim.id for claim in SYSTEM.claims if claim.trial.name == trial]
    assert sorted(each.claim for each in measured(trial)) == sorted(own)


def test_every_trial_is_tried_here() -> None:
    assert set(SCALES) == {trial.name for trial in SYSTEM.trials}


def test_the_first_two_claims_are_the_papers_headline() -> None:
    assert [claim.id for claim in SYSTEM.claims[:2]] == [
        "insert-out-of-cache",
        "query-out-of-cache",
    ]


def test_details_are_small_and_json(found: dict[str, Measurement]) -> None:
    assert max(len(dumps(each.detail)) for each in found.values()) < 50_000


def test_a_figure_against_a_constant_says_so_and_is_not_called_measured(
    found: dict[str, Measurement],
) -> None:
    modelled = {name for name, each in found.items() if each.status is not Status.MEASURED}
    assert modelled == {"insert-reference", "query-reference"}
    for name in modelled:
        assert "recorded once and NOT measured in this run" in found[name].baseline


def test_every_comparison_names_a_baseline_of_the_same_run(found: dict[str, Measurement]) -> None:
    for claim in SYSTEM.claims:
        if claim.id.startswith(("insert-", "query-", "kept-", "fpr-random", "fpr-strain")):
            assert found[claim.id].subject
            assert found[claim.id].baseline
            assert found[claim.id].repeats >= 5


def test_exact_counts_have_no_interval(found: dict[str, Measurement]) -> None:
    for name in ("shard-loads", "no-false-negatives"):
        assert found[name].low == found[name].value == found[name].high


def test_shard_loads_are_about_two_in_seventeen(found: dict[str, Measurement]) -> None:
    assert found["shard-loads"].value == pytest.approx(2 / 17, rel=0.05)


def test_nothing_is_missed_in_three_genomes(found: dict[str, Measurement]) -> None:
    assert found["no-false-negatives"].value == 0
    assert found["no-false-negatives"].repeats > 100_000_000
    assert SYSTEM.claim("no-false-negatives").verdict(found["no-false-negatives"]) is Verdict.YES


class Forgetful(SuperBloom):
    """Loses a shard when it is merged, as a faulty filter would."""

    def merge(self, other) -> None:
        super().merge(other)
        self.words[: self.words.size // 1000] = 0


def test_a_filter_that_loses_bits_when_merged_is_found_out() -> None:
    [caught] = accuracy.misses(CONTEXT, COUNTS, kind=Forgetful)
    ways: Any = caught.detail["missed_by_way"]
    assert caught.value > 0
    assert ways["merged"] == caught.value
    assert SYSTEM.claim("no-false-negatives").verdict(caught) is Verdict.NO


def test_a_contender_that_loses_what_it_holds_is_no_contender() -> None:
    nothing = np.empty(0, dtype=np.uint64)
    loser = Contender("loser", 100, lambda: sum(range(999)), lambda: 99, lambda: None, nothing)
    with pytest.raises(ClaimError, match="loser found 99 of the 100"):
        throughput.run_race(CONTEXT, [loser], 5)


def test_two_threads_are_not_measured_on_one() -> None:
    with pytest.raises(MissingCapability, match="allow at least 2"):
        list(throughput.threads(replace(CONTEXT, threads=1), RACE))


def test_without_rbloom_its_claims_are_not_run_and_say_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rbloom", None)
    with pytest.raises(MissingCapability, match="pip install rbloom"):
        rbloom_filter(1 << 20, ["A" * 31], bits_per_kmer=21.4)


def test_trials_leave_no_thread(found: dict[str, Measurement]) -> None:
    assert found
    others = [thread for thread in threading.enumerate() if not thread.daemon]  # tqdm's is one
    assert others == [threading.main_thread()]


def test_a_trial_tells_stages_readings_and_progress() -> None:
    class Told(Progress):
        def __init__(self) -> None:
            self.kinds: set[str] = set()

        def stage(self, name: str) -> None:
            self.kinds.add("stage")

        def advance(self, done: float, total: float, unit: str = "") -> None:
            assert 0 <= done <= total
            self.kinds.add("advance")

        def metric(self, name: str, value: float, unit: str = "") -> None:
            self.kinds.add("metric")

    for measure in (
        lambda context: throughput.threads(context, RACE),
        lambda context: accuracy.theory(context, COUNTS),
    ):
        told = Told()
        list(measure(replace(CONTEXT, progress=told)))
        assert told.kinds == {"stage", "advance", "metric"}


def test_the_charts_of_the_documents_draw_what_was_measured(found: dict[str, Measurement]) -> None:
    assert set(charts(found)) == {"rates", "peers", "errors", "sweep"}
    assert charts({}) == {}
    assert all(dumps(spec) for spec in charts(found).values())


@pytest.mark.parametrize("canonical", [True, False])
def test_what_a_genome_holds_is_no_false_positive(canonical: bool) -> None:
    config = replace(CONTEXT.config, canonical=canonical)
    sequence = np.frombuffer(b"ACGTTGCA" * 4 + b"N" + b"GATTACA" * 6, dtype=np.uint8)
    present = accuracy.Present(sequence, config)
    own = {sequence[i : i + 31].tobytes() for i in range(len(sequence) - 30)}
    assert present.distinct <= len({kmer for kmer in own if b"N" not in kmer})
    mers, valid = pack(sequence, 31)
    assert present.holds(mers[valid]).all()
    assert not present.holds(mers[valid] ^ np.uint64(1 << 30)).any()
    assert present.holds(pack(b"TGTAATC" * 5, 31)[0]).any() == canonical


def test_a_choice_is_ahead_only_if_it_is_in_both() -> None:
    seconds = np.array([[2.0], [1.0], [1.0], [4.0]])
    errors = np.array([[2.0], [1.0], [8.0], [1.0]])
    ahead = sweep.ahead_in_both(seconds, errors)[:, 0]
    assert ahead.tolist() == [1.0, 2.0, 0.25, 0.5]
