"""Links take the time they say, and no less."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.memory import CXL, RDMA, Link, LinkClock, RemoteTier, Tier, TierKind


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 1 << 24)), min_size=1))
def test_transfers_queue_for_the_bandwidth_and_not_for_the_latency(
    asked: list[tuple[int, int]],
) -> None:
    link = Link(3e-6, 4e9)
    clock = LinkClock(link)
    now = free = 0
    for gap, size in asked:
        now += gap
        free = max(now, free) + int(size / 4)
        assert clock.complete_at(now, size) == free + 3000


def test_a_copy_that_was_faster_than_the_link_is_held_back() -> None:
    clock = LinkClock(Link(1e-3, 1e9))
    began = time.perf_counter()
    with clock.transfer(2_000_000):
        pass
    assert time.perf_counter() - began >= 3e-3


def test_the_defaults_are_those_of_the_paper_s_hardware() -> None:
    assert (CXL.latency_ns, CXL.bytes_per_ns) == (350, 22)
    assert (RDMA.latency_ns, RDMA.bytes_per_ns, RDMA.outstanding) == (3500, 12, 128)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((-1.0, 1e9, 1), "latency_s"),
        ((0.0, 0.0, 1), "bandwidth_bytes_s"),
        ((0.0, 1e9, 0), "outstanding"),
    ],
)
def test_a_link_that_cannot_be_is_refused(values: tuple[float, float, int], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Link(*values)


def test_a_tier_says_what_it_is() -> None:
    tier: Tier = RemoteTier("unix:/nowhere")
    assert tier.kind is TierKind.EMULATED
    assert "page server" in tier.describe()
