"""A pool in one process, until a test needs the real one."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from tidemill.errors import InputError
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile


@dataclass(frozen=True)
class LocalLease:
    hot: memoryview
    maps: SnapshotFile
    epoch: int

    @property
    def uuid(self) -> UUID:
        return self.maps.uuid


class LocalPool:
    """Publishes by name; counts leases and those that are out."""

    def __init__(self) -> None:
        self.published: dict[str, LocalLease] = {}
        self.borrowed = self.out = 0

    def publish(self, name: str, snapshot_file: SnapshotFile, *, on_evict: object = None) -> int:
        before = self.published.get(name)
        epoch = before.epoch + 1 if before else 1
        self.published[name] = LocalLease(
            memoryview(bytes(snapshot_file.hot)), snapshot_file, epoch
        )
        return epoch

    @contextmanager
    def borrow(self, name: str) -> Generator[LocalLease]:
        if name not in self.published:
            raise InputError(f"{name} is not published")
        self.borrowed += 1
        self.out += 1
        try:
            yield self.published[name]
        finally:
            self.out -= 1
