"""The simulator: exact on cases that can be done by hand, reproducible, and fast."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from engines import request
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.models.sampling import SamplingParams
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.clock import SimClock
from tidemill.serve.cost import Roofline, StepShape
from tidemill.serve.events import EventLog
from tidemill.serve.executor import SimExecutor
from tidemill.serve.measured_steps import MeasuredSteps
from tidemill.serve.policy import (
    ByPriority,
    EarliestDeadlineFirst,
    FirstComeFirstServed,
    LongestPrefixFirst,
    PolicyError,
    RequestView,
    View,
)
from tidemill.serve.scheduler import Policies, Scheduler, SchedulerConfig
from tidemill.serve.simulation import simulate
from tidemill.serve.types import Request, StepPlan, StepResult

LINEAR = MeasuredSteps(((1, 1.0), (2, 2.0)))  # a second a token
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
    cost = MeasuredSteps(
        ((1, 0.010), (8, 0.012), (64, 0.040)), ((0, 0.0), (1, 0.004), (3, 0.006)), 1e-6, 1e-7, 512
    )
    assert cost.step_s(StepShape(decodes=1)) == 0.010
    assert cost.step_s(StepShape(decodes=8, context_tokens=1000)) == pytest.approx(0.013)
    assert cost.step_s(StepShape(36, samples=2)) == pytest.approx(0.026 + 0.005)
    assert cost.step_s(StepShape(120, pairs=1000, samples=5)) == pytest.approx(0.068 + 0.0081)
    assert cost.step_s(StepShape()) == 0
    cost.save(tmp_path / "cost.json")
    assert MeasuredSteps.load(tmp_path / "cost.json") == cost
    for wrong in ("[]", "{", '{"tokens": [[1, 2]], "samples": 3}'):
        (tmp_path / "cost.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(CorruptFile, match="not a table of step times"):
            MeasuredSteps.load(tmp_path / "cost.json")


@pytest.mark.parametrize("counts", [(1,), (2, 3), (1, 1), (1, 5, 3)])
def test_tables_that_say_nothing_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        MeasuredSteps(tuple((count, 0.1) for count in counts))


def test_a_roofline_is_bound_by_the_longer_of_computing_and_reading() -> None:
    device = Roofline(
        flops=100, bandwidth=10, weights=5, weight_bytes=20, kv_bytes=1, pair_flops=10
    )
    assert device.step_s(StepShape(decodes=1)) == 2.0
    assert device.step_s(StepShape(decodes=1, context_tokens=10)) == 3.0
    assert device.step_s(StepShape(100)) == 10.0
    assert device.step_s(StepShape(100, pairs=50)) == 15.0


COSTS = (
    MeasuredSteps(((1, 0.0101), (8, 0.0123), (64, 0.04)), ((0, 0.0), (7, 0.0031)), 1.3e-6, 7e-7),
    Roofline(
        flops=1e11, bandwidth=1e9, weights=1e7, weight_bytes=2e7, kv_bytes=1e4,
        launch_s=1e-3, pair_flops=1e6,
    ),
)  # fmt: skip
ORDERS = (FirstComeFirstServed, ByPriority, EarliestDeadlineFirst, LongestPrefixFirst)


def random_case(seed: int) -> tuple[Scheduler, SimExecutor, SimClock, list[tuple[float, Request]]]:
    """A scheduler with little room, and requests for it."""
    draw = random.Random(seed)
    config = SchedulerConfig(
        max_num_seqs=draw.randint(1, 8),
        max_num_batched_tokens=draw.randint(8, 64),
        max_model_len=160,
        max_queue=draw.choice([3, 100]),
        prefix_caching=draw.random() < 0.5,
        step_time_budget_s=draw.choice([None, None, 0.02]),
    )
    cost, clock, moment = draw.choice(COSTS), SimClock(), 0.0
    policies = Policies(draw.choice(ORDERS)())
    scheduler = Scheduler(
        config, BlockPool(draw.choice([24, 60]), draw.choice([8, 16])), policies, cost=cost
    )
    arrivals = list[tuple[float, Request]]()
    for index in range(40):
        moment += draw.expovariate(draw.choice([2, 20]))
        params = SamplingParams(
            max_tokens=draw.randint(1, 60), ignore_eos=draw.random() < 0.8, seed=seed
        )
        prompt = tuple(range(draw.choice([16, 32, draw.randint(1, 100)])))
        deadline = draw.choice([None, float("nan"), 5.0, moment])
        eos = frozenset(range(300) if draw.random() < 0.2 else ())
        fields = {"priority": draw.randint(0, 2), "deadline_s": deadline, "eos_ids": eos}
        arrivals.append((moment, Request(str(index), prompt, params, **fields)))  # pyright: ignore
    return scheduler, SimExecutor(cost, clock, vocab_size=5000), clock, arrivals


@given(st.integers(0, 2**32))
def test_leaps_and_single_steps_are_the_same_to_the_last_bit(seed: int) -> None:
    left: list[object] = []
    for leaps in (True, False):
        scheduler, executor, clock, arrivals = random_case(seed)
        log = simulate(scheduler, executor, clock, arrivals, leaps=leaps)
        scheduler.check()
        pool = scheduler.pool
        left.append((list(log), clock.now(), scheduler.now, scheduler.preemptions, pool.__dict__))
    assert left[0] == left[1]


def test_a_long_quiet_text_is_planned_in_a_few_steps() -> None:
    plans = 0

    class Counting(SimExecutor):
        def run(self, plan: StepPlan) -> StepResult:
            nonlocal plans
            plans += 1
            return super().run(plan)

    clock = SimClock()
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=2048)
    scheduler = Scheduler(config, BlockPool(256, 8))
    arrivals = [(0.0, request("a", range(10), 900)), (50.0, request("b", range(10), 900))]
    log = simulate(scheduler, Counting(COSTS[0], clock), clock, arrivals)
    assert log.summary().output_tokens == 1800
    assert plans < 20
