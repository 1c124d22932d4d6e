"""A pool of snapshots in CXL memory that hosts share: publish, borrow, revoke, hand over."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from tidemill.errors import ConfigError, InputError, OutOfPool, ResourceError
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.cxl import segment
from tidemill.systems.aquifer.cxl.arena import whole_pages
from tidemill.systems.aquifer.cxl.directory import Directory
from tidemill.systems.aquifer.cxl.host_presence import (
    IDENTITY_BYTES,
    HostPresence,
    identity,
    is_present,
    kill,
)
from tidemill.systems.aquifer.cxl.layout import NAME_BYTES
from tidemill.systems.aquifer.cxl.lease import Demand, Lease, StaleEpoch, Usage
from tidemill.systems.aquifer.cxl.operations import LINE, WORD, Program, run
from tidemill.systems.aquifer.cxl.ownership import Borrowed, Ownership
from tidemill.systems.aquifer.cxl.views import DirectView, IncoherentView

T = TypeVar("T")
_RETRIES = 64


class CxlPool:
    """One host's end of a pool; see `create` and `attach`. Safe to use from several threads."""

    def __init__(self, path: str, fd: int, host: int, view_seed: int | None) -> None:
        self.path, self.host = path, host
        self._fd = fd
        self._writers = threading.Lock()  # one thread at a time changes what is published
        self._lock = threading.RLock()  # and one is at the view, but not while it waits
        self._leases: dict[int, list[Lease]] = {}
        self._usage: dict[int, Usage] = {}
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

        With a slot and room to spare, the older one can be borrowed until the new one can, and
        stays if this process dies meanwhile.

        Args:
            name: 1 to 32 bytes.
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
        with self._changing():
            self._heartbeat()
            self._reclaim()
            old, slot = self._directory.own_slots(name), self._directory.free_slot()
            after = max((self._directory.entry(one).word.epoch for one in old), default=0)
            if old and (slot is None or self._directory.best_fit(whole_pages(len(data))) is None):
                self._make_room(len(data), old, demand, on_evict)
                for one in old:
                    self._run(self._ownership.revoke(one))
                slot, old = old[0], []
            if slot is None:
                raise OutOfPool(
                    f"{name} in {self.path} — host {self.host} has no free slot of the "
                    f"{self.layout.slots}; revoke a snapshot."
                )
            self._make_room(len(data), old, demand, on_evict)
            epoch = self._write(slot, data, name, after)
            for one in old:
                with suppress(ResourceError):  # somebody reads on: `_reclaim` does it later
                    self._run(self._ownership.revoke(one))
        return epoch

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
                    self._wait(0.0005)
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
        with self._changing():
            for slot in self._directory.owned(name):
                self._run(self._ownership.revoke(slot))

    def transfer(self, name: str, to: int) -> None:
        """Offer a snapshot to another host, which owns it once it has called `accept`."""
        if not 0 <= to < self.layout.hosts or to == self.host:
            raise ConfigError.of("to", to, f"another host in 0-{self.layout.hosts - 1}")
        with self._changing():
            newest, *older = self._directory.owned(name)
            for slot in older:
                self._run(self._ownership.revoke(slot))
            self._run(self._ownership.offer(self.layout.slot_at(newest), to))

    def lend_chunk(self, to: int) -> bool:
        """Offer an arena chunk that holds nothing to another host; False if there is none."""
        with self._changing():
            for chunk in self._directory.empty_chunks():
                self._run(self._ownership.offer(self.layout.chunk_at(chunk), to))
                return True
        return False

    def accept(self) -> list[str]:
        """Take all slots and arena chunks that are offered to this host; the snapshots' names."""
        with self._changing():
            self._reclaim()
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
        with self._changing():
            if fence and is_present(str(self.uuid), dead):
                kill(self._directory.read(self.layout.host_at(dead))[WORD:][:IDENTITY_BYTES])
            return self._run(self._ownership.fence(dead))

    def names(self) -> list[str]:
        """What is published."""
        with self._open():
            return sorted({entry.name for entry in self._directory.published().values()})

    def owned_names(self) -> list[str]:
        """What this host published, or took over."""
        with self._open():
            entries = self._directory.published().values()
            return sorted({entry.name for entry in entries if entry.word.owner == self.host})

    def free_bytes(self) -> int:
        """Room in this host's chunks."""
        with self._changing():
            self._reclaim()
            return sum(extent.size for extent in self._directory.free())

    def facts(self) -> dict[str, object]:
        """Sizes, and what is published by whom."""
        with self._open():
            return self._directory.facts() | {"view": repr(self._view)}

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

    @contextmanager
    def _changing(self) -> Generator[None]:
        with self._writers, self._open():
            yield

    def _wait(self, seconds: float) -> None:
        """Let other threads at the view, which may release what is waited for."""
        self._lock.release()
        try:
            time.sleep(seconds)
        finally:
            self._lock.acquire()
        with self._open():
            return

    def _join(self) -> None:
        self._presence = HostPresence(str(self.uuid), self.host)
        with self._changing():
            self._ownership = self._run(self._ownership.attach(identity()))
            self._run(self._ownership.recover())

    def _run(self, program: Program[T], deadline_s: float | None = None) -> T:
        seconds = self.deadline_s if deadline_s is None else deadline_s
        limit = time.monotonic() + seconds

        def pause(why: str) -> None:
            if time.monotonic() > limit:
                raise ResourceError(
                    f"{self.path} — waited {seconds:g} s for {why}; if that host is gone, "
                    "the manager must recover it."
                )
            self._wait(0.001)

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

    def _reclaim(self) -> None:
        """Free what was revoked while it was read and is not any more."""
        for slot in self._directory.revoking():
            with suppress(ResourceError):
                self._run(self._ownership.revoke(slot), deadline_s=0)

    def _write(self, slot: int, data: memoryview, name: str, after: int) -> int:
        extent = self._directory.best_fit(whole_pages(len(data)))
        assert extent is not None, "only this host takes from its chunks"
        try:
            return self._run(self._ownership.publish(slot, extent, data, name, after=after))
        except BaseException:
            self._run(self._ownership.abandon(slot))
            raise

    def _make_room(
        self,
        size: int,
        old: list[int],
        demand: Demand | None,
        on_evict: Callable[[str, memoryview], object] | None,
    ) -> None:
        """Evict until ``size`` bytes fit once slots ``old``, which they replace, are free."""
        while self._directory.best_fit(whole_pages(size), old) is None:
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
            self._run(self._ownership.revoke(slot))

    def _borrow(self, slot: int) -> Borrowed | None:
        """A lease, or another of one that this process holds if its epoch is still published."""
        if held := self._leases.get(slot):
            entry = self._directory.entry(slot)
            return held[0].borrowed if entry == held[0].borrowed.entry else None
        self._usage[slot] = self._usage.get(slot, Usage()).once_more(time.time_ns())
        return self._run(self._ownership.borrow(slot, self._usage[slot].pack()))

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

    def _size_now(self) -> int:
        return os.fstat(self._fd).st_size if self._fd >= 0 else 0
