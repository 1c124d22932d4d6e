from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.bench import Budget
from tidemill.bench.events import EventLog, read_events
from tidemill.bench.process import Terms
from tidemill.bench.records import RunState
from tidemill.bench.session import choose_trials, run_session
from tidemill.bench.store import Store
from tidemill.errors import ConfigError

TOY = "toy_system:SYSTEM"
GOOD = "toy_system:GOOD"


@pytest.fixture
def store():
    opened = Store()
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Path):
    opened = EventLog(tmp_path / "events.jsonl")
    yield opened
    opened.close()


def test_a_session_runs_then_measures_and_ends_with_its_state(store, log) -> None:
    result = run_session(GOOD, kind="run+claims", store=store, events=log)
    assert (result.state, result.exit_code, result.error) == (RunState.DONE, 0, "")
    assert result.report["facts"] == {"steps": 3}
    events = read_events(log.path)
    results = [
        (event.kind, event.data.get("name") or event.data.get("claim"), event.data.get("state"))
        for event in events
        if event.kind in ("trial", "report", "measurement", "end")
    ]
    assert results == [
        ("trial", None, "started"),
        ("report", None, None),
        ("trial", None, "ended"),
        ("trial", "counts", "started"),
        ("measurement", "counts", None),
        ("trial", "counts", "ended"),
        ("trial", "emulates", "started"),
        ("measurement", "emulates", None),
        ("trial", "emulates", "ended"),
        ("end", None, "done"),
    ]
    measured = next(event.data for event in events if event.kind == "measurement")
    assert (measured["unit"], measured["status"], measured["verdict"]) == ("x", "measured", "yes")
    assert set(store.latest("good")) == {"counts", "emulates"}


def test_each_outcome_is_stored_before_the_next_trial_begins(store) -> None:
    stored_at_start = []

    def tell(kind, data) -> None:
        if kind == "trial" and data["state"] == "started":
            stored_at_start.append(len(store.outcomes("good")))

    run_session(GOOD, kind="claims", store=store, progress=tell)
    assert stored_at_start == [0, 1]


def test_a_failed_trial_does_not_keep_the_others_from_being_measured(store, log) -> None:
    trials = ["fails", "segfaults", "counts"]
    result = run_session(TOY, kind="claims", store=store, events=log, trials=trials)
    assert [outcome.outcome for outcome in result.outcomes] == ["ok", "failed", "crashed"]
    assert (result.state, result.exit_code) == (RunState.FAILED, 1)
    assert result.error.startswith("trial fails — ValueError")
    assert set(store.latest("toy")) == {"counts", "fails", "segfaults"}
    assert read_events(log.path)[-1].data["state"] == "failed"


def test_a_missing_capability_is_exit_code_3_unless_something_failed_too(store) -> None:
    assert run_session(TOY, kind="claims", trials=["lacks"]).exit_code == 3
    assert run_session(TOY, kind="claims", trials=["lacks", "fails"]).exit_code == 1


def test_the_quick_budget_takes_the_trials_that_have_a_quick_form() -> None:
    from toy_system import SYSTEM

    names = {trial.name for trial in choose_trials(SYSTEM, Budget.QUICK)}
    assert {trial.name for trial in SYSTEM.trials} - names == {"only-full"}
    assert len(choose_trials(SYSTEM, Budget.FULL)) == len(names) + 1
    with pytest.raises(ConfigError, match="no quick form"):
        choose_trials(SYSTEM, Budget.QUICK, ["only-full"])
    with pytest.raises(ConfigError, match="'absent'"):
        choose_trials(SYSTEM, Budget.QUICK, ["absent"])


def test_cancelling_ends_the_session_and_begins_no_further_trial(store, log) -> None:
    terms = Terms()

    def tell(kind, data) -> None:
        if kind == "stage" and data["name"] == "at the gate":
            terms.cancel.set()

    result = run_session(
        TOY, kind="claims", store=store, events=log, trials=["waits", "fails"], progress=tell,
        terms=terms,
    )  # fmt: skip
    assert [outcome.outcome for outcome in result.outcomes] == ["cancelled"]
    assert result.state is RunState.CANCELLED
    assert set(store.latest("toy")) == {"waits-first"}
    assert read_events(log.path)[-1].data["state"] == "cancelled"


