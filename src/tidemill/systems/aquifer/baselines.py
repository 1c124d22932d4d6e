"""Other ways to restore the same snapshot on the same monitor, each at its best."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill.memory import (
    CXL,
    LinkClock,
    PageSource,
    RemoteExtent,
    RemoteTier,
    Userfaultfd,
    crc32c_of_chunks,
)
from tidemill.memory.fault_handler import CHUNK_PAGES
from tidemill.memory.kernels import paging
from tidemill.memory.userfaultfd import merged
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.microvm import MicroVM
from tidemill.systems.aquifer.restore import Borrow, PooledRestore, Restored, Supply, hot_pages
from tidemill.systems.aquifer.snapshot import PAGE, GuestRegion, Snapshot

U8, U64 = NDArray[np.uint8], NDArray[np.uint64]
_FAASNAP_GAP = 32
_POOL_MAP_GAP = 8
_LOAD_BYTES = 1 << 20


class Strategy(Protocol):
    """One way to restore one function."""

    def prepare(self) -> None:
        """Make everything as it is before a restore; outside the time that is measured."""
        ...

    def restore(self) -> Restored:
        """A clone at the ready point."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """One packing of a function's snapshot, in the tiers.

    Attributes:
        maps: it.
        borrow: its hot pages in the CXL segment.
        remote: the memory nodes, and where its cold pages lie.
    """

    maps: SnapshotFile
    borrow: Borrow
    remote: tuple[RemoteTier, RemoteExtent]

    def restore(self) -> PooledRestore:
        """The paper's way to restore it."""
        return PooledRestore(self.maps, self.borrow, self.remote)


@dataclass(slots=True)
class Published:
    """One function as every strategy finds it.

    Attributes:
        snapshot: it, with all its pages.
        ours: packed as `pack` does.
        plain: packed without huge pages: what is hot is what was touched.
        whole: where all its pages that are not zero lie, for `uffd-remote`.
        folder: on a local disk, for files.
        segment: on shared memory, for what is mapped from the pool.
    """

    snapshot: Snapshot
    ours: Packed
    plain: Packed
    whole: tuple[RemoteTier, RemoteExtent]
    folder: Path
    segment: Path
    files: dict[str, Path] = field(default_factory=dict[str, Path])

    def memory_file(self, way: str) -> Path:
        """The memory as one sparse file on disk, written once.

        Each way has its own: what a living clone of another maps could not be dropped from memory.
        """
        return self._once(f"{way}.memory", self.folder, self.snapshot.write_memory)

    def working_set(self) -> tuple[U8, U64, U64]:
        """Hot pages in address order, their runs, and the ranges of touched zero pages."""
        maps = self.plain.maps
        pages = np.frombuffer(maps.hot, np.uint8)
        return pages, maps.hot_runs, merged(maps.hot_zero.astype(np.int64))

    def _once(self, name: str, folder: Path, write: Callable[[Path], object]) -> Path:
        path = folder / f"{self.plain.maps.uuid}.{name}"
        if name not in self.files:
            write(path)
            self.files[name] = path
        return path

    def file(self, name: str, data: U8, *, in_pool: bool = False) -> Path:
        """A file of these bytes, written once: on disk and synchronised, or in the segment."""

        def write(path: Path) -> None:
            with path.open("wb") as file:
                file.write(data.data)
                file.flush()
                os.fsync(file.fileno())

        return self._once(name, self.segment if in_pool else self.folder, write)


