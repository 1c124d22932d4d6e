"""Faults are events; pages come from whoever answers them."""

from __future__ import annotations

import mmap
import multiprocessing
import select
import socket
import threading

import numpy as np
import pytest

from tidemill.errors import MissingCapability
from tidemill.memory import Userfaultfd
from tidemill.memory.userfaultfd import EventKind, Feature, Mode, merged, receive

from .touching import Watch, give_back, read, write

PAGE = 4096


def waiting(faults: Userfaultfd) -> None:
    assert select.select([faults.fd], [], [], 10)[0], "no event came"


def test_a_missing_page_is_asked_for_once_and_read_as_it_was_given(
    faults: Userfaultfd, memory: Watch
) -> None:
    region = memory(4)
    faults.register(region.ctypes.data, region.size)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(read(region, PAGE + 5, 1)))
    reader.start()
    waiting(faults)
    (event,) = faults.events()
    assert event.kind is EventKind.PAGE_FAULT
    assert event.address // PAGE == region.ctypes.data // PAGE + 1
    assert faults.copy(region.ctypes.data + PAGE, np.full(PAGE, 7, np.uint8))
    reader.join()
    assert seen == [7]
    assert not faults.events()


def test_pages_that_are_there_stay_as_they_are(faults: Userfaultfd, memory: Watch) -> None:
    region = memory(4)
    faults.register(region.ctypes.data, region.size)
    faults.copy(region.ctypes.data + PAGE, np.full(PAGE, 1, np.uint8))
    faults.copy(region.ctypes.data, np.full(3 * PAGE, 2, np.uint8))
    faults.zero(region.ctypes.data, region.size)
    assert region.reshape(4, PAGE)[:, 9].tolist() == [2, 1, 2, 0]


def test_runs_are_installed_where_they_belong(faults: Userfaultfd, memory: Watch) -> None:
    region = memory(16)
    faults.register_pages(region.ctypes.data, np.array([[2, 3], [8, 8]], np.uint64))
    pages = np.repeat(np.arange(1, 6, dtype=np.uint8), PAGE)
    runs = np.array([[2, 3, 0], [9, 2, 3]], np.uint64)
    assert faults.install_runs(region.ctypes.data, runs, pages) == 5 * PAGE
    faults.unregister(region.ctypes.data, region.size)
    assert region.reshape(16, PAGE)[:, 0].tolist() == [0, 0, 1, 2, 3, 0, 0, 0, 0, 4, 5, *[0] * 5]


def test_a_write_to_a_protected_page_waits_for_permission(memory: Watch) -> None:
    try:
        faults = Userfaultfd(Feature.WRITE_PROTECT)
    except MissingCapability as error:
        pytest.skip(str(error))
    region = memory(2)
    region[:] = 3
    with faults:
        faults.register(region.ctypes.data, region.size, Mode.WRITE_PROTECT)
        faults.write_protect(region.ctypes.data, region.size)
        assert region[PAGE] == 3
        writer = threading.Thread(target=write, args=(region, PAGE, 4))
        writer.start()
        waiting(faults)
        (event,) = faults.events()
        assert event.is_write_protect
        faults.write_protect(region.ctypes.data + PAGE, PAGE, on=False)
        writer.join()
    assert region[[0, PAGE]].tolist() == [3, 4]


def test_what_a_guest_gives_back_is_an_event(memory: Watch) -> None:
    with Userfaultfd(Feature.EVENT_REMOVE) as faults:
        region = memory(4)
        faults.register(region.ctypes.data, region.size)
        faults.zero(region.ctypes.data, region.size)
        giver = threading.Thread(target=give_back, args=(region, PAGE, 2 * PAGE))
        giver.start()
        waiting(faults)
        (event,) = faults.events()
        giver.join()
        start = region.ctypes.data + PAGE
        assert event == (EventKind.REMOVE, start, start + 2 * PAGE, False)


def _touch(there: socket.socket) -> None:
    """In a process of its own: hands its userfaultfd over and reads what it is given."""
    mapping = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    with Userfaultfd() as faults:
        faults.register(address, PAGE)
        faults.send(there, address.to_bytes(8, "little"))
        there.send(mapping[:1])


def test_the_memory_of_another_process_is_served_by_a_descriptor_it_sends(
    faults: Userfaultfd,
) -> None:
    here, there = socket.socketpair()
    child = multiprocessing.get_context("fork").Process(target=_touch, args=(there,))
    child.start()
    there.close()
    message, foreign = receive(here)
    assert foreign is not None
    with foreign:
        waiting(foreign)
        foreign.copy(int.from_bytes(message, "little"), np.full(PAGE, 9, np.uint8))
        assert here.recv(1) == b"\x09"
    child.join()
    here.close()
    assert child.exitcode == 0


def test_ranges_are_merged_over_small_gaps() -> None:
    assert merged([1, 2, 5, 14, 30], gap=8).tolist() == [[1, 14], [30, 1]]
    assert merged([1, 2, 5]).tolist() == [[1, 2], [5, 1]]
    assert merged([]).shape == (0, 2)


def test_a_refusal_says_how_to_get_permission() -> None:
    from tidemill.memory.userfaultfd import _missing

    text = str(_missing(PermissionError(1, "no"), Feature.NONE))
    assert "unprivileged_userfaultfd=1" in text
    assert "/dev/userfaultfd" in text


def test_who_waits_for_a_page_that_is_installed_at_the_start_goes_on(
    faults: Userfaultfd, memory: Watch
) -> None:
    region = memory(4)
    faults.register(region.ctypes.data, region.size)
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(int(read(region, 2 * PAGE, 1)[0])))
    waiter.start()
    waiting(faults)  # nobody reads the event
    pages = np.full(2 * PAGE, 7, np.uint8)
    runs = np.array([[1, 2, 0]], np.uint64)
    assert faults.install_runs(region.ctypes.data, runs, pages, wakes=True) == 2 * PAGE
    waiter.join(20)
    assert seen == [7]
