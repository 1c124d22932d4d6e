"""A packed snapshot, mapped and checked: pages by class and slot, runs, regions, state."""

from __future__ import annotations

import json
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.systems.aquifer.aqs.page_classes import (
    BLOCK_PAGES,
    Bools,
    PageClass,
    PageClasses,
    in_blocks,
    rank_directory,
    words_of,
)
from tidemill.systems.aquifer.aqs.snapshot_header import (
    CHUNK_PAGES,
    MemoryRegion,
    check_regions,
    corrupt,
    crc32c,
    parse_header,
)
from tidemill.systems.aquifer.config import GuestLimits
from tidemill.systems.aquifer.snapshot import PAGE, Snapshot


class SnapshotFile:
    """A packed snapshot, mapped read-only and checked when opened.

    Args:
        buffer: the file's bytes, or those before its cold extent.
        name: what errors call it.
        closing: what `close` closes.
    """

    def __init__(self, buffer: memoryview, name: str, closing: mmap.mmap | None = None) -> None:
        self.name = name
        self._buffer, self._closing = buffer, closing
        self.header = parse_header(buffer, name)
        head = self.header
        self.has_cold = len(buffer) != head.cold_offset or head.cold == 0
        if len(buffer) not in (head.file_bytes, head.cold_offset):
            raise corrupt(name, f"{len(buffer)} bytes long", f"{head.file_bytes} bytes")
        self.vmstate = bytes(self._section("vmstate"))
        self.roots, self.limits, self.vmm = self._settings()
        self.regions = self._layout()
        self.classes = self._classes()
        self.hot_runs = self._derived("hot_runs", self.classes.hot_runs())
        self.regions_to_register = self._derived(
            "regions_to_register", self.classes.regions_to_register()
        )
        chunks = -(-head.cold // CHUNK_PAGES)
        self._checksums = self._array("checksums", "<u4", len(self.hot_runs) + chunks)
        self.hot_zero = self._ascending("hot_zero", head.guest_pages)
        self.dense = self._ascending("dense", head.guest_pages // BLOCK_PAGES)
        if (self.is_dense & self.classes.truths()[0] & ~self.classes.truths()[1]).any():
            raise corrupt(name, "a dense block with cold pages", "hot pages and zero pages")

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> SnapshotFile:
        """Map and check a file; ``verify`` reads all its pages, else `page` and `verify` do later.

        Raises:
            InputError: it cannot be opened.
            CorruptFile: not an `.aqs` file, of another version, cut short, damaged, or at odds
                with itself.
        """
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < PAGE:
                    raise corrupt(str(path), f"{size} bytes long", "a 4096-byte header and more")
                mapping = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(
                f"{path} — {error.strerror}; must be a readable .aqs file; `tidemill aquifer "
                "pack` writes one."
            ) from error
        try:
            opened = cls(memoryview(mapping), str(path), mapping)
            if not opened.has_cold:
                raise corrupt(opened.name, "without its cold extent", "the whole file")
            if verify:
                opened.verify()
        except InputError:
            with suppress(BufferError):
                mapping.close()
            raise
        return opened

    guest_pages = property(lambda self: self.header.guest_pages, doc="Pages of the guest.")
    uuid = property(lambda self: self.header.uuid, doc="Made anew by each `pack`.")
    parent = property(lambda self: self.header.parent, doc="The uuid that a diff was taken over.")
    cpu_features = property(lambda self: self.header.cpu_features, doc="See `cpu_features`.")

    @property
    def is_dense(self) -> Bools:
        """(guest_pages,) whether a page lies in a block that a restore gives a huge page."""
        return in_blocks(self.dense, self.guest_pages)

    @property
    def hot(self) -> memoryview:
        """The hot pages, slot after slot."""
        return self._buffer[self.header.hot_offset :][: self.header.hot * PAGE]

    @property
    def cold(self) -> memoryview:
        """The cold pages, slot after slot.

        Raises:
            InputError: this is the part of a snapshot that a CXL pool keeps.
        """
        if not self.has_cold:
            raise InputError(f"{self.name} — its cold pages are elsewhere; read them from there.")
        return self._buffer[self.header.cold_offset :][: self.header.cold * PAGE]

    @property
    def pooled(self) -> memoryview:
        """Header, sections and hot pages: what a CXL pool keeps."""
        return self._buffer[: self.header.cold_offset]

    def class_of(self, page: int) -> PageClass:
        """The class of a page."""
        return self.classes.class_of(page)

    def slot_of(self, page: int) -> int:
        """Where a page lies in the extent of its class, in pages."""
        return self.classes.slot_of(page)

    def page(self, page: int) -> bytes:
        """The bytes of a guest page, checked; costs the checksum of its run or chunk.

        Raises:
            CorruptFile: they are not those that were packed.
        """
        kind = self.class_of(page)
        if kind == "zero":
            return bytes(PAGE)
        slot = self.slot_of(page)
        if kind == "cold":
            within = slot % CHUNK_PAGES
            return bytes(self.cold_chunk(slot // CHUNK_PAGES)[within * PAGE :][:PAGE])
        run = int(np.searchsorted(self.hot_runs[:, 2], slot, side="right")) - 1
        return bytes(self.hot_run(run)[(slot - int(self.hot_runs[run, 2])) * PAGE :][:PAGE])

    def hot_run(self, run: int) -> memoryview:
        """The pages of one run of `hot_runs`, checked."""
        _, pages, slot = (int(n) for n in self.hot_runs[run])
        found = self.hot[slot * PAGE :][: pages * PAGE]
        return self._checked(found, run, f"hot run {run}")

    def cold_chunk(self, chunk: int) -> memoryview:
        """The (up to) 16 pages of one chunk of the cold extent, checked."""
        found = self.cold[chunk * CHUNK_PAGES * PAGE :][: CHUNK_PAGES * PAGE]
        return self._checked(found, len(self.hot_runs) + chunk, f"cold chunk {chunk}")

    @property
    def cold_checksums(self) -> NDArray[np.uint32]:
        """(chunks,) CRC32C of each chunk of the cold extent."""
        return self._checksums[len(self.hot_runs) :]

    def verify(self) -> None:
        """Compare every checksum of the pages that are here.

        Raises:
            CorruptFile: one differs.
        """
        for run in range(len(self.hot_runs)):
            self.hot_run(run)
        if self.has_cold:
            for chunk in range(len(self.cold_checksums)):
                self.cold_chunk(chunk)

    def snapshot(self) -> Snapshot:
        """The snapshot that was packed, its pages in memory."""
        nonzero, hot = self.classes.truths()
        is_hot = hot[nonzero]
        pages = np.empty((is_hot.size, PAGE), np.uint8)
        pages[is_hot] = np.frombuffer(self.hot, np.uint8).reshape(-1, PAGE)
        pages[~is_hot] = np.frombuffer(self.cold, np.uint8).reshape(-1, PAGE)
        return Snapshot(self.vmstate, nonzero.astype(np.uint8), pages, self.roots, self.limits)

    def close(self) -> None:
        """Unmap the file; views of its pages that are still held keep the mapping alive."""
        self._buffer = memoryview(b"")
        if self._closing is not None:
            with suppress(BufferError):
                self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, found: memoryview, index: int, what: str) -> memoryview:
        if crc32c(found) != int(self._checksums[index]):
            raise corrupt(self.name, f"{what} is damaged", "pages with a matching CRC32C")
        return found

    def _section(self, name: str) -> memoryview:
        offset, length, _ = self.header.sections[name]
        return self._buffer[offset : offset + length]

    def _array(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        found = self._section(name)
        if len(found) != count * np.dtype(dtype).itemsize:
            raise corrupt(self.name, f"section {name} has {len(found)} bytes", f"{count} entries")
        return np.frombuffer(bytes(found), dtype)

    def _derived(self, name: str, expected: NDArray[np.uint64]) -> NDArray[np.uint64]:
        found = self._array(name, "<u8", expected.size).reshape(expected.shape)
        if not np.array_equal(found, expected):
            raise corrupt(self.name, f"section {name} is at odds with the bitmaps", "what they say")
        return found

    def _classes(self) -> PageClasses:
        head = self.header
        words = words_of(head.guest_pages)
        nonzero, hot = (self._array(name, "<u8", words) for name in ("nonzero", "hot"))
        expected = rank_directory(nonzero, hot)
        rank = self._array("rank", "<u4", expected.size).reshape(expected.shape)
        classes = PageClasses(head.guest_pages, nonzero, hot, rank)
        spare = head.guest_pages % 64
        if (hot & ~nonzero).any() or (spare and int(nonzero[-1]) >> spare):
            raise corrupt(self.name, "pages that are hot and zero, or behind the end", "neither")
        if not np.array_equal(rank, expected):
            raise corrupt(self.name, "its rank directory is at odds with the bitmaps", "their rank")
        counts = (head.guest_pages - classes.hot_pages - classes.cold_pages, head.hot, head.cold)
        if (head.zero, classes.hot_pages, classes.cold_pages) != counts:
            raise corrupt(self.name, "its bitmaps are at odds with its header", "the same counts")
        return classes

    def _layout(self) -> tuple[MemoryRegion, ...]:
        rows = self._section("layout")
        if len(rows) % 24:
            raise corrupt(self.name, "a layout of broken rows", "rows of 24 bytes")
        numbers = np.frombuffer(bytes(rows), "<u8").reshape(-1, 3).tolist()
        regions = tuple(MemoryRegion(*row) for row in numbers)
        try:
            check_regions(regions, self.header.guest_pages * PAGE)
        except ConfigError as error:
            raise corrupt(self.name, f"an impossible layout ({error})", "whole pages") from error
        return regions

    def _settings(self) -> tuple[tuple[str, ...], GuestLimits, str]:
        try:
            found = json.loads(bytes(self._section("settings")))
            roots = tuple(str(root) for root in found["roots"])
            return roots, GuestLimits(**found["limits"]), str(found["vmm"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise corrupt(self.name, "settings that cannot be read", "JSON") from error

    def _ascending(self, name: str, end: int) -> NDArray[np.uint32]:
        found = self._array(name, "<u4", len(self._section(name)) // 4)
        if found.size and (int(found.max()) >= end or (np.diff(found.astype(int)) <= 0).any()):
            raise corrupt(self.name, f"section {name} out of order or range", f"below {end}")
        return found


def census(opened: SnapshotFile) -> dict[str, object]:
    """What a packed snapshot holds, as `inspect` shows it: pages by class, runs, bytes by tier."""
    head = opened.header
    lengths = opened.hot_runs[:, 1]
    return {
        "file": opened.name,
        "uuid": str(head.uuid),
        "parent": str(head.parent) if head.parent else None,
        "vmm": opened.vmm,
        "guest_pages": head.guest_pages,
        "zero_pages": head.zero,
        "hot_pages": head.hot,
        "cold_pages": head.cold,
        "zero_share": head.zero / head.guest_pages,
        "hot_share": head.hot / head.guest_pages,
        "hot_runs": len(opened.hot_runs),
        "longest_hot_run_pages": int(lengths.max()) if lengths.size else 0,
        "regions_to_register": len(opened.regions_to_register),
        "hot_zero_pages": int(opened.hot_zero.size),
        "dense_blocks": int(opened.dense.size),
        "metadata_bytes": head.hot_offset,
        "cxl_bytes": head.cold_offset,
        "rdma_bytes": head.cold * PAGE,
        "pool_share": head.file_bytes / (head.guest_pages * PAGE),
    }
