"""Restore a function from the pool: hot pages are copied first, cold ones come as touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.memory import (
    CXL,
    FaultHandler,
    GuestRange,
    LinkClock,
    PageSource,
    RemoteExtent,
    RemoteHold,
    RemoteTier,
    Userfaultfd,
)
from tidemill.memory.kernels import paging
from tidemill.memory.userfaultfd import merged
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.microvm import MicroVM
from tidemill.systems.aquifer.snapshot import PAGE, GuestRegion, MachineState

U64 = NDArray[np.uint64]


class HotPages(Protocol):
    """Hot pages that are ours for a moment: a lease of the CXL pool."""

    @property
    def hot(self) -> memoryview:
        """The hot extent, in guest address order."""
        ...


Borrow = Callable[[], AbstractContextManager[HotPages]]


@dataclass(frozen=True, slots=True)
class RestoreStats:
    """What one restored function has cost so far.

    Attributes:
        restore_ms: from the call to a machine that can run.
        hot_bytes: installed before it ran.
        faults: page faults by where the page came from: zero, cold (remote), hot (local).
        remote_bytes: read from memory nodes.
        most_under_way: remote reads at one time.
        failovers: servers that were given up.
    """

    restore_ms: float
    hot_bytes: int
    faults: dict[str, int] = field(default_factory=dict[str, int])
    remote_bytes: int = 0
    most_under_way: int = 0
    failovers: int = 0


class Restored:
    """A clone and whoever brings its pages; close it, or use it as a context manager."""

    def __init__(
        self,
        vm: MicroVM,
        began_s: float,
        *,
        hot_bytes: int = 0,
        handler: FaultHandler | None = None,
        keeps: object = None,
    ) -> None:
        self.vm = vm
        self._keeps = keeps
        self._hot_bytes = hot_bytes
        self._handler = handler
        if handler is not None:
            vm.on_close(handler.close)
            handler.guard(vm.kill_switch)
        self._restore_ms = (time.perf_counter() - began_s) * 1e3

    def invoke(self, request: bytes) -> bytes:
        """The function's answer; see `MicroVM.invoke`. GuestFailed if a page could not be had."""
        return self.vm.invoke(request)

    @property
    def stats(self) -> RestoreStats:
        """Faults and bytes up to now."""
        if self._handler is None:
            return RestoreStats(self._restore_ms, self._hot_bytes)
        counts = self._handler.counts
        return RestoreStats(
            self._restore_ms,
            self._hot_bytes,
            {"zero": counts["zero"], "cold": counts["remote"], "hot": counts["local"]},
            counts["remote_bytes"],
            counts["most_under_way"],
            counts["failovers"],
        )

    def close(self) -> None:
        """Give back the machine, its memory and its fault handler."""
        self.vm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Supply:
    """Registers a clone's memory, installs what is hot and starts the handler of the rest.

    Args:
        source: where pages come from that are touched later.
        ranges: (n, 2) first page and pages to watch; the kernel fills the others with zeros.
        zeros: (n, 2) zero pages that will be touched; taken from the kernel beforehand.
        huge: (n, 2) blocks, not watched, that are to be huge pages.
        trickles: whether what is never touched comes as well.
        install: is called with the userfaultfd and the memory before the handler starts.
    """

    def __init__(
        self,
        source: PageSource,
        ranges: U64,
        install: Callable[[Userfaultfd, GuestRegion], int] | None = None,
        *,
        zeros: U64 | None = None,
        huge: U64 | None = None,
        trickles: bool = False,
        deadline_s: float = 2.0,
    ) -> None:
        self._source, self._ranges, self._install = source, ranges, install
        self._zeros, self._huge = zeros, huge
        self._trickles, self._deadline_s = trickles, deadline_s
        self.hot_bytes = 0
        self.handler: FaultHandler | None = None

    def __call__(self, region: GuestRegion) -> None:
        """Do it."""
        if self._huge is not None:
            paging().populate_huge(region.address, self._huge)
        if self._zeros is not None:
            paging().populate(region.address, self._zeros)  # before faults are watched
        with Userfaultfd() as faults:
            faults.register_pages(region.address, self._ranges)
            if self._install is not None:
                self.hot_bytes = self._install(faults, region)
            memory = [GuestRange(region.address, region.size)]
            self.handler = FaultHandler(
                *(faults, memory, self._source),
                deadline_s=self._deadline_s,
                trickles=self._trickles,
            )

    def restore(self, machine: MachineState, keeps: object = None) -> Restored:
        """A clone whose memory this supplies; ``keeps`` lives as long as it does."""
        began = time.perf_counter()
        try:
            vm = MicroVM.restore(machine, supply=self)
        except BaseException:
            if self.handler is not None:
                self.handler.close()
            raise
        return Restored(vm, began, hot_bytes=self.hot_bytes, handler=self.handler, keeps=keeps)


