"""Traces, random arrivals, load on a real server, and the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from test_api import NAME, Model, serving
from typer.testing import CliRunner

from tidemill.cli import app
from tidemill.errors import ConfigError, CorruptFile, ProtocolError
from tidemill.models import NativeDecoder, open_model
from tidemill.serve.devices import roofline
from tidemill.serve.events import EventLog
from tidemill.serve.load_generator import LoadGenerator
from tidemill.serve.traces import Arrival, Bursts, fitted, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:46.4951690,374,44
"""


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Iterator[Model]:
    with open_model(model_path(NAME)) as file:
        yield file, NativeDecoder(file, threads=2, context=256, kv_tokens=2048)


def written(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_azure_trace_is_read_by_arrival(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, AZURE)) == [Arrival(0, 374, 44), Arrival(4.5, 396, 109)]


def test_other_formats_are_told_apart(tmp_path: Path) -> None:
    burst = "Timestamp,Model,Request tokens,Response tokens\n5,ChatGPT,472,18\n7,GPT-4,0,0\n"
    assert read_trace(written(tmp_path, burst)) == [Arrival(0, 472, 18), Arrival(2, 1, 1)]
    lines = '{"arrival_s": 1, "prompt_tokens": 2, "output_tokens": 3}\n\n'
    assert read_trace(written(tmp_path, lines)) == [Arrival(0, 2, 3)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "known headings"),
        ("a,b\n1,2\n", "known headings"),
        (AZURE + "yesterday,1,2\n", "line 4"),
        (AZURE + "2023-11-16 18:15:46,-1,2\n", "line 4"),
        (AZURE + "2023-11-16 18:15:46,1e9,2\n", "line 4"),
        (AZURE + "nan,1,2\n", "line 4"),
        (AZURE + "2023-11-16 18:15:46\n", "line 4"),
        ('{"arrival_s": 1}\n', "line 1"),
        ('{"arrival_s": 1', "trace"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request"),
    ],
)
def test_damaged_traces_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CorruptFile, match=says):
        read_trace(written(tmp_path, text))


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_random_gaps_have_the_mean_and_spread_that_were_asked_for(burstiness: float) -> None:
    bursts = Bursts(rate=20.0, count=20_000, burstiness=burstiness)
    gaps = np.diff([item.arrival_s for item in bursts.arrivals()])
    assert gaps.mean() == pytest.approx(0.05, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    assert bursts.arrivals() == bursts.arrivals()


def test_requests_are_cut_to_the_context() -> None:
    cut = fitted([Arrival(8, 1000, 1000), Arrival(9, 5, 5)], limit=1, speed=2, context=100)
    assert cut == [Arrival(4, 50, 50)]
    with pytest.raises(ConfigError, match="speed"):
        fitted([], limit=None, speed=0, context=100)


def test_devices_must_be_known_and_hold_the_model() -> None:
    _, tokens = roofline("h100x8", "llama3-70b")
    assert tokens > 1_000_000
    for name, shape in [("h100", "llama3-70b"), ("abacus", "llama3-8b"), ("h100", "gpt-9")]:
        with pytest.raises(ConfigError):
            roofline(name, shape)


def test_load_is_open_and_every_token_is_counted(model: Model) -> None:
    arrivals = [Arrival(0.05 * index, 10 + index, 5 + index) for index in range(8)]
    with serving(model) as (address, core):
        log = asyncio.run(LoadGenerator(address, NAME, vocab_size=30_000).run(arrivals))
        assert core.scheduler.pool.held == 0
    for item, arrival in zip(sorted(log, key=lambda r: int(r.id)), arrivals, strict=True):
        assert item.served
        assert len(item.token_s) <= arrival.output_tokens
        assert item.arrival_s >= arrival.arrival_s
        assert item.token_s == sorted(item.token_s)
    assert log.summary().served == 8


def test_the_command_replays_on_a_server(model: Model, tmp_path: Path) -> None:
    with serving(model) as (address, _):
        arguments = ["--url", address, "--limit", "3", "--rate", "20", "--context", "64", "--json"]
        saved = tmp_path / "events.jsonl"
        result = CliRunner().invoke(app, ["replay", *arguments, "--save", str(saved)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["status"], summary["served"]) == ("measured", 3)
    assert EventLog.load(saved).summary().served == 3


def test_the_command_simulates(tmp_path: Path) -> None:
    arguments = [str(written(tmp_path, AZURE)), "--simulate", "h100x8", "--json"]
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["status"], summary["output_tokens"]) == ("modelled", 153)


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(ProtocolError, match="start a server there"):
        asyncio.run(LoadGenerator("http://127.0.0.1:9", "m").run([Arrival(0, 1, 1)]))
