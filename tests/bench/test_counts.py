"""The intervals of counts end where the exact laws say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench.counts import Count


def poisson_at_most(hits: int, mean: float) -> float:
    return sum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(hits + 1))


def binomial_at_most(hits: int, trials: int, chance: float) -> float:
    return sum(
        math.comb(trials, n) * chance**n * (1 - chance) ** (trials - n) for n in range(hits + 1)
    )


@given(st.integers(1, 60))
def test_the_interval_of_a_count_ends_where_it_becomes_unlikely(hits: int) -> None:
    low, high = Count(hits, 1).interval()
    assert poisson_at_most(hits, high) == pytest.approx(0.025, rel=0.05)
    assert 1 - poisson_at_most(hits - 1, low) == pytest.approx(0.025, rel=0.05)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_interval_of_a_ratio_is_that_of_the_share_of_hits(mine: int, its: int) -> None:
    value, low, high = Count(mine, 1000).times_below(Count(its, 1000))
    assert low < value == its / mine < high
    share_low, share_high = low / (1 + low), high / (1 + high)
    assert binomial_at_most(its, mine + its, share_high) == pytest.approx(0.025, rel=0.1)
    assert 1 - binomial_at_most(its - 1, mine + its, share_low) == pytest.approx(0.025, rel=0.1)


def test_no_hits_at_all_still_bound_the_ratio() -> None:
    none, some = Count(0, 1000), Count(50, 1000)
    assert none.times_below(some)[0] == 50
    assert some.times_below(none)[0] == 0
    assert none.interval()[0] == 0 < none.interval()[1]


def test_counts_add_up_and_tell_their_rate() -> None:
    total = Count(1, 1000) + Count(2, 3000)
    assert total == Count(3, 4000)
    assert total.to_json()["hits"] == 3
    assert total.rate == 0.00075