def test_the_row_of_the_run_follows_the_session(store, log) -> None:
    run = store.create_run(
        system=GOOD, config={}, kind="run+claims", budget="quick", events_path=str(log.path)
    )
    states = []

    def tell(kind, data) -> None:
        row = store.run(run.id)
        states.append((row.state, row.pid))

    terms = Terms(run_id=run.id)
    run_session(GOOD, kind="run+claims", store=store, progress=tell, terms=terms)
    assert states[0] == (RunState.RUNNING, os.getpid())
    row = store.run(run.id)
    assert (row.state, row.progress, row.error) == (RunState.DONE, 1.0, "")
    assert row.report["facts"] == {"steps": 3}
    assert row.started <= row.ended


def test_a_run_that_was_cancelled_before_its_session_began_does_nothing(store, log) -> None:
    run = store.create_run(
        system=GOOD, config={}, kind="run", budget=None, events_path=str(log.path)
    )
    store.update_run(run.id, state=RunState.CANCELLED)
    result = run_session(GOOD, kind="run", store=store, events=log, terms=Terms(run_id=run.id))
    assert (result.state, result.report) == (RunState.CANCELLED, None)
    assert [event.kind for event in read_events(log.path)] == ["end"]


def test_a_full_disk_under_the_store_ends_the_session_and_loses_nothing_stored(tiny_disk) -> None:
    store = Store(str(tiny_disk.path / "results.db"))
    store.migrate()
    assert run_session(GOOD, kind="claims", store=store).exit_code == 0
    tiny_disk.fill()
    result = run_session(GOOD, kind="claims", store=store)
    assert (result.state, result.exit_code) == (RunState.FAILED, 2)
    assert "OutOfPool" in result.error
    assert "the disk is full" in result.error
    assert "what was stored before is intact" in result.error
    tiny_disk.make_room()
    assert set(store.latest("good")) == {"counts", "emulates"}
    assert run_session(GOOD, kind="claims", store=store).exit_code == 0
    store.close()


def test_a_full_disk_under_the_events_is_reported_and_the_results_are_stored(
    store, tiny_disk
) -> None:
    path = tiny_disk.path / "events.jsonl"
    log = EventLog(path)
    log.append("log", {"text": "before"})
    tiny_disk.fill()
    while log.append("log", {"text": "before"}) is not None:
        pass
    log.close()
    log = EventLog(path)
    result = run_session(GOOD, kind="claims", store=store, events=log)
    log.close()
    assert (result.state, result.exit_code) == (RunState.DONE, 2)
    assert "No space left" in result.error
    assert set(store.latest("good")) == {"counts", "emulates"}
    assert {event.data["text"] for event in read_events(path)} == {"before"}


def test_two_sessions_at_once_both_keep_their_results(store) -> None:
    command = [sys.executable, "-m", "tidemill", "claims", GOOD, "--json"]
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in "ab"
    ]
    for session in both:
        _, errors = session.communicate(timeout=60)
        assert session.returncode == 0, errors
    assert len(store.outcomes("good")) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_session_process_cleanly(store, tmp_path, watched, number) -> None:
    events = tmp_path / "events.jsonl"
    run = store.create_run(system=TOY, config={}, kind="run", budget=None, events_path=str(events))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = [sys.executable, "-m", "tidemill", "run", TOY, "--run-id", run.id]
    command += ["--events", str(events), "--set", f"gate={gate}"]
    before = signal.signal(number, signal.SIG_DFL)  # a child of nohup's would ignore SIGHUP
    session = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(number, before)
    with session:
        with gate.open("w"):  # blocks until the run has come to the gate
            pid = read_events(events)[0].data["pid"]
            has_ended = watched(pid)
            session.send_signal(number)
            assert has_ended()
        _, errors = session.communicate(timeout=60)
    assert session.returncode == 128 + number
    assert errors.splitlines() == [
        "toy: run of toy_system:SYSTEM in stage 'run' — cancelled by the user."
    ]
    assert read_events(events)[-1].data["state"] == "cancelled"
    assert store.run(run.id).state is RunState.CANCELLED


def test_kill_9_of_a_session_keeps_what_it_stored_and_leaves_no_process(
    store, tmp_path, watched
) -> None:
    events = tmp_path / "events.jsonl"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command = [sys.executable, "-m", "tidemill", "run", TOY, "--events", str(events)]
    command += ["--claims", "quick", "--no-run", "--set", f"gate={gate}"]
    session = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    with session, gate.open("w"):  # "counts" and "emulates" are stored, "waits" is at the gate
        started = [event for event in read_events(events) if "pid" in event.data]
        has_ended = watched(started[-1].data["pid"])
        session.kill()
        assert has_ended()
    assert set(store.latest("toy")) == {"counts", "emulates"}
