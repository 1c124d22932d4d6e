from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import psutil
import pytest
from toy_system import SYSTEM

from tidemill.bench import Budget, Progress, family
from tidemill.bench.process import Terms
from tidemill.bench.runner import run_system, run_trial
from tidemill.errors import ConfigError, OutOfPool

TOY = "toy_system:SYSTEM"


def told(outcome) -> str:
    """The first line of its error."""
    return outcome.error.partition("\n")[0]


def parent_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After every test no process of a trial runs and no temporary file of one lies about."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(family.MARK, mark)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    assert family.marked(mark) == set()
    assert list(tmp_path.glob("tidemill-*")) == []


def test_a_trial_gives_its_figures_and_all_that_is_needed_to_repeat_it() -> None:
    outcome = run_trial(TOY, "counts", config={"steps": 5}, terms=Terms(threads=1))
    assert (outcome.outcome, outcome.error, outcome.system) == ("ok", "", "toy")
    assert [m.claim for m in outcome.measurements] == ["counts"]
    assert outcome.measurements[0].baseline == "clock"
    assert outcome.config == {"steps": 5, "gate": "", "lacks": False}
    assert outcome.command == (
        "tidemill claims toy_system:SYSTEM --budget quick --only counts --set steps=5"
    )
    assert outcome.peak_rss_bytes > 5 * 2**20
    assert outcome.seconds > 0
    assert outcome.environment.machine_id


def test_stand_ins_come_back_from_the_child() -> None:
    (measurement,) = run_trial(TOY, "emulates").measurements
    assert measurement.status == "emulated"
    assert measurement.stand_ins[0].device == "a toy device"


def test_progress_is_told_of_stages_amounts_and_readings() -> None:
    calls = []

    class Told(Progress):
        def stage(self, name: str) -> None:
            calls.append(("stage", name))

        def advance(self, done: float, total: float, unit: str = "") -> None:
            calls.append(("advance", done, total, unit))

        def metric(self, name: str, value: float, unit: str = "") -> None:
            calls.append(("metric", name, value))

    run_trial(TOY, "counts", progress=Told())
    assert calls[0] == ("stage", "count")
    assert calls[-1] == ("advance", 3.0, 3.0, "steps")
    assert ("metric", "count", 0.0) in calls


def test_a_flood_of_progress_is_thinned_out_but_its_end_comes_through() -> None:
    seen = []
    run_trial(TOY, "counts", config={"steps": 100_000}, progress=lambda *event: seen.append(event))
    amounts = [data["done"] for kind, data in seen if kind == "progress"]
    assert amounts[-1] == 100_000
    assert len(seen) < 10_000


def test_an_error_is_an_outcome_with_the_trials_last_words() -> None:
    outcome = run_trial(TOY, "fails")
    assert outcome.outcome == "failed"
    assert told(outcome) == "trial fails — ValueError: the toy broke"
    assert "about to fail" in outcome.error
    assert "toy_system.py" in outcome.error
    assert [m.claim for m in outcome.measurements] == ["fails"]


def test_a_segmentation_fault_is_an_outcome_and_what_was_measured_before_is_kept() -> None:
    outcome = run_trial(TOY, "segfaults")
    assert outcome.outcome == "crashed"
    assert told(outcome) == "trial segfaults in stage 'fall' — killed by SIGSEGV."
    assert "last words" in outcome.error
    assert [m.claim for m in outcome.measurements] == ["segfaults"]


def test_a_trial_that_leaves_without_a_word_has_crashed() -> None:
    outcome = run_trial(TOY, "exits")
    assert outcome.outcome == "crashed"
    assert "exited with status 0 before it was done" in outcome.error


@pytest.mark.parametrize("trial", ["eats", "eats-in-children"])
def test_a_family_over_its_memory_is_ended_with_its_peak_recorded(trial: str) -> None:
    outcome = run_trial(TOY, trial)
    assert outcome.outcome == "out of memory"
    assert "the limit is 200 MiB" in outcome.error
    assert outcome.peak_rss_bytes > 200 * 2**20


def test_a_trial_over_its_time_is_ended_even_if_it_ignores_sigterm() -> None:
    outcome = run_trial(TOY, "loops")
    assert outcome.outcome == "timeout"
    assert "in stage 'loop' — still running after 1 s, the limit for budget quick" in told(outcome)


