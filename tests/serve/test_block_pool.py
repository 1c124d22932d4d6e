"""Laws of the block pool."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tidemill.errors import ConfigError, OutOfPool
from tidemill.serve.block_pool import BlockPool


def registered(pool: BlockPool, ids: Sequence[int], salt: str = "") -> list[int]:
    blocks = pool.take(len(ids) // pool.block_tokens)
    for block, key in zip(blocks, pool.keys(ids, salt), strict=True):
        pool.register(block, key)
    return blocks


def test_a_released_prefix_is_found_again_and_only_as_far_as_it_agrees() -> None:
    pool = BlockPool(8, 4)
    blocks = registered(pool, range(12))
    pool.release(blocks)
    assert pool.match(pool.keys([*range(8), 99, 9, 10, 11])) == blocks[:2]
    assert pool.held == 2
    assert pool.kept == 1


def test_a_block_is_known_by_all_that_comes_before_it() -> None:
    pool = BlockPool(8, 4)
    registered(pool, [1, 2, 3, 4, 5, 6, 7, 8])
    assert pool.known(pool.keys([5, 6, 7, 8])) == 0
    assert pool.known(pool.keys([0, 2, 3, 4, 5, 6, 7, 8])) == 0


def test_salts_part_requests() -> None:
    pool = BlockPool(8, 4)
    registered(pool, range(8), "one")
    assert pool.known(pool.keys(range(8), "one")) == 2
    assert pool.known(pool.keys(range(8))) == 0


def test_the_longest_unused_prefix_goes_first_and_its_end_before_its_beginning() -> None:
    pool = BlockPool(4, 1)
    old, new = registered(pool, [1, 2]), registered(pool, [3, 4])
    pool.release(old)
    pool.release(new)
    assert pool.take(1) == [old[1]]
    assert pool.known(pool.keys([1, 2])) == 1
    assert pool.known(pool.keys([3, 4])) == 2
    assert pool.evictions == 1


def test_taking_too_many_takes_none() -> None:
    pool = BlockPool(3, 4)
    pool.take(2)
    with pytest.raises(OutOfPool, match=r"2 asked, 1 of 3"):
        pool.take(2)
    assert pool.available == 1


def test_shrinking_waits_for_blocks_that_are_held() -> None:
    pool = BlockPool(4, 4)
    held = pool.take(4)
    pool.set_capacity(2)
    assert pool.available == 0
    pool.release(held)
    assert pool.available == 2
    assert sorted(pool.take(2)) == [0, 1]


def test_growing_again_brings_back_what_was_retired() -> None:
    pool = BlockPool(4, 4)
    held = pool.take(4)
    pool.set_capacity(1)
    pool.release(held)
    pool.set_capacity(6)
    assert sorted(pool.take(6)) == list(range(6))


@pytest.mark.parametrize(("capacity", "block"), [(0, 4), (-1, 4), (4, 0), (4, 3), (1 << 40, 4)])
def test_sizes_that_cannot_be_are_refused(capacity: int, block: int) -> None:
    with pytest.raises(ConfigError):
        BlockPool(capacity, block)


class PoolMachine(RuleBasedStateMachine):
    """Any order of operations keeps every block in exactly one state."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8, 2)
        self.held: list[list[int]] = []

    @rule(target=tables, ids=st.lists(st.integers(0, 2), max_size=12))
    def begin(self, ids: list[int]) -> list[int]:
        keys = list(self.pool.keys(ids))
        known = self.pool.known(keys)
        blocks = self.pool.match(keys)
        assert len(blocks) == known
        try:
            blocks += self.pool.take(len(keys) - known)
        except OutOfPool:
            assert len(keys) - known > self.pool.available
            self.pool.release(blocks)
            blocks = []
        for block, key in zip(blocks, keys, strict=False):
            self.pool.register(block, key)
        self.held.append(blocks)
        return blocks

    @rule(blocks=consumes(tables))
    def end(self, blocks: list[int]) -> None:
        self.held = [other for other in self.held if other is not blocks]
        self.pool.release(blocks)

    @rule(capacity=st.integers(1, 12))
    def resize(self, capacity: int) -> None:
        self.pool.set_capacity(capacity)

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        assert self.pool.kept == 0

    @invariant()
    def every_block_is_in_one_state(self) -> None:
        self.pool.check(self.held)
        below = {block for table in self.held for block in table if block < self.pool.capacity}
        assert self.pool.available == self.pool.capacity - len(below)


TestPoolMachine = PoolMachine.TestCase


@settings(max_examples=50)
@given(st.lists(st.integers(0, 1 << 31), max_size=40), st.sampled_from([1, 2, 8]))
def test_keys_of_a_longer_text_go_on_from_those_of_a_shorter(ids: list[int], block: int) -> None:
    pool = BlockPool(4, block)
    whole = list(pool.keys(ids))
    assert list(pool.keys(ids[: len(ids) // 2])) == whole[: len(ids) // 2 // block]
