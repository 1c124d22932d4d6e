from __future__ import annotations

import json
import os
import pty
import signal
import sys

import pytest

from tidemill.bench.store import Store

GOOD = "toy_system:GOOD"
TOY = "toy_system:SYSTEM"


@pytest.mark.parametrize(
    ("system", "code", "verdict"),
    [("GOOD", 0, "yes"), ("LOSES", 1, "no"), ("UNSURE", 0, "unclear"), ("MISSING", 3, None)],
)
def test_the_exit_code_follows_the_verdicts(tidemill, system: str, code: int, verdict) -> None:
    result = tidemill("claims", f"toy_system:{system}", "--json")
    assert result.returncode == code
    (found,) = json.loads(result.stdout)["systems"]
    assert found["claims"][0]["verdict"] == verdict


def test_json_is_all_there_is_on_standard_output_and_tells_everything(tidemill) -> None:
    result = tidemill("claims", GOOD, "--json", "--set", "steps=4")
    document = json.loads(result.stdout)
    assert document["command"] == "tidemill claims toy_system:GOOD --json --set steps=4"
    assert document["environment"]["cpu"]
    assert document["budget"] == "quick"
    (system,) = document["systems"]
    assert system["paper"]["arxiv_id"] == "2601.00001"
    claim = system["claims"][0]
    assert (claim["unit"], claim["target"], claim["status"]) == ("x", 1.5, "measured")
    assert claim["measurement"]["low"] == pytest.approx(1.8)
    assert system["claims"][1]["measurement"]["stand_ins"][0]["kind"] == "emulated"
    trial = system["trials"][0]
    assert trial["config"]["steps"] == 4
    assert trial["command"].endswith("--only counts --set steps=4")
    assert "counts = 2 × [1.8, 2.2] (measured, holds: yes)" in result.stderr


def test_the_same_json_is_saved_to_a_file(tidemill, tmp_path) -> None:
    result = tidemill("claims", GOOD, "--save", tmp_path / "toy.json")
    assert result.returncode == 0
    saved = json.loads((tmp_path / "toy.json").read_text())
    assert saved["systems"][0]["system"] == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["toy.json"]


def test_one_trial_more_leaves_the_others_in_the_file(tidemill, tmp_path) -> None:
    file = tmp_path / "toy.json"
    for claim in ("emulates", "counts", "emulates"):
        tidemill("claims", TOY, "--only", claim, "--save", file)
    (system,) = json.loads(file.read_text())["systems"]
    assert [trial["trial"] for trial in system["trials"]] == ["counts", "emulates"]
    assert [c["id"] for c in system["claims"] if c["measurement"]] == ["counts", "emulates"]
    assert all(trial["code"] and trial["command"] for trial in system["trials"])


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda text: "{}", "holds no measured claims ('budget')"),
        (lambda text: text[:100], "holds no measured claims"),
        (lambda text: text.replace('"quick"', '"full"', 1), "its budget is 'full'"),
    ],
)
def test_a_file_that_cannot_be_added_to_is_told_before_measuring(
    tidemill, tmp_path, spoil, word: str
) -> None:
    file = tmp_path / "toy.json"
    tidemill("claims", GOOD, "--save", file)
    spoiled = spoil(file.read_text())
    file.write_text(spoiled)
    result = tidemill("claims", GOOD, "--only", "counts", "--save", file)
    assert result.returncode == 2
    assert word in result.stderr
    assert file.read_text() == spoiled


def test_a_folder_that_cannot_take_the_file_is_told_before_measuring(tidemill, tmp_path) -> None:
    result = tidemill("claims", GOOD, "--save", tmp_path / "absent" / "toy.json")
    assert result.returncode == 2
    assert result.stderr.startswith("ConfigError: --save=")


def test_the_table_has_a_line_per_claim_and_says_why_one_was_not_run(tidemill) -> None:
    result = tidemill("claims", TOY, "--only", "emulates", "--only", "fails", "--only", "lacks")
    assert result.returncode == 1
    words = " ".join(result.stdout.split())
    for word in (
        "claim ┃ paper says ┃ here ┃ baseline ┃ status ┃ holds",
        "emulates │ up to 3x │ 1 × │ │ emulated │ yes",
        "fails │ up to 3x │ 2 × [1.8, 2.2] │ clock │ measured │ yes",
        "lacks │ up to 3x │ trial lacks — MissingCapability",
        "not run",
    ):
        assert word in words.replace("│ disturbed", "│").replace("disturbed", "")
    assert "counts" not in result.stdout


def test_verbose_adds_the_last_words_of_a_trial(tidemill) -> None:
    words = ["claims", TOY, "--only", "segfaults"]
    assert "Segmentation fault" not in tidemill(*words).stderr
    result = tidemill("-v", *words)
    assert "last words\nFatal Python error: Segmentation fault" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("killed by SIGSEGV.")