def test_grandchildren_that_left_group_and_environment_are_ended_too(watched) -> None:
    ends, logs = [], []

    def tell(kind, data) -> None:
        if kind == "log":
            logs.append(data["text"])
            if data["text"].startswith("grandchildren"):
                ends.extend(watched(int(pid)) for pid in data["text"].split()[1:])

    outcome = run_trial(TOY, "forks", progress=tell)
    assert outcome.outcome == "ok"
    assert len(ends) == 3
    assert all(has_ended() for has_ended in ends)
    assert logs[-1] == "ended 3 processes that it left behind"


def test_garbage_on_standard_output_does_not_confuse_the_events() -> None:
    outcome = run_trial(TOY, "garbage")
    assert outcome.outcome == "failed"
    assert told(outcome) == "trial garbage — ValueError: half? a character \0"
    assert "the end\\xff" in outcome.error
    assert len(outcome.error) < 20_000


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("foreign", "measured claim 'counts', its own are foreign"),
        ("nothing", "ended without a figure for nothing"),
    ],
)
def test_a_trial_must_measure_its_own_claims_and_all_of_them(trial: str, message: str) -> None:
    outcome = run_trial(TOY, trial)
    assert outcome.outcome == "failed"
    assert message in outcome.error


def test_what_the_machine_lacks_is_told_apart_from_failure() -> None:
    assert run_trial(TOY, "lacks").outcome == "missing"
    outcome = run_trial("toy_system:MISSING", "counts")
    assert outcome.outcome == "missing"
    assert "plug it in" in outcome.error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"trial": "absent"}, "trial='absent'"),
        ({"trial": "only-full"}, "budget='quick'"),
        ({"trial": "counts", "config": {"steps": 0}}, "steps=0"),
        ({"trial": "counts", "config": {"stepz": 1}}, "stepz"),
        ({"system": "toy_system:NOTHING", "trial": "counts"}, "toy_system:NOTHING"),
        ({"system": "absent", "trial": "counts"}, "system='absent'"),
    ],
)
def test_a_wrong_request_is_refused_before_a_process_is_started(arguments, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        run_trial(**{"system": TOY, **arguments})


def test_a_trial_without_a_quick_form_runs_on_the_full_budget() -> None:
    trial = SYSTEM.claim("only-full").trial
    outcome = run_trial(TOY, trial, budget=Budget.FULL)
    assert (outcome.outcome, outcome.budget) == ("failed", "full")


def test_kill_9_of_the_trial_is_a_crash() -> None:
    pids = []

    def tell(kind, data) -> None:
        if kind == "trial":
            pids.append(data["pid"])
        elif kind == "stage" and data["name"] == "at the gate":
            os.kill(pids[0], signal.SIGKILL)

    outcome = run_trial(TOY, "waits", progress=tell)
    assert outcome.outcome == "crashed"
    assert told(outcome) == "trial waits in stage 'at the gate' — killed by SIGKILL."
    assert [m.claim for m in outcome.measurements] == ["waits-first"]


def test_kill_9_of_the_warden_takes_the_trial_along(watched) -> None:
    ends = []

    def tell(kind, data) -> None:
        if kind == "trial":
            ends.append(watched(data["pid"]))
            os.kill(parent_of(data["pid"]), signal.SIGKILL)

    outcome = run_trial(TOY, "waits", progress=tell)
    assert outcome.outcome == "crashed"
    assert "supervising process was killed" in outcome.error
    assert ends[0]()


def test_kill_9_of_the_caller_leaves_no_process_and_no_file(watched, gate) -> None:
    code = (
        "import sys; from tidemill.bench.runner import run_trial\n"
        "run_trial('toy_system:SYSTEM', 'forks', config={'gate': sys.argv[1]},"
        " progress=lambda kind, data: print(data.get('pid') or data.get('text'), flush=True))"
    )
    command = [sys.executable, "-c", code, gate.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        pid = int(caller.stdout.readline())
        grandchildren = map(int, caller.stdout.readline().split()[1:])
        ends = [watched(member) for member in (parent_of(pid), pid, *grandchildren)]
        caller.kill()
    assert len(ends) == 5
    assert all(has_ended() for has_ended in ends)


def test_cancelling_ends_the_family_and_keeps_what_was_measured(watched) -> None:
    terms, ends = Terms(), []

    def tell(kind, data) -> None:
        if kind == "trial":
            ends.append(watched(data["pid"]))
        elif kind == "stage" and data["name"] == "at the gate":
            terms.cancel.set()

    outcome = run_trial(TOY, "waits", progress=tell, terms=terms)
    assert outcome.outcome == "cancelled"
    assert [m.claim for m in outcome.measurements] == ["waits-first"]
    assert ends[0]()


def test_an_error_of_the_listener_ends_the_family_before_it_is_raised(watched) -> None:
    ends = []

    def tell(kind, data) -> None:
        if kind == "trial":
            ends.append(watched(data["pid"]))
            raise RuntimeError("the listener broke")

    for trial in ("waits", "big"):  # one that waits, one that has more to tell than a pipe holds
        with pytest.raises(RuntimeError, match="the listener broke"):
            run_trial(TOY, trial, progress=tell)
    assert all(has_ended() for has_ended in ends)


def test_a_long_series_comes_through_whole_and_a_flood_of_log_lines_does_not() -> None:
    logs = []
    outcome = run_trial(
        TOY, "big", progress=lambda kind, data: kind == "log" and logs.append(data["text"])
    )
    assert len(outcome.measurements[0].detail["series"]) == 100_000
    assert logs[0] == "line 0"
    assert "left out" in logs[99]
    assert len(logs) < 10_000


def test_a_machine_without_room_for_a_child_says_so_and_leaks_nothing(monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    before = psutil.Process().num_fds()
    with pytest.raises(OutOfPool, match="/proc/nowhere"):
        run_trial(TOY, "counts")
    assert psutil.Process().num_fds() == before


def test_a_child_that_cannot_start_tells_why(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    outcome = run_trial(TOY, "counts")
    assert outcome.outcome == "crashed"
    assert "its supervising process failed: " in outcome.error


def test_temporary_files_of_a_trial_go_with_it(gate) -> None:
    folders = []

    def tell(kind, data) -> None:
        if kind == "log":
            folders.append(Path(data["text"].removeprefix("tmp ")))
        elif kind == "stage" and data["name"] == "at the gate":
            assert folders[0].is_dir()
            threading.Thread(target=gate.open).start()

    outcome = run_trial(TOY, "waits", config={"gate": gate.path}, progress=tell)
    assert outcome.outcome == "ok"
    assert not folders[0].exists()


def test_others_that_use_the_machine_meanwhile_are_named(gate) -> None:
    spin = (
        "import sys, time\n"
        "while time.process_time() < 1.0: pass\n"
        "open(sys.argv[1], 'w').write('go') if len(sys.argv) > 1 else None\n"
        "while True: pass"
    )
    # orphans of a shell that has ended: a process that this one started would be no "other"
    orphan = ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", sys.executable, "-c", spin]
    spinners: list[int] = []

    def tell(kind, data) -> None:
        if kind == "stage" and data["name"] == "at the gate":
            arguments = [[gate.path]] + [[]] * ((os.cpu_count() or 1) - 1)
            for more in arguments:
                told = subprocess.run([*orphan, *more], env={}, stdout=subprocess.PIPE, check=True)
                spinners.append(int(told.stdout))

    outcome = run_trial(TOY, "waits", config={"gate": gate.path}, progress=tell)
    for spinner in spinners:
        os.kill(spinner, signal.SIGKILL)
    assert outcome.outcome == "ok"
    assert f"of the {os.cpu_count()} CPUs" in outcome.disturbed


def test_a_run_gives_its_report() -> None:
    ended = run_system(TOY, config={"steps": 7})
    assert ended.outcome == "ok"
    assert ended.report["headline"]["zh"] == "数到 7。"
    assert ended.report["tables"][0]["rows"] == [[1, 0.25], [2, 0.25]]


def test_a_kill_for_want_of_memory_in_the_callers_cgroup_is_recognised() -> None:
    """The kernel takes the trial, not the caller, although both are in the cgroup."""
    group = Path(f"/sys/fs/cgroup/memory/tidemill-{uuid.uuid4().hex}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text("150M")
    except OSError as error:
        pytest.skip(f"no memory cgroup (v1) can be made here: {error}")
    code = (
        "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "from tidemill.bench.runner import run_trial\n"
        "outcome = run_trial('toy_system:SYSTEM', 'eats')\n"
        "print(outcome.outcome, outcome.error)"
    )
    command = [sys.executable, "-c", code, str(group / "cgroup.procs")]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    finally:
        group.rmdir()
    assert result.stdout.startswith("out of memory trial eats in stage 'eat' — the kernel killed")
