"""One host's restorer: publishes packed snapshots into the tiers and clones functions from them."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import UUID

from tidemill.errors import CorruptFile, InputError, ResourceError
from tidemill.memory import CXL, Link, LinkClock, RemoteHold, RemoteTier
from tidemill.systems.aquifer.aqs.pack import pack
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.cxl.lease import StaleEpoch
from tidemill.systems.aquifer.recording import record
from tidemill.systems.aquifer.restore import Borrow, HotPages, PooledRestore, Restored, RestoreStats
from tidemill.systems.aquifer.snapshot import PAGE

_TRIES = 16
_NO_EXTENT = RemoteHold(bytes(16), [])
PROFILE_RESTORES = 8
"""Invocations over which cold bytes are counted before a function is recorded anew."""
PROFILE_SHARE = 0.05
"""Cold bytes read, of the hot bytes, that make it worth it."""


class PoolLease(HotPages, Protocol):
    """What the CXL pool lends: hot pages, and the maps that belong to them."""

    @property
    def maps(self) -> SnapshotFile:
        """Classes, runs and state of the snapshot; only what it holds itself outlives the lease."""
        ...

    @property
    def uuid(self) -> UUID:
        """Of the snapshot."""
        ...


class Pool(Protocol):
    """What an agent needs of the CXL pool."""

    def publish(
        self,
        name: str,
        snapshot_file: SnapshotFile,
        /,
        *,
        on_evict: Callable[[str, memoryview], object] | None = None,
    ) -> int:
        """Put a snapshot's hot part into the pool; its epoch. Tells what it evicts for it."""
        ...

    def borrow(self, name: str, /) -> AbstractContextManager[PoolLease]:
        """The hot part, ours until the end of the block."""
        ...


