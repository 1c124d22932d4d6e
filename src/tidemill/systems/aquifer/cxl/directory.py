"""What one host sees of a pool's slots, arena chunks and leases."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.errors import InputError, OutOfPool, ProtocolError
from tidemill.systems.aquifer.cxl import arena
from tidemill.systems.aquifer.cxl.layout import DirectoryEntry, Extent, Layout, SlotState
from tidemill.systems.aquifer.cxl.lease import Demand
from tidemill.systems.aquifer.cxl.operations import LINE, WORD, View

_USAGE = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory as memory holds it; every look invalidates first.

    Attributes:
        layout: of the segment.
        view: this host's.
        host: which it is.
        name: what errors call the pool.
    """

    layout: Layout
    view: View
    host: int
    name: str

    def read(self, at: int) -> bytes:
        """A line as memory holds it; for lines of others."""
        self.view.invalidate(at, LINE)
        self.view.fence()
        return bytes(self.view.get(at, LINE))

    def entry(self, slot: int) -> DirectoryEntry:
        """One slot's line."""
        return DirectoryEntry.of(self.read(self.layout.slot_at(slot)))

    def generation(self, host: int) -> int:
        """How many processes a host has had."""
        return int.from_bytes(self.read(self.layout.host_at(host))[:WORD], "little")

    def free(self, without: int | None = None) -> list[Extent]:
        """The free ranges of this host's chunks; as if slot ``without`` were free."""
        return arena.free_ranges(self.layout, self.chunks(), self.used(without))

    def best_fit(self, size: int, without: int | None = None) -> Extent | None:
        """Room for ``size`` bytes."""
        return arena.best_fit(self.free(without), size)

    def empty_chunks(self) -> list[int]:
        """This host's chunks that hold nothing."""
        used = list(self.used())
        return [
            chunk
            for chunk in self.chunks()
            if arena.free_ranges(self.layout, [chunk], used) == [self.layout.chunk(chunk)]
        ]

    def entries(self) -> dict[int, DirectoryEntry]:
        """All slots' lines."""
        slots = range(self.layout.slots)
        self.view.invalidate(self.layout.slot_at(0), LINE * len(slots))
        self.view.fence()
        lines = self.view.get(self.layout.slot_at(0), LINE * len(slots))
        return {slot: DirectoryEntry.of(lines[slot * LINE :][:LINE]) for slot in slots}

    def chunks(self) -> list[int]:
        """The arena chunks that this host owns."""
        words = ((c, self.read(self.layout.chunk_at(c))) for c in range(self.layout.chunks))
        entries = ((chunk, DirectoryEntry.of(line).word) for chunk, line in words)
        return [
            chunk
            for chunk, word in entries
            if word.owner == self.host and word.state is SlotState.FREE
        ]

    def used(self, without: int | None = None) -> Iterator[Extent]:
        """What any slot that is not free names."""
        return (
            entry.extent
            for slot, entry in self.entries().items()
            if entry.word.state is not SlotState.FREE and slot != without
        )

    def slot_of(self, name: str) -> int | None:
        """The slot of a name, published or being revoked."""
        found = [s for s, entry in self.entries().items() if entry.name == name]
        return found[0] if found else None

    def own_slot(self, name: str) -> int:
        """The slot of a name that this host published; InputError if there is none."""
        for slot, entry in self.entries().items():
            if entry.name == name and entry.is_published and entry.word.owner == self.host:
                return slot
        raise InputError(f"{name} in {self.name} — host {self.host} has not published it.")

    def slot_for(self, name: str, entries: dict[int, DirectoryEntry]) -> int:
        """Where this host publishes a name; OutOfPool, or ProtocolError if it is another's."""
        free: int | None = None
        for slot, entry in entries.items():
            if entry.name == name and entry.word.state is not SlotState.FREE:
                if entry.word.owner == self.host:
                    return slot
                raise ProtocolError(
                    f"{name} in {self.name} — host {entry.word.owner} owns it; must be published "
                    "there, or handed over first."
                )
            if entry.word.owner == self.host and entry.word.state is SlotState.FREE:
                free = slot if free is None else free
        if free is None:
            raise OutOfPool(
                f"{name} in {self.name} — host {self.host} has no free slot of the "
                f"{self.layout.slots}; revoke a snapshot."
            )
        return free

    def usage(self, slot: int) -> tuple[int, int]:
        """When anybody last borrowed a slot, and how often all did."""
        lines = [self.read(self.layout.lease_at(h, slot)) for h in range(self.layout.hosts)]
        pairs = [_USAGE.unpack_from(line, WORD) for line in lines]
        return max(when for when, _ in pairs), sum(count for _, count in pairs)

    def victim(self, worth: float | None, spared: int | None) -> int | None:
        """The least recently restored snapshot of this host, if its bytes are worth less."""
        found = {
            slot: self.usage(slot)
            for slot, entry in self.entries().items()
            if entry.word.owner == self.host and entry.is_published and slot != spared
        }
        if worth is not None:
            now = time.time_ns()
            found = {
                slot: (last, count)
                for slot, (last, count) in found.items()
                if Demand(count * 1e9 / max(now - last, 10**9)).worth(self.entry(slot).extent.size)
                < worth
            }
        return min(found, key=lambda slot: found[slot], default=None)


def usage(count: int) -> bytes:
    """What a host writes beside a lease: the time, and how often its process took it."""
    return _USAGE.pack(time.time_ns(), count)
