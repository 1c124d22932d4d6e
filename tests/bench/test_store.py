from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.bench import (
    Budget,
    Claim,
    Direction,
    Measurement,
    StandIn,
    Status,
    Text,
    Trial,
    tables,
)
from tidemill.bench.claim import Verdict
from tidemill.bench.environment import Environment
from tidemill.bench.store import RunState, Store, TrialOutcome
from tidemill.errors import ClaimError, ConfigError, InputError

MACHINE = Environment(
    cpu="A", cpu_flags=("avx2",), cores=2, memory_bytes=2**34, kernel="Linux 6", code="c0ffee"
)
START = datetime(2026, 6, 23, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A fresh store; on Postgres too where ``TIDEMILL_TEST_POSTGRES`` is the URL of a server."""
    if request.param == "sqlite":
        store = Store(str(tmp_path / "store.db"))
        store.migrate()
        yield store
        store.close()
        return
    url = os.environ.get("TIDEMILL_TEST_POSTGRES")
    if url is None:
        pytest.skip("TIDEMILL_TEST_POSTGRES names no server to test on")
    schema = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    store = Store(f"{url}?options=-csearch_path%3D{schema}")
    store.migrate()
    yield store
    store.close()
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
    admin.dispose()


def figure(claim: str = "faster", value: float = 2.0, **fields: Any) -> Measurement:
    return Measurement(claim=claim, value=value, low=value, high=value, repeats=7, **fields)


def outcome(*measurements: Measurement, **fields: Any) -> TrialOutcome:
    values: dict[str, Any] = {
        "system": "toy",
        "trial": "race",
        "budget": Budget.QUICK,
        "outcome": "ok",
        "started": START,
        "seconds": 1.5,
        "environment": MACHINE,
        "command": "tidemill claims toy",
    }
    return TrialOutcome(**values | fields, measurements=measurements)


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
moments = st.datetimes(
    datetime(1970, 1, 2),
    datetime(2200, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=8)), timezone(timedelta(hours=-5))]),
)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    low, value, high = sorted(draw(st.lists(finite, min_size=3, max_size=3)))
    kinds = st.sampled_from([Status.EMULATED, Status.MODELLED])
    return Measurement(
        claim=draw(texts),
        value=value,
        low=low,
        high=high,
        repeats=draw(st.integers(1, 2**62)),
        subject=draw(texts),
        baseline=draw(texts),
        stand_ins=tuple(draw(st.lists(st.builds(StandIn, texts, kinds, texts), max_size=2))),
        detail=draw(st.dictionaries(texts, json_values, max_size=3)),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(measurements(), max_size=3),
    st.fixed_dictionaries(
        {
            "error": texts,
            "started": moments,
            "seconds": st.floats(0, 1e9),
            "config": st.dictionaries(texts, json_values, max_size=3),
        }
    ),
)
def test_what_goes_in_comes_out(
    store: Store, figures: list[Measurement], fields: dict[str, Any]
) -> None:
    kept = outcome(*figures, **fields)
    store.record_trial(kept)
    assert store.outcomes("toy", limit=1) == [kept]


def test_times_come_out_in_utc_whatever_zone_they_went_in_with(store: Store) -> None:
    shanghai = timezone(timedelta(hours=8))
    store.record_trial(outcome(figure(), started=START.astimezone(shanghai)))
    [record] = store.history("toy", "faster")
    assert record.started == START
    assert record.started.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(store: Store) -> None:
    run = store.create_run(system="toy", config={}, kind="run", budget=None, events_path="")
    naive = START.replace(tzinfo=None)
    with pytest.raises(ConfigError, match="time zone"):
        outcome(started=naive)
    with pytest.raises((ConfigError, sa.exc.StatementError), match="time zone"):
        store.update_run(run.id, started=naive)


def test_latest_is_the_newest_record_of_each_claim(store: Store) -> None:
    store.record_trial(outcome(figure("a", 1), figure("b", 1)))
    store.record_trial(outcome(figure("a", 2)))
    store.record_trial(outcome(figure("a", 9), system="other"))
    latest = store.latest("toy")
    assert {claim: record.measurement.value for claim, record in latest.items()} == {"a": 2, "b": 1}


def test_latest_can_be_of_one_machine(store: Store) -> None:
    other_machine = replace(MACHINE, cores=64)
    store.record_trial(outcome(figure(value=1)))
    store.record_trial(outcome(figure(value=2), environment=other_machine))

    def value(**only: str) -> float:
        return store.latest("toy", **only)["faster"].measurement.value

    assert value() == 2
    assert value(machine=MACHINE.machine_id) == 1
    assert store.latest("toy", machine="unknown") == {}


def test_latest_can_be_of_one_choice_of_settings(store: Store) -> None:
    settings = {"bits": 8, "name": 'a "quoted" 名', "seed": 0}
    store.record_trial(outcome(figure(value=1), config=settings))
    store.record_trial(outcome(figure(value=2), config={**settings, "bits": 16}))
    store.record_trial(outcome(figure(value=3), config={**settings, "gone": 1}))

    def values(**changed: int) -> list[float]:
        found = store.history("toy", "faster", settings={**settings, **changed})
        return [record.measurement.value for record in found]

    assert values() == [1]
    assert values(bits=16) == [2]
    assert values(seed=1) == []
    assert store.latest("toy", settings=settings)["faster"].measurement.value == 1
    store.record_trial(outcome(figure(value=4), config={"bits": 8}))
    assert values() == [4, 1], "a setting that did not exist then was left at its default"


def test_the_last_end_of_a_trial_is_not_one_that_was_cancelled(store: Store) -> None:
    for number, end in enumerate(("ok", "crashed", "cancelled")):
        store.record_trial(outcome(trial="one", outcome=end, seconds=number))
    store.record_trial(outcome(trial="two"))
    elsewhere = replace(MACHINE, cores=64)
    store.record_trial(outcome(trial="one", environment=elsewhere))
    ends = store.latest_outcomes("toy", machine=MACHINE.machine_id)
    assert {name: end.outcome for name, end in ends.items()} == {"one": "crashed", "two": "ok"}
    assert store.latest_outcomes("toy")["one"].environment == elsewhere


def test_a_clock_set_back_does_not_bring_old_figures_to_the_front(store: Store) -> None:
    store.record_trial(outcome(figure(value=1), started=START))
    store.record_trial(outcome(figure(value=2), started=START - timedelta(days=400)))
    assert store.latest("toy")["faster"].measurement.value == 2
    assert [r.measurement.value for r in store.history("toy", "faster")] == [2, 1]


def test_a_record_tells_how_its_figure_came_about(store: Store) -> None:
    store.record_trial(outcome(figure(), config={"k": 31}, disturbed="a compiler ran"))
    record = store.latest("toy")["faster"]
    assert record.machine == MACHINE.machine
    assert record.machine_id == MACHINE.machine_id
    assert (record.code, record.command) == ("c0ffee", "tidemill claims toy")
    assert (record.budget, record.trial, record.seconds) == (Budget.QUICK, "race", 1.5)
    assert (record.config, record.disturbed) == ({"k": 31}, "a compiler ran")


def test_figures_of_a_trial_that_crashed_later_are_kept(store: Store) -> None:
    store.record_trial(outcome(figure(), outcome="crashed", error="signal 11"))
    record = store.latest("toy")["faster"]
    assert record.outcome == "crashed"


def test_status_and_verdict_are_judged_when_read(store: Store) -> None:
    columns = {column.name for table in tables.metadata.tables.values() for column in table.c}
    assert not columns & {"status", "verdict", "holds"}
    store.record_trial(
        outcome(figure(value=2.0, stand_ins=(StandIn("GPU", Status.MODELLED, "a table"),)))
    )
    read = store.latest("toy")["faster"].measurement
    trial = Trial(name="race", measure=lambda _: (), summary=Text("", ""))
    claim = Claim(
        id="faster", quote="", statement=Text("", ""), unit="x", target=1.5, trial=trial,
        direction=Direction.AT_LEAST,
    )  # fmt: skip
    assert read.status is Status.MODELLED
    assert claim.verdict(read) is Verdict.YES
    assert replace(claim, target=3.0).verdict(read) is Verdict.NO


def test_history_and_outcomes_are_newest_first_and_limited(store: Store) -> None:
    for value in range(5):
        store.record_trial(outcome(figure(value=value), seconds=value))
    assert [r.measurement.value for r in store.history("toy", "faster", limit=3)] == [4, 3, 2]
    assert [o.seconds for o in store.outcomes("toy", limit=2)] == [4, 3]


@pytest.mark.parametrize("wrong", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_a_detail_that_is_not_json_is_refused_and_named_before_anything_is_stored(
    store: Store, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="detail of the measurement of b — is not JSON"):
        store.record_trial(outcome(figure("a"), figure("b", detail=wrong)))
    assert store.outcomes("toy") == []


def test_last_words_of_a_crashed_process_are_kept_whatever_bytes_they_hold(store: Store) -> None:
    store.record_trial(outcome(error="half \ud83d, nul \0, 全"))
    [kept] = store.outcomes("toy")
    assert kept.error == "half \\ud83d, nul \\0, 全"


def test_an_unknown_kind_of_outcome_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"outcome='fine' — must be one of ok, failed"):
        outcome(outcome="fine")


def create(store: Store, system: str = "toy") -> str:
    return store.create_run(
        system=system, config={"k": 31}, kind="run+claims", budget="quick", events_path="e"
    ).id


def test_a_run_begins_queued_and_comes_out_as_it_went_in(store: Store) -> None:
    run = store.create_run(
        system="toy", config={"k": 31}, kind="claims", budget="full", events_path="events/1"
    )
    assert store.run(run.id) == run
    assert (run.state, run.progress, run.budget) == (RunState.QUEUED, 0.0, Budget.FULL)
    assert len(run.id) == 32
    assert run.created.tzinfo is UTC


def test_all_fields_of_a_run_can_be_updated(store: Store) -> None:
    number = create(store)
    changes: dict[str, Any] = {
        "state": RunState.DONE, "pid": 4711, "pid_started": 1782209415.123456, "progress": 1.0,
        "events_path": "f", "started": START, "ended": START + timedelta(seconds=3),
        "error": "none", "report": {"facts": {"k": 31}},
    }  # fmt: skip
    assert store.update_run(number, **changes)
    run = store.run(number)
    assert run is not None
    assert {name: getattr(run, name) for name in changes} == changes
    store.update_run(number, report=None, ended=None)
    run = store.run(number)
    assert run is not None
    assert (run.report, run.ended, run.pid) == (None, None, 4711)


def test_only_one_of_two_processes_ends_a_run(store: Store) -> None:
    number = create(store)
    alive = (RunState.QUEUED, RunState.RUNNING)
    assert store.update_run(number, only_in=alive, state=RunState.DONE)
    assert not store.update_run(number, only_in=alive, state=RunState.LOST)
    run = store.run(number)
    assert run is not None
    assert run.state is RunState.DONE


def test_runs_are_newest_first_by_system_and_state(store: Store) -> None:
    first, second, third = create(store), create(store), create(store, "other")
    store.update_run(second, state=RunState.RUNNING)
    assert [run.id for run in store.runs()] == [third, second, first]
    assert [run.id for run in store.runs(system="toy", limit=1)] == [second]
    assert [run.id for run in store.runs(states=[RunState.RUNNING])] == [second]
    assert store.runs(states=[]) == []


def test_an_unknown_run_is_none_to_read_and_an_error_to_change(store: Store) -> None:
    assert store.run("0" * 32) is None
    with pytest.raises(InputError, match="is not in this store"):
        store.update_run("0" * 32, progress=0.5)


def test_ids_of_runs_are_used_once(store: Store) -> None:
    for _ in range(2):
        if store.runs():
            with pytest.raises(InputError, match="there is one already"):
                store.create_run(
                    system="s", config={}, kind="run", budget=None, events_path="", run_id="a"
                )
        else:
            store.create_run(
                system="s", config={}, kind="run", budget=None, events_path="", run_id="a"
            )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"progress": 1.5}, r"progress=1\.5 — must be in \[0, 1\]"),
        ({"progress": float("nan")}, "progress=nan"),
        ({"colour": "red"}, "field='colour' — must be one of state, pid"),
        ({"report": {"x": float("inf")}}, "report — is not JSON"),
    ],
)
def test_wrong_changes_of_a_run_are_refused(
    store: Store, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        store.update_run(create(store), **changes)


def test_a_wrong_budget_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"budget='huge' — must be one of quick, full"):
        store.create_run(system="s", config={}, kind="claims", budget="huge", events_path="")


def test_measurements_cannot_contradict_themselves() -> None:
    with pytest.raises(ClaimError, match="outside its own interval"):
        replace(figure(), high=1.0)


def test_migrations_make_exactly_the_tables_that_the_code_expects(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with store.engine.connect() as connection:
        options = {
            "compare_type": True,
            "include_name": lambda name, kind, _: kind != "table" or name in expected,
        }
        expected = set(tables.metadata.tables)
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []


def test_migrating_again_changes_nothing(store: Store) -> None:
    store.record_trial(outcome(figure()))
    store.migrate()
    assert len(store.outcomes("toy")) == 1