class Agent:
    """Publishes and restores; for any number of threads.

    Args:
        pool: the CXL pool of the pod.
        remote: the memory nodes.
        link: what lies between this host and the CXL memory.
        trickles: whether clones are given their cold pages in the background as well.
        deadline_s: how long a cold page may take before its guest is ended.
    """

    def __init__(
        self,
        pool: Pool,
        remote: RemoteTier,
        *,
        link: Link = CXL,
        trickles: bool = False,
        deadline_s: float = 2.0,
    ) -> None:
        self._pool, self._remote = pool, remote
        self._link = LinkClock(link)
        self._trickles, self._deadline_s = trickles, deadline_s
        self._known: dict[str, PooledRestore] = {}
        self._last: dict[str, RestoreStats] = {}
        self._missed: dict[str, deque[float]] = {}

    def publish(self, name: str, snapshot_file: SnapshotFile) -> int:
        """Cold pages to the memory nodes, then the hot part to the pool; the epoch.

        Nobody finds the snapshot before all of it is there. What the pool evicts for it goes to
        the memory nodes whole and can still be restored, more slowly. Cold pages of what it
        replaces are given back once no clone needs them.

        Raises:
            OutOfPool: a tier is full; ResourceError: a memory node cannot be reached.
        """
        before: UUID | None = None
        with suppress(InputError), self._pool.borrow(name) as lease:
            before = lease.uuid
        if snapshot_file.header.cold:
            self._remote.publish(key_of(snapshot_file.uuid), snapshot_file.cold)
        epoch = self._pool.publish(name, snapshot_file, on_evict=self._keep_evicted)
        self._missed.pop(name, None)
        self._remote.free(evicted_key(name))
        if before is not None and before != snapshot_file.uuid:
            self._remote.free(key_of(before))
        return epoch

    def _keep_evicted(self, name: str, pooled: memoryview) -> None:
        key = evicted_key(name)
        self._remote.free(key)  # a key names one content
        self._remote.publish(key, pooled)

    def restore(self, name: str) -> Restored:
        """A clone of the function, from its newest publication.

        Raises:
            InputError: nobody published it; MissingCapability: no KVM or userfaultfd here.
            ResourceError: no memory node has its cold pages.
        """
        for _ in range(_TRIES):
            try:
                known = self._known.get(name) or self._learn(name)
                return known.restore()
            except StaleEpoch:
                self._known.pop(name, None)
        raise ResourceError(f"{name} was published anew {_TRIES} times while it was restored")

    def invoke(self, name: str, request: bytes) -> bytes:
        """Restore, ask once, give everything back; `stats` tells what it took."""
        with self.restore(name) as restored:
            answer = restored.invoke(request)
            stats = restored.stats
        self._last[name] = stats
        missed = self._missed.setdefault(name, deque(maxlen=PROFILE_RESTORES))
        missed.append(stats.remote_bytes / max(stats.hot_bytes, PAGE))
        return answer

    @property
    def stats(self) -> Mapping[str, RestoreStats]:
        """Of the last invocation of each function."""
        return dict(self._last)

    def outdated(self) -> list[str]:
        """Functions whose last invocations touched so many cold pages that `reprofile` pays."""
        return [
            name
            for name, missed in self._missed.items()
            if len(missed) == PROFILE_RESTORES and sum(missed) / len(missed) > PROFILE_SHARE
        ]

    def reprofile(self, name: str, requests: Sequence[bytes], *, hot_threshold: float = 0.5) -> int:
        """Record a published function anew and publish what is hot now; the epoch.

        Raises:
            InputError: it is not published; ProtocolError: another host owns it.
        """
        snapshot = self.fetch(name).snapshot()
        touched = [one.pages.tolist() for one in record(snapshot, requests)]
        with tempfile.TemporaryDirectory(prefix="tidemill-aquifer-") as folder:
            path = pack(snapshot, touched, Path(folder) / "packed.aqs", hot_threshold)
            with SnapshotFile.open(path) as packed:
                return self.publish(name, packed)

    def fetch(self, name: str) -> SnapshotFile:
        """A published snapshot whole, out of both tiers, checked.

        Raises:
            InputError: it is not published. CorruptFile: a tier gives other bytes.
        """
        try:
            with self._pool.borrow(name) as lease:
                pooled, uuid = bytes(lease.maps.pooled), lease.uuid
        except CorruptFile:
            raise
        except InputError:
            pooled = self._evicted(name)
            uuid = SnapshotFile(memoryview(pooled), name).uuid
        hold = self._hold(uuid, SnapshotFile(memoryview(pooled), name).header.cold)
        cold = self._remote.read(hold.extent(), 0, hold.size) if hold.size else b""
        found = SnapshotFile(memoryview(pooled + bytes(cold)), name)
        found.verify()
        return found

    def _learn(self, name: str) -> PooledRestore:
        try:
            with self._pool.borrow(name) as lease:
                maps, uuid = lease.maps, lease.uuid
        except CorruptFile:
            raise
        except InputError as error:
            return self._learn_evicted(name, error)
        try:
            known = self._restore_of(maps, lending(self._pool, name, uuid))
        except ResourceError:
            with self._pool.borrow(name) as lease:
                if lease.uuid == uuid:
                    raise
            raise StaleEpoch(f"{name} — published anew; ask for it again.") from None
        self._known[name] = known
        return known

    def _learn_evicted(self, name: str, missing: InputError) -> PooledRestore:
        """Never kept: each restore looks into the pool first."""
        try:
            pooled = self._evicted(name)
        except InputError:
            raise missing from None
        maps = SnapshotFile(memoryview(pooled), f"{name}, evicted")
        maps.verify()

        @contextmanager
        def borrow() -> Generator[HotPages]:
            yield maps

        return self._restore_of(maps, borrow)

    def _restore_of(self, maps: SnapshotFile, borrow: Borrow) -> PooledRestore:
        hold = self._hold(maps.uuid, maps.header.cold)
        return PooledRestore(
            maps,
            borrow,
            (self._remote, hold.extent(maps.header.cold * PAGE)),
            hold=hold,
            link=self._link,
            trickles=self._trickles,
            deadline_s=self._deadline_s,
        )

    def _hold(self, uuid: UUID, cold_pages: int) -> RemoteHold:
        return self._remote.hold(key_of(uuid)) if cold_pages else _NO_EXTENT

    def _evicted(self, name: str) -> bytes:
        try:
            hold = self._remote.hold(evicted_key(name))
        except ResourceError as error:
            raise InputError(f"{name} — not published, and not evicted.") from error
        return bytes(self._remote.read(hold.extent(), 0, hold.size))


def lending(pool: Pool, name: str, uuid: UUID) -> Borrow:
    """What borrows one snapshot, and raises `StaleEpoch` once another has its name."""

    @contextmanager
    def borrow() -> Generator[HotPages]:
        with ExitStack() as stack:
            try:
                lease = stack.enter_context(pool.borrow(name))
            except CorruptFile:
                raise
            except InputError as error:
                raise StaleEpoch(f"{name} — evicted or revoked; ask for it again.") from error
            if lease.uuid != uuid:
                raise StaleEpoch(f"{name} — published anew; ask for it again.")
            yield lease

    return borrow


def evicted_key(name: str) -> bytes:
    """What the hot part of an evicted snapshot is called on the memory nodes."""
    return hashlib.blake2b(f"evicted from CXL: {name}".encode(), digest_size=16).digest()


def key_of(uuid: UUID | str | bytes) -> bytes:
    """What a snapshot's cold extent is called on the memory nodes."""
    if isinstance(uuid, bytes):
        return uuid
    return UUID(str(uuid)).bytes
