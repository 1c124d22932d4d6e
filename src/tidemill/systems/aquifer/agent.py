"""One host's restorer: publishes packed snapshots into the tiers and clones functions from them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol
from uuid import UUID

from tidemill.errors import InputError, ResourceError
from tidemill.memory import CXL, Link, LinkClock, RemoteExtent, RemoteTier
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.cxl.lease import StaleEpoch
from tidemill.systems.aquifer.restore import Borrow, HotPages, PooledRestore, Restored, RestoreStats
from tidemill.systems.aquifer.snapshot import PAGE


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

    def publish(self, name: str, snapshot_file: SnapshotFile, /) -> int:
        """Put a snapshot's hot part into the pool; its epoch."""
        ...

    def borrow(self, name: str, /) -> AbstractContextManager[PoolLease]:
        """The hot part, ours until the end of the block."""
        ...


_TRIES = 16


class Agent:
    """Publishes and restores; for any number of threads.

    Args:
        pool: the CXL pool of the pod.
        remote: the memory nodes.
        link: what lies between this host and the CXL memory.
        deadline_s: how long a cold page may take before its guest is ended.
    """

    def __init__(
        self, pool: Pool, remote: RemoteTier, *, link: Link = CXL, deadline_s: float = 2.0
    ) -> None:
        self._pool, self._remote = pool, remote
        self._link = LinkClock(link)
        self._deadline_s = deadline_s
        self._known: dict[str, PooledRestore] = {}
        self._last: dict[str, RestoreStats] = {}

    def publish(self, name: str, snapshot_file: SnapshotFile) -> int:
        """Cold pages to the memory nodes, then the hot part to the pool; the epoch.

        Nobody finds the snapshot before all of it is there.

        Raises:
            OutOfPool: a tier is full; ResourceError: a memory node cannot be reached.
        """
        if snapshot_file.header.cold:
            self._remote.publish(key_of(snapshot_file.uuid), snapshot_file.cold)
        return self._pool.publish(name, snapshot_file)

    def restore(self, name: str) -> Restored:
        """A clone of the function, from its newest publication.

        Raises:
            InputError: nobody published it; MissingCapability: no KVM or userfaultfd here.
            ResourceError: no memory node has its cold pages.
        """
        for _ in range(_TRIES):
            known = self._known.get(name) or self._learn(name)
            try:
                return known.restore()
            except StaleEpoch:
                self._known.pop(name, None)
        raise ResourceError(f"{name} was published anew {_TRIES} times while it was restored")

    def invoke(self, name: str, request: bytes) -> bytes:
        """Restore, ask once, give everything back; `stats` tells what it took."""
        with self.restore(name) as restored:
            answer = restored.invoke(request)
            self._last[name] = restored.stats
        return answer

    @property
    def stats(self) -> Mapping[str, RestoreStats]:
        """Of the last invocation of each function."""
        return dict(self._last)

    def _learn(self, name: str) -> PooledRestore:
        with self._pool.borrow(name) as lease:
            maps, uuid = lease.maps, lease.uuid

        extent = self._find(name, maps)
        known = PooledRestore(
            maps,
            lending(self._pool, name, uuid),
            (self._remote, extent),
            link=self._link,
            deadline_s=self._deadline_s,
        )
        self._known[name] = known
        return known

    def _find(self, name: str, maps: SnapshotFile) -> RemoteExtent:
        size = maps.header.cold * PAGE
        if size == 0:
            return RemoteExtent(key_of(maps.uuid), 0, (0,) * len(self._remote.addresses))
        try:
            return self._remote.find(key_of(maps.uuid), size)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error


def lending(pool: Pool, name: str, uuid: UUID) -> Borrow:
    """What borrows one snapshot, and raises `StaleEpoch` once another has its name."""

    @contextmanager
    def borrow() -> Generator[HotPages]:
        with pool.borrow(name) as lease:
            if lease.uuid != uuid:
                raise StaleEpoch(f"{name} — published anew; ask for it again.")
            yield lease

    return borrow


def key_of(uuid: UUID | str | bytes) -> bytes:
    """What a snapshot's cold extent is called on the memory nodes."""
    if isinstance(uuid, bytes):
        return uuid
    return UUID(str(uuid)).bytes
