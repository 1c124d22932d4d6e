"""The commands of the ownership protocol: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidemill.errors import ConfigError
from tidemill.systems.aquifer.cxl.cli import app


def test_a_search_is_told_in_one_line_and_as_json() -> None:
    told = CliRunner().invoke(app, ["check-protocol", "--scenario", "readers"])
    assert told.exit_code == 0
    assert told.output.startswith("readers: ")
    assert told.output.endswith("complete\n")
    options = ["check-protocol", "--scenario", "readers", "--scenario", "transfer", "--json"]
    found = json.loads(CliRunner().invoke(app, options).output)
    assert [found[name]["violation"] for name in ("readers", "transfer")] == ["", ""]


def test_a_mutant_is_told_with_its_shortest_counter_example() -> None:
    told = CliRunner().invoke(app, ["check-protocol", "--mutant", "no-wait"])
    assert told.exit_code == 0
    assert "borrowed epoch 1, read lines of epoch 2" in told.output
    assert "host 0: Store revoking" in told.output


@pytest.mark.parametrize("options", [["--scenario", "readers"], ["--mutant", "no-wait"]])
def test_a_search_that_gives_up_proves_nothing_and_exits_with_1(options: list[str]) -> None:
    told = CliRunner().invoke(app, ["check-protocol", *options, "--most-states", "100"])
    assert (told.exit_code, "given up" in told.output) == (1, True)


def test_an_unknown_mutant_is_a_config_error() -> None:
    told = CliRunner().invoke(app, ["check-protocol", "--mutant", "no-such"])
    assert isinstance(told.exception, ConfigError)


def test_a_stress_is_told_in_one_line(tmp_path: Path) -> None:
    options = ["stress", "--minutes", "0.06", "--hosts", "2", "--folder", str(tmp_path)]
    told = CliRunner().invoke(app, options)
    assert told.exit_code == 0, told.output
    assert "0 violations" in told.output
