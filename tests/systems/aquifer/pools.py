"""Snapshots for a pool, and whether a lease is of one."""

from __future__ import annotations

import numpy as np

from tidemill.systems.aquifer import Lease, SnapshotFile
from tidemill.systems.aquifer.aqs.pack import assemble

from .images import image_of, snapshot_of

MIB = 1 << 20


def packed(seed: int, hot_pages: int = 6) -> SnapshotFile:
    """A snapshot of 30 pages, some hot, some cold; other bytes for another seed."""
    nonzero = np.zeros(30, bool)
    nonzero[: hot_pages + 3] = True
    parts = assemble(snapshot_of(image_of(nonzero, seed), b"%d" % seed), [range(hot_pages)])
    return SnapshotFile(memoryview(b"".join(parts)), f"snapshot {seed}")


def is_of(lease: Lease, seed: int, hot_pages: int = 6) -> bool:
    lease.maps.verify()
    return bytes(lease.hot) == bytes(packed(seed, hot_pages).hot)
