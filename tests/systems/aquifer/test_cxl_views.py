"""What a host sees of a segment, through the processor's caches and through caches of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.systems.aquifer.cxl.operations import LINE, Fence, Get, Load, Pause, Put, Store, run
from tidemill.systems.aquifer.cxl.views import DirectView, IncoherentView

SIZE = 16 * LINE


def two_hosts(seed: int | None = None) -> tuple[IncoherentView, IncoherentView]:
    segment = np.zeros(SIZE, np.uint8)
    direct = DirectView(segment, lambda: SIZE, "a segment")
    return (
        IncoherentView(direct, SIZE, seed=seed),
        IncoherentView(direct, SIZE, seed=None if seed is None else seed + 1),
    )


def test_without_a_write_back_another_host_sees_nothing() -> None:
    writer, reader = two_hosts()
    writer.store(64, 7)
    writer.fence()
    assert reader.load(64) == 0
    assert writer.load(64) == 7


def test_without_a_fence_a_write_back_is_only_asked_for() -> None:
    writer, reader = two_hosts()
    writer.store(64, 7)
    writer.write_back(64, 8)
    assert reader.load(64) == 0
    writer.fence()
    reader.invalidate(64, 8)
    reader.fence()
    assert reader.load(64) == 7


@pytest.mark.parametrize("asked", [[], ["fence"], ["invalidate"], ["invalidate", "fence"]])
def test_a_reader_has_stale_bytes_until_it_invalidates_and_fences(asked: list[str]) -> None:
    writer, reader = two_hosts()
    assert reader.load(0) == 0
    writer.store(0, 9)
    writer.write_back(0, 8)
    writer.fence()
    if "invalidate" in asked:
        reader.invalidate(0, 8)
    if "fence" in asked:
        reader.fence()
    assert reader.load(0) == (9 if len(asked) == 2 else 0)


def test_two_writers_of_one_line_lose_what_one_of_them_wrote() -> None:
    first, second = two_hosts()
    first.store(0, 1)
    second.store(8, 2)
    for host in (first, second):
        host.write_back(0, LINE)
        host.fence()
    first.invalidate(0, LINE)
    first.fence()
    assert (first.load(0), first.load(8)) == (0, 2)


def test_an_adversary_writes_back_and_fetches_when_nobody_asked() -> None:
    seen: set[int] = set()
    for seed in range(60):
        writer, reader = two_hosts(seed)
        for value in range(1, 20):
            writer.store(0, value)
            seen.add(reader.load(0))
    assert len(seen) > 10


steps = st.lists(
    st.tuples(st.integers(0, SIZE // 8 - 1), st.integers(0, 2**64 - 1), st.booleans()), max_size=30
)


@given(steps=steps, seed=st.integers(0, 1 << 30))
@settings(deadline=None)
def test_one_host_alone_reads_what_it_wrote_whatever_its_caches_do(
    steps: list[tuple[int, int, bool]], seed: int
) -> None:
    host, other = two_hosts(seed)
    expected = np.zeros(SIZE // 8, np.uint64)
    for word, value, is_store in steps:
        if is_store:
            host.store(word * 8, value)
            expected[word] = value
        else:
            host.invalidate(word * 8, 8)
            host.fence()
        assert host.load(word * 8) == int(expected[word])
    host.write_back(0, SIZE)
    host.fence()
    other.invalidate(0, SIZE)
    other.fence()
    assert bytes(other.get(0, SIZE)) == expected.tobytes()


def test_both_views_perform_the_same_program() -> None:
    def program():
        yield Put(3, b"abc")
        yield Store(64, 5)
        yield Fence()
        yield Pause("nothing")
        word = yield Load(64)
        found = yield Get(2, 5)
        return word, bytes(found)

    segment = np.zeros(SIZE, np.uint8)
    direct = DirectView(segment, lambda: SIZE, "a segment")
    paused: list[str] = []
    for view in (direct, IncoherentView(direct, SIZE)):
        done = run(program(), view, lambda *_: False, paused.append)
        assert done == (5, b"\0abc\0")
    assert paused == ["nothing", "nothing"]
    assert "coherent by hardware" in repr(direct)


def test_what_is_outside_of_the_segment_or_not_aligned_is_refused() -> None:
    direct = DirectView(np.zeros(SIZE, np.uint8), lambda: SIZE, "a segment")
    for at in (SIZE, SIZE - 4, -8, 4):
        with pytest.raises((ValueError, TypeError)):
            direct.store(at, 1)
        with pytest.raises((ValueError, TypeError)):
            direct.load(at)
    with pytest.raises(ValueError, match="outside of the segment"):
        direct.put(SIZE - 1, b"ab")
    for act in (direct.write_back, direct.invalidate, direct.get):
        with pytest.raises(ValueError, match="outside of the segment"):
            act(8, SIZE)
