"""A microVM at its ready point, without the pages that are zero."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.systems.aquifer.config import GuestLimits

U8 = NDArray[np.uint8]
PAGE = 4096
"""Bytes of a page."""


@dataclass(frozen=True, slots=True)
class GuestRegion:
    """A guest's physical memory in this process, for whoever fills it.

    Attributes:
        address: host address of the first byte.
        size: in bytes, whole pages.
        view: the bytes themselves; keeps the mapping alive.
    """

    address: int
    size: int
    view: U8 = field(repr=False)

    @classmethod
    def of(cls, memory: Any) -> GuestRegion:
        """The region of a native guest memory."""
        return cls(memory.address, memory.size, memory.view())


@dataclass(frozen=True, slots=True)
class MachineState:
    """What a clone needs besides its pages.

    Attributes:
        state: processor and monitor tables, as in `Snapshot`.
        memory_bytes: size of the guest's memory.
        roots: canonical paths that a clone may read unless told otherwise.
        limits: what a clone may use unless told otherwise.
    """

    state: bytes = field(repr=False)
    memory_bytes: int
    roots: tuple[str, ...]
    limits: GuestLimits


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that a clone needs; a value, to be restored any number of times.

    Attributes:
        state: processor and monitor tables (descriptors, heap, mappings, clocks), checksummed.
        nonzero: (pages,) one for a page that holds anything, zero for the rest.
        pages: (count of ones, 4096) those pages in address order.
        roots: canonical paths that a clone may read unless told otherwise.
        limits: what a clone may use unless told otherwise.
    """

    state: bytes = field(repr=False)
    nonzero: U8 = field(repr=False)
    pages: U8 = field(repr=False)
    roots: tuple[str, ...]
    limits: GuestLimits

    @property
    def memory_bytes(self) -> int:
        """Size of the guest's memory."""
        return self.nonzero.size * PAGE

    @property
    def machine(self) -> MachineState:
        """All of it but the pages."""
        return MachineState(self.state, self.memory_bytes, self.roots, self.limits)

    @property
    def zero_share(self) -> float:
        """Share of the guest's pages that are zero."""
        return 1 - len(self.pages) / self.nonzero.size

    def fill(self, region: GuestRegion) -> None:
        """Copy the pages into a region that is zero."""
        region.view.reshape(-1, PAGE)[self.nonzero.astype(bool)] = self.pages

    def page(self, index: int) -> U8:
        """The 4096 bytes of one page of the guest; O(index)."""
        if not self.nonzero[index]:
            return np.zeros(PAGE, np.uint8)
        return self.pages[int(np.count_nonzero(self.nonzero[:index]))]

    def write_memory(self, path: str | Path) -> None:
        """Write the memory as one sparse file, as Firecracker does, for `MicroVM.restore`."""
        edges = np.flatnonzero(np.diff(self.nonzero, prepend=0, append=0))
        done = 0
        with Path(path).open("wb") as file:
            for start, end in edges.reshape(-1, 2).tolist():
                file.seek(start * PAGE)
                file.write(self.pages[done : done + end - start].data)
                done += end - start
            file.truncate(self.memory_bytes)
            file.flush()
            os.fsync(file.fileno())