class PooledRestore:
    """The paper's way: what all restores of one published snapshot share.

    Args:
        maps: the snapshot's classes, runs and state; its pages need not be there.
        borrow: gives the hot pages for the moment of the copy.
        remote: the tier of the cold pages, and where they lie in it.
        link: what lies between this host and the hot pages.
        hold: keeps the cold pages on their nodes as long as this, or a clone, is there.
        trickles: whether cold pages come in the background as well; they then take memory here.
        deadline_s: how long a cold page may take before the guest is ended.
    """

    def __init__(
        self,
        maps: SnapshotFile,
        borrow: Borrow,
        remote: tuple[RemoteTier, RemoteExtent],
        *,
        link: LinkClock | None = None,
        hold: RemoteHold | None = None,
        trickles: bool = False,
        deadline_s: float = 2.0,
    ) -> None:
        self._hold = hold
        self.machine = machine_of(maps)
        self._maps, self._borrow = maps, borrow
        self._link = link or LinkClock(CXL)
        self._trickles, self._deadline_s = trickles, deadline_s
        self._zeros = merged(maps.hot_zero.astype(np.int64))
        is_dense = maps.is_dense
        self._huge = merged(np.flatnonzero(is_dense))
        self._runs = maps.classes.hot_runs(~is_dense), maps.classes.hot_runs(is_dense)
        self._watched = without(maps.regions_to_register, is_dense)
        cold, hot = cold_pages(maps), hot_pages(maps)
        self.source = PageSource(
            maps.guest_pages,
            local_pages=hot,
            remote_pages=cold,
            remote=remote if cold.size else None,
            crc=np.ascontiguousarray(maps.cold_checksums, np.uint32),
        )

    def prepare(self) -> None:
        """Nothing is kept between restores but the pool."""

    def restore(self) -> Restored:
        """A clone at the ready point; its hot pages are all there.

        Raises:
            StaleEpoch: another snapshot was published meanwhile; MissingCapability: no KVM.
        """
        supply = Supply(
            self.source,
            self._watched,
            self._install,
            zeros=self._zeros,
            huge=self._huge,
            trickles=self._trickles,
            deadline_s=self._deadline_s,
        )
        return supply.restore(self.machine, self._hold)

    def _install(self, faults: Userfaultfd, region: GuestRegion) -> int:
        with self._borrow() as lease, self._link.transfer(lease.hot.nbytes):
            watched, dense = self._runs
            # no view of the pages may outlive the lease
            copied = paging().copy_runs(region.address, dense, np.frombuffer(lease.hot, np.uint8))
            return copied + faults.install_runs(
                region.address, watched, np.frombuffer(lease.hot, np.uint8)
            )


def without(ranges: U64, left_out: NDArray[np.bool_]) -> U64:
    """Ranges of pages, (n, 2), but for the pages that are left out."""
    found = np.zeros(left_out.size, bool)
    for first, count in ranges.tolist():
        found[first : first + count] = True
    return merged(np.flatnonzero(found & ~left_out))


def machine_of(maps: SnapshotFile) -> MachineState:
    """What a clone needs besides its pages."""
    return MachineState(maps.vmstate, maps.guest_pages * PAGE, maps.roots, maps.limits)


def hot_pages(maps: SnapshotFile) -> NDArray[np.uint32]:
    """The guest's hot pages, ascending."""
    return _pages(maps, "hot")


def cold_pages(maps: SnapshotFile) -> NDArray[np.uint32]:
    """The guest's cold pages, ascending: the order of the cold extent."""
    return _pages(maps, "cold")


def _pages(maps: SnapshotFile, kind: str) -> NDArray[np.uint32]:
    nonzero, hot = maps.classes.truths()
    wanted = hot if kind == "hot" else nonzero & ~hot
    return np.flatnonzero(wanted).astype(np.uint32)
