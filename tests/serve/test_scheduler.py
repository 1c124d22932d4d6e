"""The scheduler: texts do not depend on how they are scheduled, and nothing is lost."""

from __future__ import annotations

import random

import pytest
from engines import CheckedExecutor, Piped, Texts, drain, expected, request, step
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ConfigError, InputError
from tidemill.models.generation import FinishReason
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.cost import StepShape, shape_of
from tidemill.serve.measured_steps import MeasuredSteps
from tidemill.serve.policy import ORDERS, Key, RequestView, View
from tidemill.serve.scheduler import Policies, QueueFull, Scheduler, SchedulerConfig
from tidemill.serve.types import PENDING, Request


def made(blocks: int = 32, block: int = 4, **config: object) -> tuple[Scheduler, CheckedExecutor]:
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 64, **config}
    pool = BlockPool(blocks, block)
    scheduler = Scheduler(SchedulerConfig(**settings), pool)  # pyright: ignore[reportArgumentType]
    return scheduler, CheckedExecutor(pool)


def served(scheduler: Scheduler, executor: CheckedExecutor, *requests: Request) -> Texts:
    texts = Texts()
    for item in requests:
        scheduler.add(item, 0.0)
    drain(scheduler, executor, texts)
    return texts


def test_a_long_prompt_is_computed_in_chunks_of_the_step() -> None:
    scheduler, executor = made()
    scheduler.add(request("a", range(40)), 0.0)
    texts = Texts()
    sizes = [step(scheduler, executor, texts).tokens for _ in range(4)]
    assert sizes == [16, 16, 8, 1]


def test_a_long_prompt_does_not_hold_up_a_text_that_flows() -> None:
    scheduler, executor = made()
    texts = Texts()
    scheduler.add(request("text", range(3), 20), 0.0)
    step(scheduler, executor, texts)
    scheduler.add(request("prompt", range(40)), 0.0)
    for _ in range(3):
        plan = step(scheduler, executor, texts)
        assert {part.request.id: len(part.ids) for part in plan.parts}["text"] == 1


def test_the_second_turn_of_a_conversation_computes_only_what_is_new() -> None:
    scheduler, executor = made()
    first = request("1", range(30), 6)
    texts = served(scheduler, executor, first)
    before = executor.computed
    history = [*first.prompt_ids, *texts.ids["1"]]
    second = request("2", [*history, 1, 2], 4)
    again = served(scheduler, executor, second)
    assert executor.computed - before <= 4 + 4 + 4  # what is new, a part of a block, the output
    assert again.ids["2"] == expected(second, 64)[0]


def test_requests_of_other_salts_share_nothing() -> None:
    scheduler, executor = made()
    served(scheduler, executor, request("1", range(30)))
    before = executor.computed
    served(scheduler, executor, request("2", range(30), cache_salt="other"))
    assert executor.computed - before >= 30


def test_running_out_of_blocks_preempts_the_last_and_changes_no_text() -> None:
    scheduler, executor = made(blocks=14)
    requests = [request(name, range(index, index + 12), 30) for index, name in enumerate("abcd")]
    texts = served(scheduler, executor, *requests)
    assert scheduler.preemptions > 0
    for item in requests:
        assert texts.ids[item.id] == expected(item, 64)[0]


def test_a_request_that_can_never_fit_is_refused_with_the_figures() -> None:
    scheduler, _ = made(blocks=4)
    with pytest.raises(InputError, match=r"may grow to 18 tokens, the cache holds 16"):
        scheduler.add(request("a", range(10), 8), 0.0)
    with pytest.raises(InputError, match=r"context of 64"):
        scheduler.add(request("a", range(64), 1), 0.0)
    with pytest.raises(InputError, match=r"at most 4"):
        scheduler.add(request("a", range(60), 5), 0.0)
    with pytest.raises(InputError, match="empty"):
        scheduler.add(request("a", []), 0.0)
    assert not scheduler.busy


def test_a_full_queue_refuses_and_an_id_is_taken_once() -> None:
    scheduler, _ = made(max_queue=2)
    scheduler.add(request("a", [1]), 0.0)
    with pytest.raises(InputError, match="unique"):
        scheduler.add(request("a", [1]), 0.0)
    scheduler.add(request("b", [1]), 0.0)
    with pytest.raises(QueueFull, match="2 requests wait"):
        scheduler.add(request("c", [1]), 0.0)


