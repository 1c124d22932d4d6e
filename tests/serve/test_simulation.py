"""The simulator: exact on cases that can be done by hand, reproducible, and fast."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from engines import request
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.clock import SimClock
from tidemill.serve.cost import MeasuredSteps, Roofline
from tidemill.serve.events import EventLog
from tidemill.serve.executor import SimExecutor
from tidemill.serve.policy import PolicyError, RequestView, View
from tidemill.serve.scheduler import Policies, Scheduler, SchedulerConfig
from tidemill.serve.simulation import simulate
from tidemill.serve.types import Request

LINEAR = MeasuredSteps((1, 2), (1.0, 2.0), 0.0)  # a second a token
CONFIG = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=256)


def simulated(
    *arrivals: tuple[float, Request],
    config: SchedulerConfig = CONFIG,
    policies: Policies | None = None,
    blocks: int = 64,
) -> EventLog:
    clock = SimClock()
    scheduler = Scheduler(config, BlockPool(blocks, 8), policies)
    return simulate(scheduler, SimExecutor(LINEAR, clock), clock, arrivals)


def test_one_request_takes_what_its_tokens_take() -> None:
    log = simulated((5.0, request("a", range(10), 3)))
    assert log["a"].token_s == [15.0, 16.0, 17.0]
    assert log["a"].ttft_s == 10.0
    assert log["a"].itl_s == [1.0, 1.0]


def test_who_comes_during_a_step_is_served_after_it() -> None:
    log = simulated((0.0, request("a", range(10), 2)), (3.0, request("b", range(5), 1)))
    assert log["a"].token_s == [10.0, 16.0]  # the second step computes 1 + 5 tokens
    assert log["b"].token_s == [16.0]


def test_figures_are_made_of_raw_events() -> None:
    log = simulated((0.0, request("a", range(4), 3)), (100.0, request("b", range(8), 1)))
    summary = log.summary()
    assert (summary.requests, summary.served, summary.output_tokens) == (2, 2, 4)
    assert summary.duration_s == 108.0
    assert summary.ttft_s["mean"] == 6.0
    assert summary.itl_s["p99"] == 1.0
    assert log.goodput(5.0, 2.0) == 0.5


def test_the_refused_and_the_impossible_are_in_the_log() -> None:
    config = SchedulerConfig(
        max_num_seqs=1, max_num_batched_tokens=64, max_queue=1, max_model_len=256
    )
    many = [(0.0, request(str(index), range(4), 2)) for index in range(3)]
    log = simulated(*many, (1.0, request("long", range(300), 1)), config=config)
    reasons = {item.id: item.finish_reason for item in log}
    assert reasons == {"0": "length", "1": "refused", "2": "refused", "long": "refused"}
    assert log.summary().refused == 3


def test_arrivals_that_go_back_in_time_are_refused() -> None:
    with pytest.raises(InputError, match="sort them"):
        simulated((5.0, request("a", [1])), (4.0, request("b", [1])))


def test_a_policy_that_holds_everybody_back_is_said_so() -> None:
    class Never:
        def allowed_tokens(self, item: RequestView, view: View) -> int | None:
            return 0

    with pytest.raises(PolicyError, match="hold every request back"):
        simulated((0.0, request("a", [1])), policies=Policies(cap=Never()))


@given(st.integers(0, 2**32))
def test_the_same_arrivals_give_the_same_log(seed: int) -> None:
    draw = random.Random(seed)
    moment, arrivals = 0.0, list[tuple[float, Request]]()
    for index in range(30):
        moment += draw.expovariate(0.05)
        prompt = [draw.randint(0, 3) for _ in range(draw.randint(1, 100))]
        arrivals.append((moment, request(str(index), prompt, draw.randint(1, 30))))
    first, second = (simulated(*arrivals, blocks=40) for _ in range(2))
    assert list(first) == list(second)
    for item in first:
        assert item.finish_reason in {"length", "refused"}
        assert item.token_s == sorted(item.token_s)


def test_a_log_is_read_back_as_written(tmp_path: Path) -> None:
    log = simulated((0.0, request("a", range(4), 3)))
    log.save(tmp_path / "log.jsonl")
    assert list(EventLog.load(tmp_path / "log.jsonl")) == list(log)
    (tmp_path / "log.jsonl").write_text('{"id": 1}\n', encoding="utf-8")
    with pytest.raises(CorruptFile, match="line 1"):
        EventLog.load(tmp_path / "log.jsonl")


def test_measured_steps_are_interpolated_and_kept(tmp_path: Path) -> None:
    cost = MeasuredSteps((1, 8, 64), (0.010, 0.012, 0.040), 1e-6)
    assert cost.step_s(0, 1, 0) == 0.010
    assert cost.step_s(0, 8, 1000) == pytest.approx(0.013)
    assert cost.step_s(36, 0, 0) == pytest.approx(0.026)
    assert cost.step_s(120, 0, 0) == pytest.approx(0.068)
    assert cost.step_s(0, 0, 0) == 0
    cost.save(tmp_path / "cost.json")
    assert MeasuredSteps.load(tmp_path / "cost.json") == cost
    (tmp_path / "cost.json").write_text("[]", encoding="utf-8")
    with pytest.raises(CorruptFile, match="not a table of step times"):
        MeasuredSteps.load(tmp_path / "cost.json")


@pytest.mark.parametrize("tokens", [(1,), (2, 3), (1, 1), (1, 5, 3)])
def test_tables_that_say_nothing_are_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        MeasuredSteps(tokens, tuple(0.1 for _ in tokens), 0.0)


def test_a_roofline_is_bound_by_the_longer_of_computing_and_reading() -> None:
    device = Roofline(flops=100, bandwidth=10, weights=5, weight_bytes=20, kv_bytes=1)
    assert device.step_s(0, 1, 0) == 2.0
    assert device.step_s(0, 1, 10) == 3.0
    assert device.step_s(100, 0, 0) == 10.0
