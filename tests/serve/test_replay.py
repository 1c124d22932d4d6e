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
from tidemill.errors import ConfigError, CorruptFile, InputError, ProtocolError
from tidemill.models import NativeDecoder, open_model
from tidemill.serve.calibration import Engine, measure_steps
from tidemill.serve.cost import StepShape
from tidemill.serve.devices import roofline, simulated_device
from tidemill.serve.events import EventLog, RequestLog
from tidemill.serve.live_replay import replay_live
from tidemill.serve.load_generator import LoadGenerator, words
from tidemill.serve.replay_plots import latency_chart
from tidemill.serve.simulation import simulate
from tidemill.serve.traces import Arrival, Bursts, fitted, read_trace, requests_of

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
    (run,) = summary["runs"]
    assert (run["status"], run["served"]) == ("measured", 3)
    assert EventLog.load(saved).summary().served == 3


def test_the_command_simulates(tmp_path: Path) -> None:
    arguments = [str(written(tmp_path, AZURE)), "--simulate", "h100x8", "--json"]
    result = CliRunner().invoke(app, ["replay", *arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    (run,) = summary["runs"]
    assert (run["status"], run["output_tokens"]) == ("modelled", 153)
    assert run["goodput_per_s"] == run["sent_per_s"]


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(ProtocolError, match="start a server there"):
        asyncio.run(LoadGenerator("http://127.0.0.1:9", "m").run([Arrival(0, 1, 1)]))


def test_runs_are_compared_and_drawn(tmp_path: Path) -> None:
    trace, saved = str(written(tmp_path, AZURE)), tmp_path / "before.jsonl"
    simulated = ["replay", trace, "--simulate", "h100x8"]
    assert CliRunner().invoke(app, [*simulated, "--save", str(saved)]).exit_code == 0
    for name in ("chart.svg", "chart.png"):
        words = ["--speed", "1", "--speed", "4", "--against", str(saved), "--plot"]
        result = CliRunner().invoke(app, [*simulated, *words, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert result.stdout.count("served within") + result.stdout.count("of 2 served") == 3
    picture = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    for said in ("before, recorded", "h100x8 x4, modelled", "Goodput", "Inter-token latency"):
        assert said in picture
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_svg_or_png() -> None:
    result = CliRunner().invoke(app, ["replay", "--simulate", "h100x8", "--plot", "chart.gif"])
    assert isinstance(result.exception, ConfigError)
    assert "ends in .svg or .png" in str(result.exception)


def test_nothing_served_is_nothing_to_draw() -> None:
    log = EventLog([RequestLog("0", 0.0, 4, [], 0, "refused", "busy", 0.0)])
    with pytest.raises(InputError, match="nothing to draw"):
        latency_chart({"a": log})


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b", "gemma-3-270m"])
def test_a_word_is_a_token(name: str, model_path: Callable[[str], Path]) -> None:
    with open_model(model_path(name)) as file:
        for seed in range(5):
            assert len(file.tokenizer.encode(words(300, seed), add_special=False)) == 300
    assert words(9, 1) != words(9, 2)


def test_prompts_may_be_words_and_none_is_sent_twice(model: Model) -> None:
    with serving(model) as (address, core):
        side = LoadGenerator(address, NAME, in_words=True)
        logs = [asyncio.run(side.run([Arrival(0, 70, 3)] * 2)) for _ in range(2)]
        assert core.scheduler.pool.held == 0
    assert [item.finish_reason for log in logs for item in log] == ["length"] * 4


def test_a_machine_that_was_timed_is_simulated(model: Model, tmp_path: Path) -> None:
    file, _ = model
    decoder = NativeDecoder(file, threads=2, context=1024, kv_tokens=2048)
    engine = Engine(decoder, file.tokenizer, max_num_seqs=4)
    table = measure_steps(engine, repeats=1)
    assert table.step_s(StepShape(256)) > table.step_s(StepShape(decodes=1, samples=1)) > 0
    assert (table.kv_tokens, table.max_num_seqs) == (2048, 4)
    arrivals = [Arrival(0.1 * index, 20 + index, 4) for index in range(8)]
    log = replay_live(engine.core(max_queue=8), requests_of(arrivals, vocab_size=1000))
    table.save(tmp_path / "here.json")
    simulated = simulate(
        *simulated_device(str(tmp_path / "here.json"), "", arrivals, max_num_seqs=256),
        requests_of(arrivals),
    )
    for each in (log, simulated):
        assert each.summary().output_tokens == 32
        assert all(item.token_s[0] > item.arrival_s for item in each)
        assert sorted(each, key=lambda item: item.token_s[0])[0].id == "0"


def test_a_live_replay_tells_who_was_refused(model: Model) -> None:
    file, decoder = model
    core = Engine(decoder, file.tokenizer).core(max_queue=8)
    log = replay_live(core, requests_of([Arrival(0, 5, 3), Arrival(0, 250, 50)], vocab_size=1000))
    assert [item.finish_reason for item in log] == ["length", "refused"]


def test_too_small_a_context_cannot_be_timed(model: Model) -> None:
    file, decoder = model
    with pytest.raises(ConfigError, match="context"):
        measure_steps(Engine(decoder, file.tokenizer))


def test_calibrate_writes_what_replay_simulates(
    model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    table = str(tmp_path / "here.json")
    words = ["calibrate", str(model_path("smollm2-135m")), table, "--repeats", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "a decode" in result.stdout
    again = ["replay", "--simulate", table, "--limit", "5", "--json"]
    assert json.loads(CliRunner().invoke(app, again).stdout)["runs"][0]["served"] == 5
    refused = CliRunner().invoke(app, ["calibrate", "smollm2-135m", "table.txt"])
    assert isinstance(refused.exception, ConfigError)