def test_aborting_frees_blocks_at_once_or_when_the_step_is_over() -> None:
    scheduler, executor = made()
    texts = Texts()
    scheduler.add(request("a", range(20), 20), 0.0)
    step(scheduler, executor, texts)
    plan = scheduler.schedule(0.0)
    assert scheduler.abort("a")
    assert not scheduler.abort("a")
    assert scheduler.pool.held > 0
    texts.take(scheduler.commit(plan, executor.run(plan), 0.0))
    assert scheduler.pool.held == 0
    assert texts.reasons == {"a": FinishReason.ABORT}
    assert texts.ids["a"] == []
    assert scheduler.schedule(0.0).finished == ("a",)


def test_a_failed_step_fails_its_requests_and_no_other() -> None:
    scheduler, executor = made(max_num_seqs=1)
    texts = Texts()
    for name in "ab":
        scheduler.add(request(name, range(8)), 0.0)
    texts.take(scheduler.fail(scheduler.schedule(0.0), "device lost", 0.0))
    drain(scheduler, executor, texts)
    assert texts.reasons == {"a": FinishReason.ERROR, "b": FinishReason.LENGTH}
    assert texts.errors["a"] == "device lost"


def test_a_pool_that_shrinks_below_a_request_fails_it_and_serves_on() -> None:
    scheduler, executor = made()
    texts = Texts()
    scheduler.add(request("large", range(40), 20), 0.0)
    step(scheduler, executor, texts)
    scheduler.pool.set_capacity(4)
    scheduler.add(request("small", range(4), 4), 0.0)
    drain(scheduler, executor, texts)
    assert texts.reasons == {"large": FinishReason.ERROR, "small": FinishReason.LENGTH}
    assert "the cache holds 16 tokens now" in str(texts.errors["large"])


def test_a_waiting_request_that_the_pool_can_no_longer_hold_holds_up_nobody() -> None:
    """It stood first in the queue for ever, and everybody behind it with it."""
    scheduler, executor = made(max_num_seqs=1)
    texts = Texts()
    scheduler.add(request("runs", range(4), 6), 0.0)
    step(scheduler, executor, texts)
    for name, length in (("large", 40), ("small", 4)):
        scheduler.add(request(name, range(length), 4), 0.0)
    scheduler.pool.set_capacity(4)
    drain(scheduler, executor, texts, 100)
    assert texts.reasons.pop("large") is FinishReason.ERROR
    assert texts.reasons == {"runs": FinishReason.LENGTH, "small": FinishReason.LENGTH}


def test_a_step_is_planned_on_what_the_one_under_way_will_draw() -> None:
    scheduler, executor = made()
    item = request("a", range(8), 4)
    scheduler.add(item, 0.0)
    first, second = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert (second.parts[0].ids, second.parts[0].start) == ((PENDING,), 8)
    texts = Texts()
    texts.take(scheduler.commit(first, executor.run(first), 0.0))
    third, fourth = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert third.parts[0].outputs == 2
    assert fourth.parts[0].outputs == 3
    assert not scheduler.schedule(0.0).parts  # there will be no fifth token
    for plan in (second, third, fourth):
        texts.take(scheduler.commit(plan, executor.run(plan), 0.0))
    assert (texts.ids["a"], texts.reasons["a"]) == expected(item, 256)
    assert scheduler.pool.held == 0


def test_a_step_is_cut_to_the_time_it_may_take() -> None:
    cost = MeasuredSteps(((1, 0.001), (1000, 1.0)))
    config = SchedulerConfig(
        max_num_seqs=4, max_num_batched_tokens=512, max_model_len=2048, step_time_budget_s=0.1
    )
    scheduler = Scheduler(config, BlockPool(64), cost=cost)
    scheduler.add(request("a", range(1000)), 0.0)
    plan = scheduler.schedule(0.0)
    assert cost.step_s(shape_of(plan)) <= 0.1 < cost.step_s(StepShape(plan.tokens + 2))


def test_a_step_time_without_a_cost_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="step_time_budget_s"):
        Scheduler(SchedulerConfig(step_time_budget_s=0.1), BlockPool(8))


class Broken:
    """Fails in every way a policy can."""

    def key(self, item: RequestView, view: View) -> Key:
        if item.order % 2:
            raise RuntimeError("no idea")
        return (float("nan"),)

    def allowed_tokens(self, item: RequestView, view: View) -> int | None:
        return -3

    def pick(self, view: View, candidates: object, need: int) -> str:
        return "nobody"

    def admit(self, view: View, request: Request) -> bool:
        return None  # pyright: ignore[reportReturnType]


