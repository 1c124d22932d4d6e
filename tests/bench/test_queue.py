from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidemill.bench import family, queue
from tidemill.bench.events import Event, follow, read_events
from tidemill.bench.queue import RunQueue, runs_directory
from tidemill.bench.records import Run, RunState
from tidemill.bench.store import Store
from tidemill.errors import ConfigError, InputError, OutOfPool

TOY = "toy_system:SYSTEM"
GOOD = "toy_system:GOOD"

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def store():
    opened = Store()
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def runs(store, tmp_path: Path):
    """A queue whose supervising thread has not been started."""
    made = RunQueue(store, tmp_path / "runs")
    yield made
    for run in store.runs(states=[RunState.QUEUED, RunState.RUNNING]):
        made.cancel(run.id)
        if not store.run(run.id).state.is_final:
            made.start()
            ended(run)
    made.stop()


def ended(run: Run) -> Event:
    """Block until the run has ended; its last event."""
    return list(follow(run.events_path, 0, threading.Event()))[-1]


def event_of(run: Run, kind: str, **data: object) -> Event:
    """Block until the run tells such an event."""
    return next(
        event
        for event in follow(run.events_path, 0, threading.Event())
        if event.kind == kind and data.items() <= event.data.items()
    )


def test_a_run_is_done_by_a_process_of_its_own_and_its_results_are_kept(store, runs) -> None:
    run = runs.submit(GOOD, {"steps": 4}, "run+claims", "quick")
    assert (run.state, run.config["steps"]) == (RunState.QUEUED, 4)
    runs.start()
    assert ended(run).data == {"state": "done", "error": ""}
    row = store.run(run.id)
    assert row.state is RunState.DONE
    assert row.pid != os.getpid()
    assert row.report["facts"] == {"steps": 4}
    assert set(store.latest("good")) == {"counts", "emulates"}


def test_claims_alone_are_measured_without_a_run(store, runs) -> None:
    run = runs.submit(GOOD, {}, "claims")
    runs.start()
    ended(run)
    assert store.run(run.id).report is None
    assert set(store.latest("good")) == {"counts", "emulates"}


def test_one_slot_means_one_run_at_a_time_in_the_order_they_were_asked_for(
    store, runs, gate
) -> None:
    first = runs.submit(TOY, {"gate": gate.path}, "run")
    second = runs.submit(GOOD, {}, "run")
    runs.start()
    event_of(first, "stage", name="run")
    assert [run.id for run in store.runs(states=[RunState.RUNNING])] == [first.id]
    assert store.run(second.id).state is RunState.QUEUED
    gate.open()
    ended(first)
    ended(second)
    assert store.run(first.id).ended <= store.run(second.id).started


def test_a_wrong_request_is_refused_and_queues_nothing(store, runs) -> None:
    with pytest.raises(ConfigError, match="steps=0"):
        runs.submit(GOOD, {"steps": 0}, "run")
    with pytest.raises(ConfigError, match="absent"):
        runs.submit("absent", {}, "run")
    with pytest.raises(ConfigError, match="budget='slow'"):
        runs.submit(GOOD, {}, "claims", "slow")
    with pytest.raises(InputError, match="not in this store"):
        runs.cancel("absent")
    assert store.runs() == []


def test_a_queue_that_is_full_refuses_more(store, runs) -> None:
    for _ in range(queue.QUEUE_LIMIT):
        store.create_run(system=GOOD, config={}, kind="run", budget=None, events_path="elsewhere")
    with pytest.raises(OutOfPool, match="wait already"):
        runs.submit(GOOD, {}, "run")
    for run in store.runs(limit=200):
        store.update_run(run.id, state=RunState.CANCELLED)


