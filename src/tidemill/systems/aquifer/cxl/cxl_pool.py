"""A pool of snapshots in CXL memory that hosts share: publish, borrow, revoke, hand over."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from tidemill.errors import ConfigError, InputError, OutOfPool, ResourceError
from tidemill.systems.aquifer.cxl import segment
from tidemill.systems.aquifer.cxl.directory import Directory, usage
from tidemill.systems.aquifer.cxl.host_presence import HostPresence, is_present, kill
from tidemill.systems.aquifer.cxl.layout import NAME_BYTES, SlotState
from tidemill.systems.aquifer.cxl.lease import Demand, Lease, StaleEpoch
from tidemill.systems.aquifer.cxl.operations import LINE, WORD, Program, run
from tidemill.systems.aquifer.cxl.ownership import Borrowed, Ownership
from tidemill.systems.aquifer.cxl.views import DirectView, IncoherentView
from tidemill.systems.aquifer.snapshot_file import SnapshotFile

T = TypeVar("T")
_IDENTITY = struct.Struct("<QQ")
_RETRIES = 64


class CxlPool:
    """One host's end of a pool; see `create` and `attach`. Safe to use from several threads."""

    def __init__(self, path: str, fd: int, host: int, view_seed: int | None) -> None:
        self.path, self.host = path, host
        self._fd = fd
        self._lock = threading.RLock()
        self._leases: dict[int, list[Lease]] = {}
        self._restores: dict[int, int] = {}
        self._presence: HostPresence | None = None
        self._mapping = mmap.mmap(fd, 0)
        self._segment = np.frombuffer(self._mapping, np.uint8)
        direct = DirectView(self._segment, self._size_now, path)
        self.uuid, self.layout = segment.read_superblock(direct, path, self._segment.size)
        if not 0 <= host < self.layout.hosts:
            raise ConfigError.of("host", host, f"in 0-{self.layout.hosts - 1}", "as the pool says")
        self._view = (
            IncoherentView(direct, self._segment.size, seed=view_seed)
            if view_seed is not None
            else direct
        )
        self.deadline_s = 30.0
        self._ownership = Ownership(self.layout, host)
        self._directory = Directory(self.layout, self._view, host, path)

    create = staticmethod(segment.create)
    create_memfd = staticmethod(segment.create_memfd)

    @classmethod
    def attach(cls, path: str | Path, host: int, *, incoherent: int | None = None) -> CxlPool:
        """Be a host of a pool; what this host's last process had begun is ended first.

        Args:
            path: the pool's file.
            host: which host; one process at a time.
            incoherent: seed of the adversary of an `IncoherentView`; by default the caches that
                the processor has.

        Raises:
            InputError, CorruptFile: no pool. ResourceError: a running process is this host.
        """
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(
                f"{path} — {error.strerror}; must be a pool; `tidemill aquifer pool create` "
                "makes one."
            ) from error
        try:
            if os.fstat(fd).st_size < LINE:
                raise segment.no_pool(str(path), "shorter than its superblock")
            pool = cls(str(path), fd, host, incoherent)
        except BaseException:
            os.close(fd)
            raise
        try:
            pool._join()
        except BaseException:
            pool.close()
            raise
        return pool

    def publish(
        self,
        name: str,
        snapshot: SnapshotFile,
        *,
        demand: Demand | None = None,
        on_evict: Callable[[str, memoryview], object] | None = None,
    ) -> int:
        """Put a snapshot's hot pages, maps and state into the pool, in place of an older one.

        Args:
            name: at most 32 bytes.
            snapshot: what to publish.
            demand: if given, snapshots whose bytes are worth less are evicted for it, the least
                recently restored first; without it, as many as must be.
            on_evict: is given the name and the pooled bytes of each before it goes.

        Returns:
            The epoch.

        Raises:
            ConfigError: the name. OutOfPool: no slot or no room. ProtocolError: another host owns
            the name; have it handed over first.
        """
        if not 0 < len(name.encode()) <= NAME_BYTES or "\0" in name:
            raise ConfigError.of("name", name, f"1-{NAME_BYTES} bytes", "it is in one cache line")
        data = snapshot.pooled
        with self._open():
            self._heartbeat()
            entries = self._directory.entries()
            slot = self._directory.slot_for(name, entries)
            old = None if entries[slot].word.state is SlotState.FREE else slot
            self._make_room(len(data), old, demand, on_evict)
            if old is not None:
                self._revoke(old)
            extent = self._directory.best_fit(_whole_pages(len(data)))
            assert extent is not None, "only this host takes from its chunks"
            try:
                return self._run(self._ownership.publish(slot, extent, data, name))
            except BaseException:
                self._run(self._ownership.abandon(slot))
                raise

    def borrow(self, name: str) -> Lease:
        """A lease of a published snapshot, for as long as it is copied.

        Raises:
            InputError: there is none of this name. StaleEpoch: it was replaced meanwhile, again
            and again. CorruptFile: what lies there is no snapshot.
        """
        with self._open():
            slot: int | None = None
            for _ in range(_RETRIES):
                slot = self._directory.slot_of(name)
                if slot is None:
                    break
                borrowed = self._borrow(slot)
                if borrowed is None:
                    time.sleep(0)
                elif borrowed.entry.name == name:
                    return self._lease(borrowed)
                elif not self._leases.get(slot):
                    self._run(self._ownership.release(slot))
        if slot is None:
            known = ", ".join(sorted(self.names())) or "nothing"
            raise InputError(f"{name} in {self.path} — not published; there is {known}.")
        raise StaleEpoch(f"{name} in {self.path} — replaced while it was borrowed; ask again.")

    def revoke(self, name: str) -> None:
        """Take a snapshot out of the pool; waits until nobody reads it.

        Raises:
            InputError: this host owns none of this name. ResourceError: somebody reads on.
        """
        with self._open():
            self._revoke(self._directory.own_slot(name))

    def transfer(self, name: str, to: int) -> None:
        """Offer a snapshot to another host, which owns it once it has called `accept`."""
        if not 0 <= to < self.layout.hosts or to == self.host:
            raise ConfigError.of("to", to, f"another host in 0-{self.layout.hosts - 1}")
        with self._open():
            slot = self._directory.own_slot(name)
            self._run(self._ownership.offer(self.layout.slot_at(slot), to))

    def lend_chunk(self, to: int) -> bool:
        """Offer an arena chunk that holds nothing to another host; False if there is none."""
        with self._open():
            for chunk in self._directory.empty_chunks():
                self._run(self._ownership.offer(self.layout.chunk_at(chunk), to))
                return True
        return False

    def accept(self) -> list[str]:
        """Take all slots and arena chunks that are offered to this host; the snapshots' names."""
        with self._open():
            for chunk in range(self.layout.chunks):
                self._run(self._ownership.accept(self.layout.chunk_at(chunk)))
            return [
                entry.name
                for slot, entry in self._directory.entries().items()
                if self._run(self._ownership.accept(self.layout.slot_at(slot)))
            ]

    def recover(self, dead: int, *, fence: bool = False) -> bool:
        """The manager (host 0): take over what a dead host owned; False if it lives.

        Args:
            dead: the host.
            fence: end its process first, if it still runs on this machine.
        """
        with self._open():
            if fence and is_present(str(self.uuid), dead):
                line = self._directory.read(self.layout.host_at(dead))
                kill(_IDENTITY.unpack_from(line, WORD)[0])
            return self._run(self._ownership.fence(dead))

    def names(self) -> list[str]:
        """What is published."""
        with self._open():
            return [
                entry.name for entry in self._directory.entries().values() if entry.is_published
            ]

    def owned_names(self) -> list[str]:
        """What this host published, or took over."""
        with self._open():
            entries = self._directory.entries().values()
            return [
                entry.name
                for entry in entries
                if entry.is_published and entry.word.owner == self.host
            ]

    def free_bytes(self) -> int:
        """Room in this host's chunks."""
        with self._open():
            return sum(extent.size for extent in self._directory.free())

    def facts(self) -> dict[str, object]:
        """Sizes, and what is published by whom."""
        with self._open():
            published = {
                entry.name: {
                    "slot": slot,
                    "epoch": entry.word.epoch,
                    "owner": entry.word.owner,
                    "bytes": entry.extent.size,
                }
                for slot, entry in self._directory.entries().items()
                if entry.is_published
            }
        return {
            "path": self.path,
            "bytes": self.layout.size,
            "hosts": self.layout.hosts,
            "slots": self.layout.slots,
            "view": repr(self._view),
            "free_bytes_here": self.free_bytes(),
            "published": published,
        }

    def close(self) -> None:
        """Leave the pool; leases are released, what this host published stays."""
        with self._lock:
            for lease in [one for leases in self._leases.values() for one in leases]:
                with suppress(ResourceError):
                    lease.release()
            if self._presence is not None:
                self._presence.close()
                self._presence = None
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                del self._view, self._directory, self._segment
                with suppress(BufferError):
                    self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _give_back(self, lease: Lease) -> bool:
        """End one lease; the slot's line is cleared with its last."""
        slot = lease.borrowed.slot
        with self._lock:
            held = self._leases.get(slot, [])
            if lease not in held:
                return False
            held.remove(lease)
            if not held:
                self._run(self._ownership.release(slot))
            return True

    @contextmanager
    def _open(self) -> Generator[None]:
        with self._lock:
            if self._fd < 0:
                raise InputError(f"{self.path} — this end of the pool was closed; attach again.")
            yield

    def _join(self) -> None:
        self._presence = HostPresence(str(self.uuid), self.host)
        identity = _IDENTITY.pack(os.getpid(), time.time_ns())
        self._ownership = self._run(self._ownership.attach(identity))
        self._run(self._ownership.recover())

    def _run(self, program: Program[T]) -> T:
        limit = time.monotonic() + self.deadline_s

        def pause(why: str) -> None:
            if time.monotonic() > limit:
                raise ResourceError(
                    f"{self.path} — waited {self.deadline_s:g} s for {why}; if that host is gone, "
                    "the manager must recover it."
                )
            time.sleep(0.001)

        return run(program, self._view, self._is_dead, pause)

    def _is_dead(self, host: int, generation: int) -> bool:
        if host == self.host:
            return generation < self._ownership.generation
        if not is_present(str(self.uuid), host):
            return True
        return self._directory.generation(host) > generation

    def _heartbeat(self) -> None:
        at = self.layout.host_at(self.host) + 3 * WORD
        self._view.store(at, time.time_ns())
        self._view.write_back(at, WORD)
        self._view.fence()

    def _make_room(
        self,
        size: int,
        old: int | None,
        demand: Demand | None,
        on_evict: Callable[[str, memoryview], object] | None,
    ) -> None:
        """Evict until ``size`` bytes fit once slot ``old``, which they replace, is free."""
        while self._directory.best_fit(_whole_pages(size), old) is None:
            slot = self._directory.victim(demand.worth(size) if demand else None, old)
            if slot is None:
                free = self._directory.free(old)
                raise OutOfPool(
                    f"{size:,} bytes in {self.path} — host {self.host} has "
                    f"{max((f.size for f in free), default=0):,} free in one piece, and nothing "
                    "worth less to evict; revoke a snapshot or borrow an arena chunk."
                )
            if on_evict is not None:
                entry = self._directory.entry(slot)
                on_evict(entry.name, self._view.window(entry.extent.at, entry.extent.size))
            self._revoke(slot)

    def _borrow(self, slot: int) -> Borrowed | None:
        """A lease, or another of one that this process holds if its epoch is still published."""
        if held := self._leases.get(slot):
            entry = self._directory.entry(slot)
            return held[0].borrowed if entry == held[0].borrowed.entry else None
        self._restores[slot] = self._restores.get(slot, 0) + 1
        return self._run(self._ownership.borrow(slot, usage(self._restores[slot])))

    def _lease(self, borrowed: Borrowed) -> Lease:
        extent = borrowed.entry.extent
        held = self._leases.setdefault(borrowed.slot, [])
        try:
            window = self._view.window(extent.at, extent.size)
            lease = Lease(borrowed, window, self._give_back)
        except BaseException:
            if not held:
                self._run(self._ownership.release(borrowed.slot))
            raise
        held.append(lease)
        return lease

    def _revoke(self, slot: int) -> None:
        if self._leases.get(slot):
            raise ResourceError(
                f"slot {slot} of {self.path} — this process borrows it itself; release it first."
            )
        self._run(self._ownership.revoke(slot))

    def _size_now(self) -> int:
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
