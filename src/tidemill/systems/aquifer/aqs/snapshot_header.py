r"""The `.aqs` snapshot, version 1: a header, eleven sections, the hot pages, the cold pages.

    0     4   magic "AQS1"                       88   8   first byte of the hot extent
    4     2   version, 1                         96   8   first byte of the cold extent
    6     2   architecture, 1: x86-64            104  8   bytes of the file
    8     4   bytes of a page, 4096              112  .. 11 x {offset, bytes: u64, CRC32C: u32, 0}
    12    4   sections, 11                       4092 4   CRC32C of bytes 0-4091
    16    32  pages of the guest, zero, hot, cold
    48    8   processor features (`cpu_features`)
    56    32  uuid, uuid of the parent or zeros

All numbers are little-endian, extents start on a page, sections on 8 bytes; a section's CRC covers
the zeros up to the next. Pages lie in guest address order, so that a run of hot pages is one copy.
Each run of hot pages and each chunk of 16 cold pages has a CRC of its own. Everything up to the
cold extent is what a CXL pool keeps: it is a snapshot without cold pages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import UUID

import numpy as np

from tidemill import native
from tidemill.errors import ConfigError, CorruptFile
from tidemill.systems.aquifer.snapshot import PAGE, U8

MAGIC, VERSION, ARCH_X86_64 = b"AQS1", 1, 1
CHUNK_PAGES = 16
"""Cold pages that have one checksum and are read at once."""
SECTIONS = (
    *("vmstate", "settings", "layout", "nonzero", "hot", "rank", "hot_runs"),
    *("regions_to_register", "checksums", "hot_zero", "dense"),
)
HEAD = struct.Struct("<4sHHII4QQ16s16s3Q")
ENTRY = struct.Struct("<QQI4x")
MOST_PAGES = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A piece of guest memory: bytes ``offset`` on of the image lie at ``guest_address``."""

    guest_address: int
    size: int
    offset: int


@cache
def crc_kernel() -> Any:
    """``crc32c(bytes, before=0)`` in C++."""
    return native.kernels("aquifer").crc32c


def crc32c(data: memoryview | bytes | U8) -> int:
    """CRC32C of bytes."""
    return crc_kernel()(np.frombuffer(data, np.uint8)) if len(data) else 0


@dataclass(frozen=True, slots=True)
class Header:
    """What the first 4096 bytes say."""

    guest_pages: int
    zero: int
    hot: int
    cold: int
    cpu_features: int
    uuid: UUID
    parent: UUID | None
    hot_offset: int
    cold_offset: int
    file_bytes: int
    sections: dict[str, tuple[int, int, int]] = field(repr=False)

    def pack(self) -> bytes:
        """The header as bytes."""
        parent = self.parent.bytes if self.parent else bytes(16)
        head = HEAD.pack(
            *(MAGIC, VERSION, ARCH_X86_64, PAGE, len(SECTIONS), self.guest_pages, self.zero),
            *(self.hot, self.cold, self.cpu_features, self.uuid.bytes, parent),
            *(self.hot_offset, self.cold_offset, self.file_bytes),
        )
        body = b"".join([head, *(ENTRY.pack(*self.sections[name]) for name in SECTIONS)])
        body = body.ljust(PAGE - 4, b"\0")
        return body + crc32c(body).to_bytes(4, "little")


def parse_header(buffer: memoryview, name: str) -> Header:
    """The header of a snapshot, after its own checks and those of all sections.

    Raises:
        CorruptFile: not an `.aqs` file, of another version, cut short or damaged.
    """
    head = bytes(buffer[:PAGE])
    if len(head) < PAGE or not head.startswith(MAGIC):
        raise corrupt(name, "does not begin as one", f"{MAGIC!r} and a 4096-byte header")
    _, version, arch, page_bytes, count, *numbers = HEAD.unpack_from(head)
    if (version, arch, page_bytes, count) != (VERSION, ARCH_X86_64, PAGE, len(SECTIONS)):
        found = f"version {version}, architecture {arch}, pages of {page_bytes} bytes"
        allowed = f"version {VERSION}, architecture {ARCH_X86_64} (x86-64), {PAGE}"
        raise corrupt(name, found, allowed, "read it with the tidemill that wrote it.")
    if crc32c(head[: PAGE - 4]) != int.from_bytes(head[PAGE - 4 :], "little"):
        raise corrupt(name, "its header is damaged", "a header with a matching CRC32C")
    *counts, features, uuid, parent, hot_offset, cold_offset, file_bytes = numbers
    entries = [ENTRY.unpack_from(head, HEAD.size + i * ENTRY.size) for i in range(len(SECTIONS))]
    guest_pages, zero, hot, cold = counts
    header = Header(
        *(guest_pages, zero, hot, cold),
        cpu_features=features,
        uuid=UUID(bytes=uuid),
        parent=UUID(bytes=parent) if any(parent) else None,
        hot_offset=hot_offset,
        cold_offset=cold_offset,
        file_bytes=file_bytes,
        sections=dict(zip(SECTIONS, entries, strict=True)),
    )
    _check_places(header, buffer, name)
    return header


def _check_places(header: Header, buffer: memoryview, name: str) -> None:
    pages = header.guest_pages
    fits = (
        0 < pages <= MOST_PAGES
        and header.zero + header.hot + header.cold == pages
        and header.hot_offset % PAGE == 0
        and header.cold_offset == header.hot_offset + header.hot * PAGE
        and header.file_bytes == header.cold_offset + header.cold * PAGE
        and header.cold_offset <= len(buffer)
    )
    if not fits:
        raise corrupt(
            name, f"{len(buffer)} bytes with extents that do not fit", f"{header.file_bytes} bytes"
        )
    entries = list(header.sections.values())
    ends = [offset for offset, _, _ in entries[1:]] + [header.hot_offset]
    at = PAGE
    for (offset, length, crc), end, section in zip(entries, ends, SECTIONS, strict=True):
        if offset != at or end % 8 or not offset + length <= end <= header.hot_offset:
            raise corrupt(name, f"section {section} lies out of order", "one after another")
        if crc32c(buffer[offset:end]) != crc:
            raise corrupt(name, f"section {section} is damaged", "a matching CRC32C")
        at = end


def check_regions(regions: tuple[MemoryRegion, ...], image_bytes: int) -> None:
    """Return if the regions are whole pages, apart, and the image from its first byte to its last.

    Raises:
        ConfigError: they are not.
    """
    allowed = f"whole pages, apart, in order, {image_bytes} bytes together"
    at = offset = 0
    for region in regions:
        aligned = region.guest_address % PAGE == 0 and region.size % PAGE == 0
        if not aligned or region.size <= 0 or region.guest_address < at or region.offset != offset:
            raise ConfigError.of("regions", region, allowed, "they are the guest's whole memory")
        at, offset = region.guest_address + region.size, offset + region.size
    if offset != image_bytes or at > 1 << 52:
        raise ConfigError.of("regions", f"{offset} bytes", allowed)


def corrupt(
    name: str, found: str, allowed: str, todo: str = "pack or copy the snapshot again."
) -> CorruptFile:
    """The error for a file that is not a whole `.aqs` file."""
    return CorruptFile(f"{name} as an .aqs snapshot — {found}; must be {allowed}; {todo}")