def test_broken_policies_are_overruled_and_counted() -> None:
    broken = Broken()
    pool = BlockPool(14, 4)
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
    scheduler = Scheduler(config, pool, Policies(broken, broken, broken, broken))
    requests = [request(name, range(index, index + 12), 30) for index, name in enumerate("abcd")]
    texts = served(scheduler, CheckedExecutor(pool), *requests)
    assert scheduler.policy_errors > 4
    assert "Broken" in str(scheduler.last_policy_error)
    for item in requests:
        assert texts.ids[item.id] == expected(item, 64)[0]


def test_orders_are_kept() -> None:
    fields = [(5, 9.0), (1, None), (3, 1.0)]
    for name, first in {"fcfs": "0", "priority": "1", "edf": "2"}.items():
        config = SchedulerConfig(max_num_seqs=1, max_model_len=64)
        scheduler = Scheduler(config, BlockPool(32), Policies(ORDERS[name]()))
        for index, (priority, deadline) in enumerate(fields):
            item = request(str(index), [index], priority=priority, deadline_s=deadline)
            scheduler.add(item, 0.0)
        assert scheduler.schedule(0.0).parts[0].request.id == first


def test_the_longest_cached_prefix_goes_first() -> None:
    pool = BlockPool(32, 4)
    config = SchedulerConfig(max_num_seqs=1, max_model_len=64)
    scheduler = Scheduler(config, pool, Policies(ORDERS["longest-prefix"]()))
    executor = CheckedExecutor(pool)
    served(scheduler, executor, request("seed", range(20)))
    scheduler.add(request("new", range(50, 70)), 0.0)
    scheduler.add(request("known", range(20)), 0.0)
    assert scheduler.schedule(0.0).parts[0].request.id == "known"


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from(sorted(ORDERS)), st.booleans())
def test_texts_do_not_depend_on_what_else_is_served(seed: int, order: str, caching: bool) -> None:
    """Random arrivals, aborts, failures, shrinking and growing pools: some 10⁵ steps in all.

    Up to three plans are under way at once.
    """
    draw = random.Random(seed)
    block = draw.choice([1, 2, 4, 8])
    pool = BlockPool(-(-96 // block), block)
    config = SchedulerConfig(
        max_num_seqs=draw.randint(1, 6),
        max_num_batched_tokens=draw.randint(6, 40),
        max_model_len=48,
        max_queue=6,
        prefix_caching=caching,
    )
    scheduler = Scheduler(config, pool, Policies(ORDERS[order]()))
    texts = Texts()
    piped = Piped(scheduler, CheckedExecutor(pool), draw.choice([1, 1, 2, 3]))
    sent: dict[str, Request] = {}
    disturbed: set[str] = set()
    for now in range(5_000):
        _disturb(draw, scheduler, sent, disturbed)
        disturbed |= piped.step(texts, now, fails=draw.random() < 0.001)
    piped.drain(texts)
    assert pool.held == 0
    assert texts.reasons.keys() == sent.keys()
    for name, item in sent.items():
        ids, reason = expected(item, 48)
        assert texts.ids[name] == ids[: len(texts.ids[name])]
        if name not in disturbed:
            assert (texts.ids[name], texts.reasons[name]) == (ids, reason)


def _disturb(
    draw: random.Random, scheduler: Scheduler, sent: dict[str, Request], disturbed: set[str]
) -> None:
    if draw.random() < 0.2:
        name = str(len(sent))
        stem = [draw.randint(0, 1)] * draw.randint(0, 20)
        prompt = [*stem, *(draw.randint(0, 9) for _ in range(draw.randint(1, 10)))]
        eos = frozenset({0} if draw.random() < 0.3 else ())
        item = request(
            name,
            prompt,
            draw.randint(1, 48 - len(prompt)),
            eos_ids=eos,
            priority=draw.randint(0, 3),
            deadline_s=draw.choice([None, float(draw.randint(0, 9))]),
            cache_salt=draw.choice(["", "", "s"]),
        )
        try:
            scheduler.add(item, 0.0)
            sent[name] = item
        except (QueueFull, InputError):
            pass
    if draw.random() < 0.02 and sent:
        name = draw.choice(list(sent))
        scheduler.abort(name)
        disturbed.add(name)
    if draw.random() < 0.01:
        scheduler.pool.set_capacity(draw.randint(1, 96))
        disturbed.update(sent)  # whoever is too large now fails; texts are checked all the same