def test_figures_are_kept_also_when_another_trial_fails(tidemill) -> None:
    assert tidemill("claims", TOY, "--only", "counts", "--only", "segfaults").returncode == 1
    store = Store()
    assert set(store.latest("toy")) == {"counts", "segfaults"}
    store.close()


def test_statements_are_in_the_language_of_the_locale(tidemill) -> None:
    assert "It counts." in tidemill("claims", GOOD).stdout
    assert "它counts。" in tidemill("claims", GOOD, LANG="zh_CN.UTF-8").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["claims", "absent"], "system='absent'"),
        (["claims", GOOD, "--budget", "slow"], "budget='slow' — must be quick or full"),
        (["claims", GOOD, "--only", "absent"], "claim='absent'"),
        (["claims", "--only", "counts"], "--only='counts'"),
        (["claims", GOOD, "--set", "steps"], "--set='steps' — must be of the form key=value"),
        (["run", GOOD, "--set", "steps=many"], "steps='many'"),
        (["run", GOOD, "--set", "steps=0"], "steps=0 — must be from 1 to 1000000"),
        (["run", GOOD, "--config", "[]"], "--config='[]' — must be a JSON object"),
        (["run", GOOD, "--config", "{"], "--config='{' — must be a JSON object"),
        (["run", GOOD, "--claims", "slow"], "budget='slow'"),
        (
            ["run", GOOD, "--events", "/proc/none/events"],
            "ResourceError: events — /proc/none/events",
        ),
    ],
)
def test_a_wrong_word_is_one_line_that_names_it(tidemill, words: list[str], message: str) -> None:
    result = tidemill(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def test_a_run_prints_its_report(tidemill) -> None:
    result = tidemill("run", GOOD, "--config", '{"steps": 2}', "--set", "steps=5")
    assert result.returncode == 0
    words = " ".join(result.stdout.split())
    assert words.startswith("It counted to 5.")
    assert "wall_s" in words
    assert "Steps" in words


def test_a_run_with_claims_as_json(tidemill, tmp_path) -> None:
    events = tmp_path / "events.jsonl"
    result = tidemill("run", GOOD, "--json", "--claims", "quick", "--events", events)
    document = json.loads(result.stdout)
    assert document["report"]["facts"] == {"steps": 3}
    assert document["claims"][0]["verdict"] == "yes"
    assert json.loads(events.read_text().splitlines()[-1])["event"] == "end"


def test_list_shows_installed_systems_with_their_verdicts_and_what_is_broken(
    tidemill, tmp_path
) -> None:
    folder = tmp_path / "good-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: good\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[tidemill.systems]\ngood = toy_system:GOOD\nlost = absent_mill:SYSTEM\n"
    )
    assert tidemill("claims", "good", "--only", "counts", path=tmp_path).returncode == 0
    systems = json.loads(tidemill("list", "--json", path=tmp_path).stdout)["systems"]
    by_name = {system["name"]: system for system in systems}
    assert by_name["good"]["verdicts"] == {"yes": 1, "not run": 1}
    assert by_name["good"]["missing"] == []
    assert "absent_mill" in by_name["lost"]["error"]
    result = tidemill("list", path=tmp_path)
    assert result.returncode == 0
    assert "1 yes, 1 not run" in result.stdout
    assert "cannot be imported" in result.stdout


class Terminal:
    """A process on a terminal of its own, which it controls: Ctrl-C there is a signal to it."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.screen, inner = pty.openpty()
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tidemill", *words],
            environment | {"TERM": "xterm-256color"},
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.ttyname(inner), os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
        )
        os.close(inner)
        self.text = ""

    def read_until(self, word: str) -> None:
        while word not in self.text and self._read():
            pass

    def wait(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self.screen)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        try:
            data = os.read(self.screen, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


def test_on_a_terminal_stages_are_shown_live_and_the_table_at_the_end(environment) -> None:
    terminal = Terminal(["claims", TOY, "--only", "counts", "--set", "steps=100000"], environment)
    assert terminal.wait() == 0
    assert "counts: count" in terminal.text
    assert "━" in terminal.text
    assert "holds" in terminal.text


def test_ctrl_c_on_a_terminal_ends_the_trial_and_shows_what_was_measured(environment) -> None:
    terminal = Terminal(["claims", TOY, "--only", "waits"], environment)
    terminal.read_until("at the gate")
    os.write(terminal.screen, b"\x03")
    assert terminal.wait() == 128 + signal.SIGINT
    assert "cancelled by the user" in terminal.text
    assert "waits-first" in terminal.text
    assert "Traceback" not in terminal.text
