"""The plain values of a claim and a system: verdicts follow from intervals, nothing is typed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench import (
    Budget,
    Claim,
    Direction,
    Measurement,
    Paper,
    Report,
    Requirement,
    StandIn,
    Status,
    System,
    Table,
    Text,
    Trial,
    Verdict,
    discover,
    find,
)
from tidemill.errors import ClaimError, ConfigError

ABSTRACT = "We present a sorter. It sorts up to 3x faster than the others."
TRIAL = Trial(name="race", measure=lambda _: (), summary=Text("Races.", "赛跑。"))


def claim(**fields: Any) -> Claim:
    values: dict[str, Any] = {
        "id": "faster",
        "quote": "up to 3x faster",
        "statement": Text("Sorts faster.", "排序更快。"),
        "unit": "x",
        "direction": Direction.AT_LEAST,
        "target": 2.0,
        "trial": TRIAL,
    }
    return Claim(**values | fields)


def figure(low: float, value: float, high: float, **fields: Any) -> Measurement:
    values: dict[str, Any] = {"claim": "faster", "repeats": 5}
    return Measurement(value=value, low=low, high=high, **values | fields)


finite = st.floats(-1e9, 1e9)
intervals = st.tuples(finite, finite, finite).map(sorted)


@given(intervals, finite, st.sampled_from(Direction))
def test_a_verdict_is_yes_or_no_only_if_the_whole_interval_is_on_one_side(
    interval: list[float], target: float, direction: Direction
) -> None:
    low, value, high = interval
    verdict = claim(direction=direction, target=target).verdict(figure(low, value, high))
    good = [
        end >= target if direction is Direction.AT_LEAST else end <= target for end in (low, high)
    ]
    expected = {2: Verdict.YES, 1: Verdict.UNCLEAR, 0: Verdict.NO}[sum(good)]
    assert verdict is expected


@given(intervals, finite)
def test_the_verdict_is_the_same_seen_in_a_mirror(interval: list[float], target: float) -> None:
    low, value, high = interval
    seen = claim(target=target).verdict(figure(low, value, high))
    mirrored = claim(target=-target, direction=Direction.AT_MOST)
    assert mirrored.verdict(figure(-high, -value, -low)) is seen


@given(intervals, finite, finite)
def test_an_easier_target_never_makes_a_verdict_worse(
    interval: list[float], one: float, other: float
) -> None:
    easy, hard = sorted((one, other))
    order = [Verdict.NO, Verdict.UNCLEAR, Verdict.YES]
    measured = figure(*interval)
    easier = order.index(claim(target=easy).verdict(measured))
    assert easier >= order.index(claim(target=hard).verdict(measured))


@given(st.lists(st.sampled_from([Status.EMULATED, Status.MODELLED])))
def test_a_figure_is_as_real_as_its_least_real_device(kinds: list[Status]) -> None:
    stand_ins = tuple(StandIn("GPU", kind, "a table") for kind in kinds)
    expected = (
        Status.MODELLED
        if Status.MODELLED in kinds
        else Status.EMULATED if kinds else Status.MEASURED
    )  # fmt: skip
    assert figure(1, 1, 1, stand_ins=stand_ins).status is expected


@pytest.mark.parametrize("kind", [Status.MEASURED, Status.NOT_RUN, "emulated?"])
def test_a_stand_in_is_emulated_or_modelled(kind: Any) -> None:
    with pytest.raises(ClaimError, match="emulated or modelled"):
        StandIn("GPU", kind, "")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["value", "low", "high"])
def test_a_figure_is_finite(field: str, number: float) -> None:
    numbers = {"value": 1.0, "low": 1.0, "high": 1.0, field: number}
    with pytest.raises(ClaimError, match="not a finite number"):
        Measurement(claim="faster", repeats=1, **numbers)


@pytest.mark.parametrize(("low", "value", "high"), [(2, 1, 3), (1, 4, 3), (3, 2, 1)])
def test_a_figure_lies_in_its_interval(low: float, value: float, high: float) -> None:
    with pytest.raises(ClaimError, match="outside its own interval"):
        figure(low, value, high)


def test_a_figure_rests_on_at_least_one_repeat() -> None:
    with pytest.raises(ClaimError, match="repeats=0"):
        figure(1, 1, 1, repeats=0)


@pytest.mark.parametrize("name", ["", "Upper", "with space", "-begins", "ümlaut", "a\n", "a/b"])
def test_ids_of_claims_can_stand_in_an_address(name: str) -> None:
    with pytest.raises(ClaimError, match="claim id"):
        claim(id=name)


@dataclass(frozen=True, slots=True)
class Settings:
    size: int = 1


def system(**fields: Any) -> System:
    values: dict[str, Any] = {
        "name": "sorter",
        "paper": Paper("2601.00001", "A Sorter", date(2026, 1, 2), ABSTRACT),
        "summary": Text("Sorts.", "排序。"),
        "config": Settings,
        "run": lambda _: Report(headline=Text("", ""), facts={}, timings={}),
        "claims": (claim(),),
    }
    return System(**values | fields)


def test_a_quote_that_the_abstract_lacks_is_refused() -> None:
    with pytest.raises(ClaimError, match=r"sorter/faster: its quote is not in the abstract"):
        system(claims=(claim(quote="up to 4x faster"),))


def test_an_id_is_used_once() -> None:
    with pytest.raises(ClaimError, match="the id is used twice"):
        system(claims=(claim(), claim(target=3.0)))


@pytest.mark.parametrize("name", ["Sorter", "two words", "1st", "", "a-b"])
def test_the_name_of_a_system_is_that_of_a_package(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case Python identifier"):
        system(name=name)


def test_a_configuration_is_a_dataclass() -> None:
    with pytest.raises(ConfigError, match="a frozen dataclass"):
        system(config=dict)


def test_a_trial_that_measures_several_claims_is_there_once() -> None:
    other = replace(TRIAL, name="other")
    claims = (claim(), claim(id="smaller", trial=other), claim(id="cheaper"))
    assert system(claims=claims).trials == (TRIAL, other)


def test_a_claim_is_found_by_its_id_or_the_known_ones_are_told() -> None:
    assert system().claim("faster").target == 2.0
    with pytest.raises(ConfigError, match=r"claim='slower' — must be one of faster"):
        system().claim("slower")


def test_what_the_machine_lacks_is_told_one_sentence_each() -> None:
    requires = (
        Requirement("KVM", lambda: "KVM — no /dev/kvm; load the module."),
        Requirement("air", lambda: None),
    )
    assert system(requires=requires).missing() == ["KVM — no /dev/kvm; load the module."]


def test_the_limit_of_a_trial_is_that_of_its_budget() -> None:
    trial = replace(TRIAL, quick_s=None, full_s=120.0)
    assert trial.limit_s(Budget.QUICK) is None
    assert trial.limit_s(Budget.FULL) == 120.0


def test_a_row_of_a_table_has_as_many_cells_as_columns() -> None:
    with pytest.raises(ConfigError, match="1 cells — must be 2"):
        Table(title="t", columns=("a", "b"), rows=((1,),))


@pytest.mark.parametrize(
    ("language", "text"), [("zh", "排"), ("zh-CN", "排"), ("en", "s"), ("", "s")]
)
def test_a_text_speaks_both_languages(language: str, text: str) -> None:
    assert Text("s", "排").in_language(language) == text


def test_a_paper_is_read_from_the_file_beside_its_module(tmp_path: Path) -> None:
    (tmp_path / "paper.toml").write_text(
        'arxiv_id = "2601.00001"\ntitle = "A Sorter"\nannounced = 2026-01-02\n'
        f'abstract = """\n{ABSTRACT}\n"""\n',
        encoding="utf-8",
    )
    paper = Paper.beside(str(tmp_path / "__init__.py"))
    assert paper == Paper("2601.00001", "A Sorter", date(2026, 1, 2), ABSTRACT)


def test_an_unknown_system_is_told_with_those_installed() -> None:
    with pytest.raises(ConfigError, match="system='no_such' — must be one of "):
        find("no_such")


@pytest.mark.parametrize("name", ["no_such_module:SYSTEM", "json:SYSTEM", "json:loads", ":", "a:"])
def test_a_reference_to_what_is_no_system_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"tidemill\.bench\.System"):
        find(name)


def test_a_system_is_found_by_module_and_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("third_party_sorter")
    module.SORTER = system()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party_sorter", module)
    assert find("third_party_sorter:SORTER").name == "sorter"


def test_installed_systems_come_by_name_and_each_is_found_by_it() -> None:
    installed = list(discover())
    assert [found.name for found in installed] == sorted(found.name for found in installed)
    assert all(find(found.name) is found for found in installed)