def test_a_run_whose_event_file_cannot_be_made_is_refused(store, tmp_path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(OutOfPool, match="its event file cannot be made"):
        RunQueue(store, tmp_path / "runs").submit(GOOD, {}, "run")
    assert store.runs() == []


def test_a_queued_run_that_is_cancelled_never_starts(store, runs) -> None:
    run = runs.submit(GOOD, {}, "run")
    assert runs.cancel(run.id)
    runs.start()
    assert ended(run).data["state"] == "cancelled"
    assert store.run(run.id).state is RunState.CANCELLED
    assert not runs.cancel(run.id)


def test_a_running_run_that_is_cancelled_leaves_no_process(store, runs, gate, watched) -> None:
    run = runs.submit(TOY, {"gate": gate.path}, "run")
    runs.start()
    trial = event_of(run, "trial", state="started").data["pid"]
    ends = [watched(trial), watched(store.run(run.id).pid)]
    assert runs.cancel(run.id)
    assert all(has_ended() for has_ended in ends)
    assert ended(run).data["state"] == "cancelled"
    assert store.run(run.id).state is RunState.CANCELLED
    assert family.marked(run.id) == set()


def test_a_run_goes_on_while_the_server_restarts(store, runs, gate) -> None:
    run = runs.submit(TOY, {"gate": gate.path}, "run")
    runs.start()
    event_of(run, "stage", name="run")
    runs.stop()
    pid = store.run(run.id).pid
    after = RunQueue(store, Path(run.events_path).parent)
    assert [adopted.id for adopted in after.adopt()] == [run.id]
    after.start()
    gate.open()
    assert ended(run).data["state"] == "done"
    assert (store.run(run.id).state, store.run(run.id).pid) == (RunState.DONE, pid)
    after.stop()


def test_a_run_survives_the_death_of_the_server_that_started_it(store, tmp_path, gate) -> None:
    code = (
        "import sys\n"
        "from tidemill.bench.queue import RunQueue\n"
        "from tidemill.bench.store import Store\n"
        "queue = RunQueue(Store(), sys.argv[1])\n"
        "run = queue.submit('toy_system:SYSTEM', {'gate': sys.argv[2]}, 'run')\n"
        "print(run.id, flush=True); queue.start(); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), gate.path]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        run = store.run(server.stdout.readline().strip())
        event_of(run, "stage", name="run")
        server.kill()
    after = RunQueue(store, tmp_path / "runs")
    after.start()
    assert store.run(run.id).state is RunState.RUNNING
    gate.open()
    assert ended(run).data["state"] == "done"
    after.stop()


def test_a_session_that_is_killed_is_marked_lost_and_leaves_no_process(
    store, runs, gate, watched
) -> None:
    run = runs.submit(TOY, {"gate": gate.path}, "run")
    runs.start()
    trial = event_of(run, "trial", state="started").data["pid"]
    has_ended = watched(trial)
    os.kill(store.run(run.id).pid, signal.SIGKILL)
    last = ended(run)
    assert last.data["state"] == "lost"
    assert has_ended()
    row = store.run(run.id)
    assert (row.state, row.error) == (RunState.LOST, last.data["error"])
    assert "its process vanished" in row.error


def test_a_run_whose_row_was_not_updated_gets_the_state_of_its_event_file(
    store, runs, gate, watched
) -> None:
    run = runs.submit(TOY, {"gate": gate.path}, "run")
    runs.start()
    event_of(run, "stage", name="run")
    has_ended = watched(store.run(run.id).pid)
    gate.open()
    assert has_ended()
    runs.stop()
    store.update_run(run.id, state=RunState.RUNNING, report=None, ended=None)
    assert runs.adopt() == []
    row = store.run(run.id)
    assert (row.state, row.report["facts"]) == (RunState.DONE, {"steps": 3})


def test_a_later_process_with_the_same_pid_is_not_taken_for_the_session(store, runs) -> None:
    run = runs.submit(GOOD, {}, "run")
    began = family.start_time(os.getpid())
    store.update_run(run.id, state=RunState.RUNNING, pid=os.getpid(), pid_started=began - 3600)
    assert runs.adopt() == []
    assert store.run(run.id).state is RunState.LOST


def test_a_run_claimed_by_a_server_that_lives_is_left_to_it(store, runs) -> None:
    run = runs.submit(GOOD, {}, "run")
    began = family.start_time(os.getpid())
    store.update_run(run.id, state=RunState.RUNNING, pid=os.getpid(), pid_started=began)
    assert [adopted.id for adopted in runs.adopt()] == [run.id]
    store.update_run(run.id, state=RunState.CANCELLED)


def test_a_session_that_cannot_begin_tells_why(store, runs) -> None:
    run = runs.submit(GOOD, {}, "run")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE run SET system = 'gone:SYSTEM'")
    runs.start()
    assert "gone:SYSTEM — cannot be imported" in str(ended(run).data["error"])
    assert store.run(run.id).state is RunState.LOST


def test_two_servers_on_one_database_start_each_run_once(store, tmp_path, gate) -> None:
    servers = [RunQueue(store, tmp_path / "runs"), RunQueue(Store(), tmp_path / "runs")]
    asked = [servers[i % 2].submit(GOOD, {}, "run") for i in range(6)]
    for server in servers:
        server.start()
    assert [ended(run).data["state"] for run in asked] == ["done"] * 6
    for server in servers:
        server.stop()
    for run in asked:
        starts = [event for event in read_events(run.events_path) if "pid" in event.data]
        assert len(starts) == 1
    rows = sorted((store.run(run.id) for run in asked), key=lambda row: row.started)
    assert all(a.ended <= b.started for a, b in itertools.pairwise(rows))


def test_a_run_of_another_machine_is_left_alone(store, runs) -> None:
    """Its event file is not here."""
    other = store.create_run(
        system=GOOD, config={}, kind="run", budget=None, events_path="/elsewhere/events.jsonl"
    )
    own = runs.submit(GOOD, {}, "run")
    runs.start()
    ended(own)
    assert store.run(other.id).state is RunState.QUEUED
    store.update_run(other.id, state=RunState.RUNNING, pid=2**22 - 1, pid_started=1.0)
    assert runs.adopt() == []
    assert store.run(other.id).state is RunState.RUNNING
    store.update_run(other.id, state=RunState.DONE)


def test_old_event_files_are_removed_but_never_those_of_unfinished_runs(
    store, runs, monkeypatch
) -> None:
    monkeypatch.setattr(queue, "KEEP_FILES", 2)
    waiting = runs.submit(GOOD, {}, "run")
    folder = Path(waiting.events_path).parent
    os.utime(waiting.events_path, (1, 1))
    for i in range(4):
        old = folder / f"old{i}.jsonl"
        old.touch()
        old.with_suffix(".log").touch()
        os.utime(old, (100 + i, 100 + i))
    runs.prune()
    left = {path.name for path in folder.iterdir()}
    assert left == {
        Path(waiting.events_path).name, "old3.jsonl", "old3.log", "old2.jsonl", "old2.log",
    }  # fmt: skip
    monkeypatch.setattr(queue, "KEEP_BYTES", 0)
    (folder / "old3.jsonl").write_text("x")
    runs.prune()
    assert {path.name for path in folder.iterdir()} == {Path(waiting.events_path).name}


def test_event_files_go_to_the_users_data_folder() -> None:
    assert runs_directory().name == "runs"
    assert os.environ["XDG_DATA_HOME"] in str(runs_directory())
