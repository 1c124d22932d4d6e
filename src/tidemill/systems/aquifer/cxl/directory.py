"""What one host sees of a pool's slots, arena chunks and leases."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

from tidemill.errors import InputError, ProtocolError
from tidemill.systems.aquifer.cxl import arena
from tidemill.systems.aquifer.cxl.layout import DirectoryEntry, Extent, Layout, SlotState
from tidemill.systems.aquifer.cxl.lease import Demand, Usage
from tidemill.systems.aquifer.cxl.operations import LINE, WORD, View


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

    def free(self, without: Collection[int] = ()) -> list[Extent]:
        """The free ranges of this host's chunks; as if slots ``without`` were, too."""
        return arena.free_ranges(self.layout, self.chunks(), self.used(without))

    def best_fit(self, size: int, without: Collection[int] = ()) -> Extent | None:
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

    def used(self, without: Collection[int] = ()) -> Iterator[Extent]:
        """What any slot that is not free names."""
        return (
            entry.extent
            for slot, entry in self.entries().items()
            if entry.word.state is not SlotState.FREE and slot not in without
        )

    def published(self) -> dict[int, DirectoryEntry]:
        """The slots that can be borrowed."""
        return {slot: entry for slot, entry in self.entries().items() if entry.is_published}

    def slot_of(self, name: str) -> int | None:
        """The slot of a name's newest publication; else one that has just been, or will be."""
        found = {slot: entry for slot, entry in self.entries().items() if entry.name == name}
        return max(
            found,
            key=lambda slot: (found[slot].is_published, found[slot].word.epoch, -slot),
            default=None,
        )

    def own_slots(self, name: str) -> list[int]:
        """This host's slots of a name, the newest first.

        Raises:
            ProtocolError: another host owns the name.
        """
        found = {
            slot: entry
            for slot, entry in self.entries().items()
            if entry.name == name and entry.word.state is not SlotState.FREE
        }
        for entry in found.values():
            if entry.word.owner != self.host:
                raise ProtocolError(
                    f"{name} in {self.name} — host {entry.word.owner} owns it; must be published "
                    "there, or handed over first."
                )
        return sorted(found, key=lambda slot: -found[slot].word.epoch)

    def owned(self, name: str) -> list[int]:
        """The same; InputError if this host has not published the name."""
        if found := self.own_slots(name):
            return found
        raise InputError(f"{name} in {self.name} — host {self.host} has not published it.")

    def facts(self) -> dict[str, object]:
        """Sizes, and what is published by whom."""
        return {
            "path": self.name,
            "bytes": self.layout.size,
            "hosts": self.layout.hosts,
            "slots": self.layout.slots,
            "free_bytes_here": sum(extent.size for extent in self.free()),
            "published": {
                f"{entry.name}, slot {slot}": asdict(entry.word) | {"bytes": entry.extent.size}
                for slot, entry in self.published().items()
            },
        }

    def revoking(self) -> list[int]:
        """This host's slots that somebody still read when they were revoked."""
        return [
            slot
            for slot, entry in self.entries().items()
            if entry.word.owner == self.host and entry.word.state is SlotState.REVOKING
        ]

    def free_slot(self) -> int | None:
        """A slot of this host for something new."""
        for slot, entry in self.entries().items():
            if entry.word.owner == self.host and entry.word.state is SlotState.FREE:
                return slot
        return None

    def usage(self, slot: int) -> tuple[int, float]:
        """When anybody last borrowed a slot, and how often all do, per second."""
        lines = [self.read(self.layout.lease_at(h, slot)) for h in range(self.layout.hosts)]
        usages = [Usage.of(line[WORD:]) for line in lines]
        now = time.time_ns()
        return max(one.last_ns for one in usages), sum(one.rate_at(now) for one in usages)

    def victim(self, worth: float | None, spared: Collection[int]) -> int | None:
        """The least recently restored snapshot of this host, if its bytes are worth less."""
        found = {
            slot: (*self.usage(slot), entry.extent.size)
            for slot, entry in self.published().items()
            if entry.word.owner == self.host and slot not in spared
        }
        if worth is not None:
            found = {
                slot: (last, rate, size)
                for slot, (last, rate, size) in found.items()
                if Demand(rate).worth(size) < worth
            }
        return min(found, key=lambda slot: found[slot], default=None)
