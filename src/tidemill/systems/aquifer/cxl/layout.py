"""Where everything lies in a CXL segment, and the two words that decide who may do what.

    superblock       1 line    written once
    hosts            1 line each     generation, heartbeat, pid and start of its process
    fences           1 line each     written by the manager: generation << 8 | phase
    directory        1 line a slot   word; offset, bytes, checksum of the extent; name
    arena chunks     1 line each     word
    leases           1 line a host and slot     generation << 40 | epoch; when; how often
    extents          whole pages

Each line has one writer at any time: a host's and its leases' the host, a slot's and a chunk's
the owner that its word names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from tidemill.errors import ConfigError
from tidemill.systems.aquifer.aqs.snapshot_header import crc32c
from tidemill.systems.aquifer.cxl.operations import LINE, WORD
from tidemill.systems.aquifer.snapshot import PAGE

CHUNKS_PER_HOST = 8
NAME_BYTES = 32
MOST_EPOCH, MOST_GENERATION = (1 << 40) - 1, (1 << 24) - 1
_ENTRY = struct.Struct("<QQQQ32s")


class SlotState(IntEnum):
    """What the owner of a slot is doing with it."""

    FREE = 0
    WRITING = 1
    PUBLISHED = 2
    REVOKING = 3
    OFFERED = 4


class FencePhase(IntEnum):
    """How far the manager is with a dead host's slots."""

    NONE = 0
    TAKING = 1
    TAKEN = 2
    ABORTED = 3


@dataclass(frozen=True, slots=True)
class OwnerWord:
    """The 8 bytes that say who may write a line: epoch:40, owner:16, state:8."""

    epoch: int
    owner: int
    state: SlotState

    @property
    def value(self) -> int:
        """The word."""
        return self.epoch << 24 | self.owner << 8 | self.state

    @classmethod
    def of(cls, value: int) -> OwnerWord:
        """The parts of a word; a state that no version writes reads as WRITING, so unreadable."""
        state = value & 0xFF
        known = SlotState(state) if state <= SlotState.OFFERED else SlotState.WRITING
        return cls(value >> 24, value >> 8 & 0xFFFF, known)


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the segment, whole pages."""

    at: int
    size: int


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One directory line.

    Attributes:
        word: who may write it, and what they do.
        extent: the bytes that it names.
        name: of what is published.
        is_whole: whether its parts belong together; else somebody was writing it.
    """

    word: OwnerWord
    extent: Extent = Extent(0, 0)
    name: str = ""
    is_whole: bool = True

    def pack(self) -> bytes:
        """The line as bytes."""
        name = self.name.encode().ljust(NAME_BYTES, b"\0")
        place = self.extent.at, self.extent.size
        return _ENTRY.pack(self.word.value, *place, self._checksum(name), name)

    def _checksum(self, name: bytes) -> int:
        return crc32c(struct.pack("<QQQ", self.word.epoch, self.extent.at, self.extent.size) + name)

    @classmethod
    def of(cls, line: bytes | memoryview) -> DirectoryEntry:
        """What a line says."""
        value, at, size, checksum, name = _ENTRY.unpack(bytes(line))
        text = name.rstrip(b"\0").decode(errors="replace")
        found = cls(OwnerWord.of(value), Extent(at, size), text)
        return found if found._checksum(name) == checksum else replace(found, is_whole=False)

    @property
    def is_published(self) -> bool:
        """Whether it can be borrowed."""
        is_named = self.is_whole and self.extent.size > 0
        return is_named and self.word.state is SlotState.PUBLISHED


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a segment; offsets follow from them.

    Attributes:
        hosts: places for hosts, 1 to 64.
        slots: places for snapshots.
        chunk_bytes: of each of the 8 arena chunks of a host, whole pages.
    """

    hosts: int
    slots: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= 64:
            raise ConfigError.of("hosts", self.hosts, "in 1-64", "places in the host table")
        if not 1 <= self.slots <= 4096:
            raise ConfigError.of("slots", self.slots, "in 1-4096", "places in the directory")
        if self.chunk_bytes <= 0 or self.chunk_bytes % PAGE:
            raise ConfigError.of("chunk_bytes", self.chunk_bytes, "whole pages")

    @classmethod
    def fitting(cls, size: int, hosts: int, slots: int) -> Layout:
        """The largest segment of at most ``size`` bytes.

        Raises:
            ConfigError: not even a page for each chunk fits.
        """
        least = cls(hosts, slots, PAGE)
        chunk = (size - least.arena_at) // least.chunks // PAGE * PAGE
        if chunk < PAGE:
            raise ConfigError.of("size", size, f"at least {least.size}", "a page in each chunk")
        return cls(hosts, slots, chunk)

    @property
    def chunks(self) -> int:
        """Arena chunks of all hosts."""
        return self.hosts * CHUNKS_PER_HOST

    def host_at(self, host: int) -> int:
        """A host's own line."""
        return (1 + host) * LINE

    def fence_at(self, host: int) -> int:
        """What the manager says of a host."""
        return (1 + self.hosts + host) * LINE

    def slot_at(self, slot: int) -> int:
        """A slot's directory line."""
        return (1 + 2 * self.hosts + slot) * LINE

    def chunk_at(self, chunk: int) -> int:
        """An arena chunk's line."""
        return (1 + 2 * self.hosts + self.slots + chunk) * LINE

    def lease_at(self, host: int, slot: int) -> int:
        """A host's lease of a slot."""
        before = 1 + 2 * self.hosts + self.slots + self.chunks
        return (before + host * self.slots + slot) * LINE

    @property
    def arena_at(self) -> int:
        """The first chunk's first byte."""
        return -(-self.lease_at(self.hosts, 0) // PAGE) * PAGE

    def chunk(self, chunk: int) -> Extent:
        """The bytes of a chunk."""
        return Extent(self.arena_at + chunk * self.chunk_bytes, self.chunk_bytes)

    @property
    def size(self) -> int:
        """Bytes of the segment."""
        return self.arena_at + self.chunks * self.chunk_bytes

    def first_lines(self) -> dict[int, bytes]:
        """The lines that are not zero when a segment is made: who owns what."""
        lines = {
            self.slot_at(slot): DirectoryEntry(OwnerWord(0, slot % self.hosts, SlotState.FREE))
            for slot in range(self.slots)
        } | {
            self.chunk_at(chunk): DirectoryEntry(
                OwnerWord(0, chunk // CHUNKS_PER_HOST, SlotState.FREE)
            )
            for chunk in range(self.chunks)
        }
        return {at: entry.pack() for at, entry in lines.items()}


def lease_word(generation: int, epoch: int) -> int:
    """The word of a lease that is held."""
    return generation << 40 | epoch


assert _ENTRY.size == LINE == 8 * WORD, "a directory entry is one line"
