"""Intervals by resampling: they cover the truth, and widen where neighbours err alike."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.bench.intervals import Interval, blocks


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    found = [Interval.of_mean(draw.exponential(2.0, 60)) for _ in range(200)]
    assert all(each.low <= each.value <= each.high for each in found)
    covered = sum(each.low <= 2.0 <= each.high for each in found)
    assert 176 <= covered <= 198


def test_neighbours_that_err_alike_widen_an_interval_only_when_drawn_together() -> None:
    parts = np.repeat(np.random.default_rng(0).random(40), 16)
    ones = np.ones_like(parts)
    single, together = (Interval.of_ratio(parts, ones, block) for block in (1, 16))
    assert single.value == pytest.approx(together.value)
    assert together.repeats == 40
    assert together.high - together.low > 3 * (single.high - single.low)


def test_the_ratio_of_perplexities_is_that_of_the_mean_losses() -> None:
    one, two = np.random.default_rng(1).random((2, 640))
    found = Interval.of_exp(one - two, 32)
    assert found.value == pytest.approx(np.exp(one.mean()) / np.exp(two.mean()))
    assert found.low < found.value < found.high


def test_a_rest_shorter_than_a_block_is_left_out_unless_it_is_all() -> None:
    assert blocks(np.arange(10.0), 4).tolist() == [1.5, 5.5]
    assert blocks(np.arange(3.0), 4).tolist() == [0, 1, 2]
