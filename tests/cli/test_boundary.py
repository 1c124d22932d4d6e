"""Where the command line meets its user: help, lazy commands, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import tidemill as package
from tidemill.cli import COMMANDS

HEAVY = {"numpy", "sqlalchemy", "fastapi", "torch", "psutil", "rich", "tidemill.bench"}


def test_help_lists_every_command_and_every_installed_system(tidemill, installed) -> None:
    result = tidemill("--help", path=installed)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert {command.name for command in COMMANDS} | {"fake", "broken", "silent"} <= set(listed)


def test_starting_imports_no_room_of_the_house(environment) -> None:
    code = (
        "import json, sys\n"
        "from tidemill.cli import main\n"
        "sys.argv = ['tidemill', '--help']\n"
        "try: main()\n"
        "finally: sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert HEAVY & set(json.loads(result.stderr)) == set()


def test_version_is_printed(tidemill) -> None:
    result = tidemill("--version")
    assert (result.returncode, result.stdout) == (0, f"tidemill {package.__version__}\n")


def test_a_misspelt_command_is_a_user_error_with_a_suggestion(tidemill) -> None:
    result = tidemill("claim")
    assert result.returncode == 2
    assert "Did you mean 'claims'?" in result.stderr


def test_a_systems_own_commands_stand_under_its_name(tidemill, installed) -> None:
    result = tidemill("fake", "hello", "--name", "miller", path=installed)
    assert (result.returncode, result.stdout) == (0, "hello miller\n")


def test_a_system_without_commands_says_what_there_is_instead(tidemill, installed) -> None:
    result = tidemill("silent", "grind", path=installed)
    assert result.returncode == 2
    assert "use `tidemill run silent` or `tidemill claims silent`" in result.stderr


def test_a_system_that_cannot_be_imported_is_named_and_does_not_hurt_the_others(
    tidemill, installed
) -> None:
    result = tidemill("broken", path=installed)
    assert result.returncode == 2
    assert result.stderr.startswith("ConfigError: tidemill broken — cannot be imported")
    assert tidemill("fake", "hello", path=installed).returncode == 0


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (
            "refuse",
            2,
            "ConfigError: teeth=3 — must be an even number; wheels turn evenly",
        ),
        ("lack", 3, "MissingCapability: water — is not there; wait for the tide."),
        (
            "bug",
            70,
            "KeyError: 'absent' — a bug in tidemill; `tidemill -v fake bug` shows where.",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    tidemill, installed, command: str, code: int, line: str
) -> None:
    result = tidemill("fake", command, path=installed)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.splitlines() == [line]


def test_verbose_adds_the_traceback(tidemill, installed) -> None:
    result = tidemill("-v", "fake", "refuse", path=installed)
    assert result.returncode == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("ConfigError: teeth=3")


def test_an_interrupt_is_quiet(tidemill, installed) -> None:
    result = tidemill("fake", "interrupt", path=installed)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize("command", ["flood", "drop"])
def test_a_reader_that_goes_away_is_no_error(environment, installed, command: str) -> None:
    """`head` closes the pipe, either while we write or before what is buffered goes out."""
    with subprocess.Popen(
        [sys.executable, "-m", "tidemill", "fake", command],
        env=environment | {"PYTHONPATH": str(installed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writer:
        writer.stdout.close()
        assert writer.stderr.read() == ""
    assert writer.returncode == 141
