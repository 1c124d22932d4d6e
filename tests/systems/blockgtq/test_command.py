"""``tidemill blockgtq …`` from a text file to a plan; a small random model stands in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.systems.blockgtq.tiny_models import ByteTokenizer, llama
from typer.testing import CliRunner

from tidemill.errors import CorruptFile, InputError
from tidemill.systems.blockgtq import Calibration, workloads
from tidemill.systems.blockgtq.cli import app

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    # the seam to the package index
    monkeypatch.setattr(workloads, "load_model", lambda name: (llama(), ByteTokenizer()))


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.blockgtq"
    args = ["calibrate", "tiny", "-o", str(path), "--tokens", "300", "--json"]
    facts = json.loads(RUNNER.invoke(app, args, catch_exceptions=False).stdout)
    assert facts["tokens"] == 300
    assert facts["bytes"] == path.stat().st_size
    return path


def test_a_calibration_of_a_text_file_is_of_that_text(tmp_path: Path, calibrated: Path) -> None:
    source = tmp_path / "text.txt"
    source.write_text("The mill turns. " * 40, encoding="utf-8")
    path = tmp_path / "other.blockgtq"
    args = ["calibrate", "tiny", "-o", str(path), "--text", str(source), "--tokens", "200"]
    assert "kv_heads" in RUNNER.invoke(app, args, catch_exceptions=False).stdout
    assert Calibration.load(path).text_sha256 != Calibration.load(calibrated).text_sha256


def test_a_plan_shows_widths_and_bits(calibrated: Path) -> None:
    shown = RUNNER.invoke(app, ["plan", str(calibrated), "-k", "3", "-v", "2"]).stdout
    assert "bits a number" in shown
    assert len(shown.splitlines()) == 2 + 2 * 2
    as_json = RUNNER.invoke(app, ["plan", str(calibrated), "-k", "3", "--mode", "paper", "--json"])
    widths = json.loads(as_json.stdout)["widths"]
    assert all(sum(head) == 24 for layer in widths for head in layer)


def test_an_evaluation_lists_every_way_to_cache() -> None:
    args = ["eval", "tiny", "--windows", "1", "--tokens", "64", "--json"]
    scores = json.loads(RUNNER.invoke(app, args, catch_exceptions=False).stdout)
    assert scores["dense"]["kl"] < 1e-5  # rounding
    assert {"uniform K2V2", "paper K3V3", "compact+peel K3V3", "q4_0"} <= set(scores)
    table = RUNNER.invoke(app, args[:-1], catch_exceptions=False).stdout.splitlines()
    assert len(table) == 1 + len(scores)


def test_a_race_names_its_sides() -> None:
    args = ["bench", "--tokens", "512", "--group", "3", "--threads", "1", "--json"]
    lines = RUNNER.invoke(app, args, catch_exceptions=False).stdout.splitlines()
    found = {race["claim"]: race for race in map(json.loads, lines)}
    assert found["attention-half"]["baseline"].startswith("dense fp16")
    assert set(found) == {"attention-half", "attention-float", "attention-torch"}


def test_files_that_are_not_there_or_damaged_are_told(tmp_path: Path, calibrated: Path) -> None:
    missing = RUNNER.invoke(app, ["plan", str(tmp_path / "none")])
    assert isinstance(missing.exception, InputError)
    calibrated.write_bytes(calibrated.read_bytes()[:100])
    assert isinstance(RUNNER.invoke(app, ["plan", str(calibrated)]).exception, CorruptFile)
    args = ["calibrate", "tiny", "-o", str(tmp_path / "c"), "--text", str(tmp_path / "no.txt")]
    assert isinstance(RUNNER.invoke(app, args).exception, InputError)