def drop_from_cache(path: Path) -> None:
    """Have the kernel forget a file's pages; it must have been synchronised."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Firecracker:
    """The memory file mapped privately, as Firecracker does: each page a fault, cold or warm."""

    def __init__(self, published: Published, *, is_warm: bool = False) -> None:
        self._machine, self._is_warm = published.snapshot.machine, is_warm
        self.file = published.memory_file("firecracker-warm" if is_warm else "firecracker")

    def prepare(self) -> None:
        """Empty or fill the page cache."""
        if not self._is_warm:
            return drop_from_cache(self.file)
        with self.file.open("rb") as file:
            while file.read(_LOAD_BYTES):
                pass
        return None

    def restore(self) -> Restored:
        """A clone at the ready point."""
        began = time.perf_counter()
        return Restored(MicroVM.restore(self._machine, memory_file=self.file), began)


class UffdRemote:
    """Every page that is not zero from the memory nodes, when it is touched, 16 at a time."""

    def __init__(self, published: Published) -> None:
        snapshot = published.snapshot
        self._machine, self._ranges = snapshot.machine, published.plain.maps.regions_to_register
        self._source = PageSource(
            snapshot.nonzero.size,
            remote_pages=np.flatnonzero(snapshot.nonzero),
            remote=published.whole,
            crc=crc32c_of_chunks(snapshot.pages, CHUNK_PAGES * PAGE),
        )

    def prepare(self) -> None:
        """Nothing is kept between restores."""

    def restore(self) -> Restored:
        """A clone at the ready point."""
        return Supply(self._source, self._ranges).restore(self._machine)


class Reap:
    """REAP: the recorded working set is read at once and installed; all other pages one by one.

    Zero pages of the working set are copied from memory instead of being read.

    Args:
        published: the function.
        is_pooled: the working set from the CXL segment and the rest from the memory nodes, instead
            of both from files on disk (the working set by O_DIRECT).
    """

    def __init__(self, published: Published, *, is_pooled: bool = False) -> None:
        self._published, self._is_pooled = published, is_pooled
        snapshot = published.snapshot
        pages, self._runs, self._zeros = published.working_set()
        self._size = pages.size
        longest = int(self._zeros[:, 1].max(initial=0))
        self._nothing = np.zeros(longest * PAGE, np.uint8)
        self._file = published.file("working-set", pages)
        self._all = np.array([[0, snapshot.nonzero.size]], np.uint64)
        self._link = LinkClock(CXL)
        if is_pooled:
            self._source = published.plain.restore().source
        else:
            self._memory_file = published.memory_file("reap")
            with self._memory_file.open("rb") as file:
                self._mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            image = np.frombuffer(self._mapping, np.uint8)
            self._source = PageSource.of_image(image, np.flatnonzero(snapshot.nonzero))

    def prepare(self) -> None:
        """Empty the page cache of what is on disk."""
        if not self._is_pooled:
            self._mapping.madvise(mmap.MADV_DONTNEED)  # what is mapped would stay
            drop_from_cache(self._memory_file)
            drop_from_cache(self._file)

    def restore(self) -> Restored:
        """A clone at the ready point."""
        supply = Supply(self._source, self._all, self._install)
        return supply.restore(self._published.snapshot.machine)

    def _install(self, faults: Userfaultfd, region: GuestRegion) -> int:
        if self._is_pooled:
            with self._published.plain.borrow() as lease, self._link.transfer(self._size):
                moved = faults.install_runs(
                    region.address, self._runs, np.frombuffer(lease.hot, np.uint8)
                )
        else:
            moved = faults.install_runs(region.address, self._runs, self._read())
        for first, count in self._zeros.tolist():
            zeros = self._nothing[: count * PAGE]  # not the zero page: it would be copied on write
            faults.copy(region.address + first * PAGE, zeros, wakes=False)
        return moved

    def _read(self) -> U8:
        buffer = mmap.mmap(-1, max(self._size, PAGE))
        fd = os.open(self._file, os.O_RDONLY | os.O_DIRECT)
        try:
            done = 0
            while done < self._size:
                done += os.preadv(fd, [memoryview(buffer)[done : self._size]], done)
        finally:
            os.close(fd)
        return np.frombuffer(buffer, np.uint8, self._size)


class FaaSnap:
    """FaaSnap: zero regions anonymous, the loading set mapped and read ahead by a thread."""

    def __init__(self, published: Published) -> None:
        self._published = published
        self._memory_file = published.memory_file("faasnap")
        nonzero = np.flatnonzero(published.snapshot.nonzero)
        self._regions = merged(nonzero, _FAASNAP_GAP)
        self._loading = merged(hot_pages(published.plain.maps).astype(np.int64), _FAASNAP_GAP)
        image = np.zeros((published.snapshot.nonzero.size, PAGE), np.uint8)
        image[nonzero] = published.snapshot.pages
        parts = [image[first : first + count] for first, count in self._loading.tolist()]
        loading = np.concatenate(parts) if parts else np.empty((0, PAGE), np.uint8)
        self._file = published.file("loading-set", loading.reshape(-1))
        self._bytes = loading.size

    def prepare(self) -> None:
        """Empty the page cache of both files."""
        drop_from_cache(self._memory_file)
        drop_from_cache(self._file)

    def restore(self) -> Restored:
        """A clone at the ready point; its loading set may still be on its way."""
        began = time.perf_counter()
        loader = threading.Thread(target=self._load)
        loader.start()
        vm = MicroVM.restore(self._published.snapshot.machine, supply=self._map)
        vm.on_close(loader.join)
        return Restored(vm, began)

    def _map(self, region: GuestRegion) -> None:
        map_regions(region, self._memory_file, self._regions)
        map_regions(region, self._file, self._loading, is_packed=True)

    def _load(self) -> None:
        buffer = bytearray(_LOAD_BYTES)
        with self._file.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


class PoolMap:
    """All pages mapped privately from the pool, none copied before it is written (as TrEnv)."""

    def __init__(self, published: Published) -> None:
        self._machine = published.snapshot.machine
        nonzero = np.flatnonzero(published.snapshot.nonzero)
        self._regions = merged(nonzero, _POOL_MAP_GAP)
        parts = np.zeros((int(self._regions[:, 1].sum()), PAGE), np.uint8)
        starts = np.cumsum(self._regions[:, 1]) - self._regions[:, 1]
        region = np.searchsorted(self._regions[:, 0], nonzero, side="right") - 1
        parts[(starts[region] + (nonzero - self._regions[region, 0])).astype(np.int64)] = (
            published.snapshot.pages
        )
        self._file = published.file("mapped", parts.reshape(-1), in_pool=True)

    def prepare(self) -> None:
        """The pool keeps what it has."""

    def restore(self) -> Restored:
        """A clone at the ready point."""
        began = time.perf_counter()

        def supply(region: GuestRegion) -> None:
            map_regions(region, self._file, self._regions, is_packed=True)

        return Restored(MicroVM.restore(self._machine, supply=supply), began)


def map_regions(region: GuestRegion, file: Path, regions: U64, *, is_packed: bool = False) -> None:
    """Map parts of a file over a guest's memory, privately.

    Args:
        region: the memory.
        file: holds the pages.
        regions: (n, 2) first page and pages of each part.
        is_packed: the file holds the parts one behind the other, not at the guest's addresses.
    """
    native = paging()
    done = 0
    with file.open("rb") as opened:
        for first, count in regions.tolist():
            at = done if is_packed else first * PAGE
            native.map_over(region.address + first * PAGE, count * PAGE, opened.fileno(), at)
            done += count * PAGE


def strategies(published: Published) -> dict[str, Callable[[], Strategy]]:
    """All ways to restore, by name; each is set up when it is called."""
    return {
        "aquifer": published.ours.restore,
        "aquifer-4k": published.plain.restore,
        "firecracker": lambda: Firecracker(published),
        "firecracker-warm": lambda: Firecracker(published, is_warm=True),
        "uffd-remote": lambda: UffdRemote(published),
        "reap": lambda: Reap(published),
        "reap-pool": lambda: Reap(published, is_pooled=True),
        "faasnap": lambda: FaaSnap(published),
        "pool-map": lambda: PoolMap(published),
    }
