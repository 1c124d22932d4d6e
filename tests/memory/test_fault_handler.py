"""Pages come as they were published, from wherever they lie, or the guest is ended in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill.errors import ConfigError, ResourceError
from tidemill.memory import (
    FaultHandler,
    GuestRange,
    PageSource,
    RemoteTier,
    Userfaultfd,
    crc32c_of_chunks,
)
from tidemill.memory.fault_handler import process_switch
from tidemill.memory.userfaultfd import Feature

from .touching import Serve, Watch, freeze, give_back, read

PAGE, PAGES = 4096, 256
KEY = b"k" * 16
U8 = NDArray[np.uint8]
RNG = np.random.default_rng(7)


class Guest:
    """An image of which a third is zero, a third local, a third remote, and memory to fill."""

    def __init__(self, serve: Serve, memory: Watch, *, chunk_pages: int = 16) -> None:
        self.image = RNG.integers(1, 256, (PAGES, PAGE), np.uint8)
        kinds = RNG.integers(0, 3, PAGES)
        self.image[kinds == 0] = 0
        self.local, self.remote = np.flatnonzero(kinds == 1), np.flatnonzero(kinds == 2)
        self.servers = [serve(), serve()]
        self.tier = RemoteTier([server.address for server in self.servers], timeout_s=2)
        cold = self.image[self.remote]
        self.extent = self.tier.publish(KEY, cold)
        self.source = PageSource(
            PAGES,
            local_pages=self.local,
            local=np.ascontiguousarray(self.image[self.local]),
            remote_pages=self.remote,
            remote=(self.tier, self.extent),
            crc=crc32c_of_chunks(cold, chunk_pages * PAGE),
            chunk_pages=chunk_pages,
        )
        self.memory = memory(PAGES)

    def handler(
        self, faults: Userfaultfd, page_bytes: int = PAGE, **options: float
    ) -> FaultHandler:
        faults.register(self.memory.ctypes.data, self.memory.size)
        options = {"deadline_s": 20.0} | options  # a busy machine is no failure
        range_ = GuestRange(self.memory.ctypes.data, self.memory.size, 0, page_bytes)
        return FaultHandler(faults, [range_], self.source, **options)

    def read(self, page: int) -> U8:
        return read(self.memory, page * PAGE, PAGE)


@pytest.fixture
def guest(serve: Serve, memory: Watch) -> Guest:
    return Guest(serve, memory)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_every_page_reads_as_it_was_published(guest: Guest, faults: Userfaultfd) -> None:
    with guest.handler(faults) as handler:
        for page in RNG.permutation(PAGES).tolist():
            np.testing.assert_array_equal(guest.read(page), guest.image[page])
    counts = handler.counts
    assert counts["zero"] == PAGES - guest.local.size - guest.remote.size
    assert counts["local"] == guest.local.size
    assert counts["remote"] == counts["remote_reads"] == -(-guest.remote.size // 16)
    assert counts["remote_bytes"] == guest.remote.size * PAGE


def test_threads_that_fault_at_once_share_reads_and_have_several_under_way(
    guest: Guest, faults: Userfaultfd
) -> None:
    wrong: list[int] = []

    def touch(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(guest.remote).tolist()
        wrong.extend(p for p in order if not np.array_equal(guest.read(p), guest.image[p]))

    freeze(guest.servers[0].pid)
    with guest.handler(faults) as handler:
        threads = [in_thread(lambda seed=seed: touch(seed)) for seed in range(6)]
        time.sleep(0.05)
        os.kill(guest.servers[0].pid, signal.SIGCONT)
        for thread in threads:
            thread.join()
    assert not wrong
    assert handler.counts["most_under_way"] >= 2
    assert handler.counts["remote_reads"] <= 3 * -(-guest.remote.size // 16)


@pytest.mark.parametrize("pages", [1, 2, 16])
def test_a_fault_is_answered_with_a_huge_page_where_the_guest_has_them(
    guest: Guest, faults: Userfaultfd, pages: int
) -> None:
    with guest.handler(faults, pages * PAGE) as handler:
        for page in RNG.permutation(PAGES).tolist():
            np.testing.assert_array_equal(guest.read(page), guest.image[page])
    faults_seen = sum(handler.counts[name] for name in ("zero", "local", "remote"))
    assert faults_seen <= PAGES // pages


def test_pages_that_were_given_back_come_again_as_zero(serve: Serve, memory: Watch) -> None:
    guest = Guest(serve, memory)
    with Userfaultfd(Feature.EVENT_REMOVE) as faults, guest.handler(faults) as handler:
        page = int(guest.remote[0])
        assert guest.read(page).any()
        give_back(guest.memory, 0, PAGES // 2 * PAGE)
        assert not any(guest.read(page).any() for page in range(PAGES // 2))
        for page in range(PAGES // 2, PAGES):
            np.testing.assert_array_equal(guest.read(page), guest.image[page])
        assert handler.counts["removed"] == PAGES // 2


def test_what_is_given_back_while_it_is_installed_does_not_come_back(
    guest: Guest, memory: Watch
) -> None:
    for _ in range(40):
        guest.memory = memory(PAGES)
        with Userfaultfd(Feature.EVENT_REMOVE) as own, guest.handler(own):
            guest.read(int(guest.remote[0]))
            give_back(guest.memory, 0, guest.memory.size)
            assert not read(guest.memory, 0, guest.memory.size).any()


def test_order_and_time_of_faults_are_recorded(guest: Guest, faults: Userfaultfd) -> None:
    order = [*guest.local[:5].tolist()][::-1]
    with guest.handler(faults, records=True) as handler:
        for page in order:
            guest.read(page)
    touches = handler.touches()
    assert touches[:, 0].tolist() == order
    assert (np.diff(touches[:, 1]) > 0).all()


def test_the_replica_answers_for_a_server_that_dies_or_hangs(
    guest: Guest, faults: Userfaultfd
) -> None:
    half = guest.remote.size // 2
    with guest.handler(faults) as handler:
        for page in guest.remote[:half].tolist():
            guest.read(page)
        guest.servers[0].kill()
        for page in guest.remote.tolist():
            np.testing.assert_array_equal(guest.read(page), guest.image[page])
        assert not handler.failure
    assert handler.counts["failovers"] >= 1


def test_what_is_not_what_was_published_is_never_installed(
    guest: Guest, faults: Userfaultfd
) -> None:
    guest.tier.native.put(0, guest.extent.bases[0], np.zeros(PAGE, np.uint8))
    with guest.handler(faults) as handler:
        page = int(guest.remote[0])
        np.testing.assert_array_equal(guest.read(page), guest.image[page])
        assert handler.counts["failovers"] == 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_without_any_server_the_guest_is_ended_within_the_deadline(
    guest: Guest, faults: Userfaultfd, end: str
) -> None:
    for server in guest.servers:
        if end == "kill":
            server.kill()
        else:
            freeze(server.pid)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pidfd = os.pidfd_open(victim.pid)
    began = time.monotonic()
    with guest.handler(faults, deadline_s=0.3) as handler:
        handler.guard(process_switch(pidfd))
        guest.read(int(guest.remote[0]))  # let go only after the guest is doomed
        assert victim.wait(60) == -signal.SIGKILL
        assert time.monotonic() - began < 60
        assert "no server gives its pages" in handler.failure
        with pytest.raises(ResourceError, match="could not be provided"):
            handler.raise_failure()
        guest.read(int(guest.remote[-1]))
    os.close(pidfd)
    for server in guest.servers:
        if end == "stop":
            os.kill(server.pid, signal.SIGCONT)


def test_a_page_that_was_to_be_installed_before_ends_the_guest(
    faults: Userfaultfd, memory: Watch
) -> None:
    region = memory(4)
    faults.register(region.ctypes.data, region.size)
    source = PageSource(4, local_pages=np.array([2]))
    with FaultHandler(faults, [GuestRange(region.ctypes.data, region.size)], source) as handler:
        assert read(region, 0, 1) == 0
        assert not handler.failure
        assert read(region, 2 * PAGE, 1) == 0
        assert "installed before" in handler.failure


def test_sources_and_ranges_that_do_not_fit_are_refused(faults: Userfaultfd, memory: Watch) -> None:
    region = memory(4)
    with pytest.raises(ConfigError, match="beyond the snapshot"):
        FaultHandler(faults, [GuestRange(region.ctypes.data, 4 * PAGE)], PageSource(3))
    with pytest.raises(ConfigError, match="remote pages need"):
        FaultHandler(faults, [], PageSource(4, remote_pages=np.array([1])))
    with pytest.raises(ConfigError, match="chunk_pages"):
        PageSource(4, chunk_pages=65)
    with pytest.raises(ValueError, match="slot lies outside"):
        PageSource(4, local_pages=np.array([1]), local=np.empty(0, np.uint8))


def test_nothing_is_left_behind(guest: Guest, faults: Userfaultfd) -> None:
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))  # noqa: PTH208
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    guest.handler(faults).close()
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208
    assert len(os.listdir("/proc/self/task")) == threads  # noqa: PTH208
