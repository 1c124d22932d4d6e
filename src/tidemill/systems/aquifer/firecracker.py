"""Firecracker's snapshots: a memory file, full or a diff over another, and a state file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np

from tidemill import native
from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.aquifer.aqs.pack import pack
from tidemill.systems.aquifer.aqs.page_classes import Bools
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.aqs.snapshot_header import MAGIC, MemoryRegion, check_regions
from tidemill.systems.aquifer.config import GuestLimits
from tidemill.systems.aquifer.snapshot import PAGE, U8, Snapshot

_PIECE = 1 << 22
_GAP_START = 3 << 30
"""Above, where memory lies differs between versions of Firecracker."""


@dataclass(frozen=True, slots=True, eq=False)
class FirecrackerImage:
    """An imported snapshot.

    Attributes:
        snapshot: its memory and its state, which only Firecracker can run.
        regions: where the memory lies for the guest.
        parent: the uuid of the `.aqs` file that it is a diff over, if it is.
    """

    snapshot: Snapshot
    regions: tuple[MemoryRegion, ...]
    parent: UUID | None

    def pack(
        self, touched: Sequence[Sequence[int]], path: str | Path, hot_threshold: float = 0.5
    ) -> Path:
        """Write it as an `.aqs` file, as `pack` does."""
        return pack(
            *(self.snapshot, touched, path, hot_threshold),
            dense_pages=0,  # its memory is not ours to give huge pages to
            regions=self.regions,
            parent=self.parent,
            vmm="firecracker",
        )


def import_firecracker(
    memory: str | Path,
    vmstate: str | Path,
    *,
    base: str | Path | None = None,
    regions: tuple[MemoryRegion, ...] | None = None,
) -> FirecrackerImage:
    """The snapshot in a memory file and a state file of Firecracker.

    Args:
        memory: the memory file; holes are zero pages, or those of ``base`` if there is one.
        vmstate: the state file, kept as it is.
        base: for a diff, the full memory file or the `.aqs` file that it was taken over.
        regions: where its memory lies for the guest; by default one region from address 0 on, up to
            3 GiB.

    Raises:
        InputError: a file cannot be read; CorruptFile: its size is not the regions' or the base's.
    """
    size = _size_of(memory)
    if size == 0 or size % PAGE:
        raise CorruptFile(
            f"{memory} as a memory file — {size} bytes long; must be whole pages of {PAGE} bytes; "
            "copy it again."
        )
    regions = regions or _one_region(size)
    try:
        check_regions(regions, size)
    except ConfigError as error:
        raise CorruptFile(
            f"{memory} as a memory file of these regions — {size} bytes long; {error}"
        ) from error
    try:
        state = Path(vmstate).read_bytes()
    except OSError as error:
        raise _unreadable(vmstate, error) from error
    written, nonzero, pages = read_image(memory)
    parent = None
    if base is not None:
        under, base_pages, parent = _read_base(base, size)
        nonzero, pages = _overlay(written, (nonzero, pages), (under, base_pages))
    snapshot = Snapshot(state, nonzero.astype(np.uint8), pages, (), GuestLimits())
    return FirecrackerImage(snapshot, regions, parent)


def read_image(path: str | Path) -> tuple[Bools, Bools, U8]:
    """A sparse file of pages, without reading its holes.

    Returns:
        (pages,) whether a page is in the file and no hole; (pages,) whether it is not zero; and
        the (count, 4096) pages that are not.

    Raises:
        InputError: it cannot be read, or was cut while it was.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            written = np.zeros(size // PAGE, bool)
            nonzero = np.zeros(size // PAGE, np.uint8)
            found: list[U8] = [np.empty((0, PAGE), np.uint8)]
            for start, piece in _pieces(file.fileno(), size):
                here = nonzero[start // PAGE :][: piece.size // PAGE]
                written[start // PAGE :][: here.size] = True
                if native.kernels("aquifer").find_nonzero(piece, here):
                    found.append(piece.reshape(-1, PAGE)[here.astype(bool)])
    except OSError as error:
        raise _unreadable(path, error) from error
    return written, nonzero.astype(bool), np.concatenate(found)


def _pieces(fd: int, size: int) -> Iterator[tuple[int, U8]]:
    """Offset and bytes of up to 4 MiB of data at a time; holes are left out."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        start -= start % PAGE
        at = min(size, -(-os.lseek(fd, start, os.SEEK_HOLE) // PAGE) * PAGE)
        for offset in range(start, at, _PIECE):
            piece = np.empty(min(_PIECE, at - offset), np.uint8)
            if os.preadv(fd, [piece.data], offset) != piece.size:
                raise OSError(errno.EIO, "it became shorter while it was read")
            yield offset, piece


def _read_base(base: str | Path, size: int) -> tuple[Bools, U8, UUID | None]:
    try:
        with Path(base).open("rb") as file:
            is_packed = file.read(4) == MAGIC
    except OSError as error:
        raise _unreadable(base, error) from error
    if is_packed:
        with SnapshotFile.open(base) as opened:
            snapshot = opened.snapshot()
            found = snapshot.nonzero.astype(bool), snapshot.pages, opened.uuid
    else:
        _, nonzero, pages = read_image(base)
        found = nonzero, pages, None
    if found[0].size * PAGE != size:
        raise CorruptFile(
            f"{base} as the base of a diff — {found[0].size * PAGE} bytes of memory; must be "
            f"{size}, as the diff; give the snapshot that the diff was taken over."
        )
    return found


def _overlay(written: Bools, top: tuple[Bools, U8], under: tuple[Bools, U8]) -> tuple[Bools, U8]:
    """Pages of the diff where it has any, else those of the base."""
    nonzero = np.where(written, top[0], under[0])
    pages = np.empty((int(nonzero.sum()), PAGE), np.uint8)
    is_top = written[nonzero]
    pages[is_top] = top[1]
    pages[~is_top] = under[1][~written[under[0]]]
    return nonzero, pages


def _one_region(size: int) -> tuple[MemoryRegion, ...]:
    if size > _GAP_START:
        raise ConfigError.of("regions", None, "given for more than 3 GiB", "devices lie between")
    return (MemoryRegion(0, size, 0),)


def _size_of(path: str | Path) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: OSError) -> InputError:
    return InputError(
        f"{path} — {error.strerror}; must be a readable file; `PUT /snapshot/create` writes a "
        "memory file and a state file."
    )
