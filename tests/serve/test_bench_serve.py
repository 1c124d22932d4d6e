"""What bench-serve measures: the parts that need no llama.cpp run here, small."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from test_api import NAME, Model, serving
from typer.testing import CliRunner

from tidemill.bench import Measurement
from tidemill.bench.promise import Recorder, line, merged, stored
from tidemill.bench.trial import Progress
from tidemill.cli import app
from tidemill.errors import InputError, MissingCapability, ProtocolError
from tidemill.models import NativeDecoder, open_model
from tidemill.serve import server_process
from tidemill.serve.events import EventLog, RequestLog
from tidemill.serve.load_generator import serve_all
from tidemill.serve.load_points import LoadPoint, figures, measure_point
from tidemill.serve.serve_bench import PROMISES, QUICK, parts, per_token_s
from tidemill.serve.serve_laws import flood, idle
from tidemill.serve.server_process import RunningServer, llama_command, our_command, running
from tidemill.serve.sim_bench import hour
from tidemill.serve.traces import Arrival

DUMB = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> Iterator[Model]:
    with open_model(model_path(NAME)) as file:
        yield file, NativeDecoder(file, threads=2, context=256, kv_tokens=2048)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def served(arrival_s: float, *token_s: float) -> RequestLog:
    return RequestLog("", arrival_s, 4, list(token_s), 0, "length", None, token_s[-1])


def logged(*items: RequestLog) -> EventLog:
    for index, item in enumerate(items):
        item.id = str(index)
    return EventLog(items)


def test_every_promise_is_given_by_a_part() -> None:
    assert {promise.part for promise in PROMISES} == set(parts())


def test_a_server_of_another_is_started_and_leaves_nothing_behind() -> None:
    with running([sys.executable, "-c", DUMB]) as server:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
        assert len(family) == 2
        assert server.resident_bytes() > 1 << 20
    until = time.monotonic() + 10
    while any(map(_lives, family)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(_lives, family))


def test_a_server_that_ends_at_once_is_said_so_with_its_last_words() -> None:
    with (
        pytest.raises(ProtocolError, match="no such model"),
        running([sys.executable, "-c", "raise SystemExit('no such model')"]),
    ):
        pass


def test_both_get_the_same_threads_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process.importlib.util, "find_spec", lambda name: name)
    ours = our_command("m.gguf", threads=2, context=512, max_queue=9)
    theirs = llama_command(Path("m.gguf"), threads=2, context=512, flash_attention=True)
    for words, names in ((ours, ("--threads", "--context")), (theirs, ("--n_threads", "--n_ctx"))):
        assert [words[words.index(name) + 1] for name in names] == ["2", "512"]
    assert theirs[theirs.index("--logits_all") + 1] == "False"
    assert theirs[theirs.index("--interrupt_requests") + 1] == "False"
    monkeypatch.setattr(server_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingCapability, match=r"tidemill\[peers\]"):
        llama_command(Path("m.gguf"), threads=2, context=512, flash_attention=True)


def test_tokens_are_counted_by_what_was_asked_where_a_text_reached_it() -> None:
    log = logged(served(0, 1, 2), served(0, 1, 4))
    log["1"].finish_reason = "stop"
    assert per_token_s(log, [Arrival(0, 4, 6), Arrival(0, 4, 6)]) == 4 / (6 + 2)


def test_a_request_that_is_not_served_ends_the_measurement() -> None:
    class Refusing:
        async def run(self, arrivals: object) -> EventLog:
            return EventLog([RequestLog("0", 0.0, 4, [], 0, "refused", "busy", 1.0)])

    with pytest.raises(ProtocolError, match="busy"):
        serve_all(Refusing(), [Arrival(0, 1, 1)])  # pyright: ignore[reportArgumentType]


def test_the_worst_load_decides_and_sides_get_the_same_arrivals() -> None:
    sent: list[tuple[Arrival, ...]] = []

    def side(step_s: float) -> Callable[[object], EventLog]:
        def answer(arrivals: tuple[Arrival, ...]) -> EventLog:
            sent.append(tuple(arrivals))
            starts = [each.arrival_s for each in arrivals]
            return logged(*(served(t, t + step_s, t + 2 * step_s) for t in starts))

        return answer  # pyright: ignore[reportReturnType]

    points = [
        measure_point({"a": side(a), "b": side(b)}, LoadPoint(share, 2.0), QUICK, Progress())  # pyright: ignore
        for share, a, b in ((0.5, 0.05, 0.2), (1.0, 0.3, 0.2))
    ]
    assert sent[0] == sent[1]
    ttft, itl = figures(points, "a", "b", {})
    assert ttft.claim == "load-ttft"
    assert ttft.value == pytest.approx(1.5)
    assert itl.value == pytest.approx(1.5)
    assert points[0].goodput("a") == pytest.approx(2.0)
    assert points[1].goodput("a") == 0.0


def test_a_flood_finds_no_fault_with_a_right_server(model: Model) -> None:
    with serving(model, max_queue=100) as (address, core):
        server = RunningServer(address, os.getpid(), NAME)
        (bad, memory) = flood(server, clients=5, requests=20, progress=Progress())
        assert core.scheduler.pool.held == 0
    assert (bad.claim, bad.value) == ("flood", 0)
    assert bad.detail["outcomes"] == {"right": 20}
    assert memory.claim == "flood-memory"


def test_an_idle_server_is_asked_one_token_at_a_time(model: Model) -> None:
    with serving(model) as (address, _):
        (found,) = idle(RunningServer(address, os.getpid(), NAME), 3)
    assert found.repeats == 3
    assert found.low <= found.value <= found.high


def test_figures_are_stored_beside_others_and_shown(tmp_path: Path) -> None:
    found = Measurement(
        claim="stream", value=2.0, low=1.9, high=2.1, repeats=5, baseline="peer",
        detail={"tokens_per_s": 20.0, "peer_tokens_per_s": 10.0},
    )  # fmt: skip
    entries = Recorder("tidemill bench-serve m").entries(PROMISES, [found])
    document = merged(stored(None, "bench-serve"), "m", {"threads": 2}, entries)
    again = merged(document, "m", {"threads": 2}, {"other": {}})
    assert sorted(again["models"]["m"]["figures"]) == ["other", "stream"]
    told = line(document["models"]["m"]["figures"]["stream"])
    assert "holds" in told
    assert "20.0 tokens/s, peer 10.0" in told
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="no figures of bench-serve"):
        stored(tmp_path / "x.json", "bench-serve")


def test_a_simulated_hour_says_what_it_was_made_of() -> None:
    (found,) = hour(None, 20.0)
    assert found.status == "modelled"
    assert found.detail["requests"] == 110
    assert found.value == pytest.approx(found.detail["took_s"] * 3600 / found.detail["simulated_s"])  # pyright: ignore


def test_the_command_measures_a_part(model_path: Callable[[str], Path], tmp_path: Path) -> None:
    saved = tmp_path / "serve.json"
    words = [
        "bench-serve",
        str(model_path("smollm2-135m")),
        "--part",
        "prefix",
        "--save",
        str(saved),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    (model,) = json.loads(saved.read_text())["models"].values()
    assert model["figures"]["prefix"]["measurement"]["value"] < 5
