"""The pool of pages: each has one owner or is free, whatever is taken and given back."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import OutOfPool
from tidemill.native import kernels

PAGES, BYTES, OWNERS = 9, 64, 3
CHANGES = st.tuples(
    st.integers(0, OWNERS - 1), st.sampled_from(["take", "keep"]), st.integers(0, 6)
)
room = kernels("models")


def pool_and_owners(zeroed: bool) -> tuple[Any, list[Any]]:
    pool = room.PagePool(PAGES, BYTES, zeroed)
    return pool, [room.PageOwner(pool) for _ in range(OWNERS)]


@given(changes=st.lists(CHANGES, max_size=40))
def test_a_page_has_one_owner_or_is_free(changes: list[tuple[int, str, int]]) -> None:
    pool, owners = pool_and_owners(zeroed=True)
    held: list[list[int]] = [[] for _ in owners]
    for who, change, count in changes:
        before = held[who]
        if change == "keep":
            owners[who].keep(count)
            assert owners[who].pages == before[:count]
        elif count > pool.free_pages:
            with pytest.raises(OutOfPool, match=f"{count} more pages of 32 tokens asked"):
                owners[who].take(count)
            assert owners[who].pages == before
        else:
            owners[who].take(count)
            assert owners[who].pages[: len(before)] == before
            assert len(owners[who].pages) == len(before) + count
        held[who] = owners[who].pages
        taken = [page for pages in held for page in pages]
        assert len(set(taken)) == len(taken) == PAGES - pool.free_pages
        assert all(0 <= page < PAGES for page in taken)


@pytest.mark.parametrize("zeroed", [True, False])
def test_what_a_page_holds_that_had_an_owner_before(zeroed: bool) -> None:
    _, (first, second, _) = pool_and_owners(zeroed)
    first.take(PAGES)
    assert all(first.content(at) == bytes(BYTES) for at in range(PAGES))
    first.fill(7)
    first.keep(0)
    second.take(PAGES)
    left = bytes(BYTES) if zeroed else b"\7" * BYTES
    assert all(second.content(at) == left for at in range(PAGES))


def test_a_dropped_owner_gives_its_pages_back() -> None:
    pool, owners = pool_and_owners(zeroed=False)
    owners[0].take(4)
    del owners[0]
    assert pool.free_pages == PAGES


def test_threads_never_hold_the_same_page() -> None:
    pool, owners = pool_and_owners(zeroed=True)
    damaged: list[int] = []

    def work(owner: Any, mark: int) -> None:
        for _ in range(300):
            owner.take(3)
            owner.fill(mark)
            if any(owner.content(at) != bytes([mark]) * BYTES for at in range(3)):
                damaged.append(mark)
            owner.keep(0)

    threads = [
        threading.Thread(target=work, args=pair) for pair in zip(owners, (1, 2, 3), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not damaged
    assert pool.free_pages == PAGES


@pytest.mark.parametrize("sizes", [(0, 64), (4, 0), (1 << 32, 64), (1 << 20, 1 << 40)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        room.PagePool(*sizes, True)
