"""The file or descriptor that is a CXL pool's memory: made, and recognised."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from uuid import UUID, uuid4

from tidemill.errors import ConfigError, CorruptFile, InputError, OutOfPool
from tidemill.systems.aquifer.aqs.snapshot_header import crc32c
from tidemill.systems.aquifer.cxl.layout import Layout
from tidemill.systems.aquifer.cxl.operations import LINE, View

_MAGIC, _VERSION = b"AQCXLP\r\n", 1
_SUPERBLOCK = struct.Struct("<8sIIIIQ16s12x")


def create(path: str | Path, size: int, *, hosts: int = 4, slots: int = 64) -> Path:
    """Make an empty pool, as a file in /dev/shm for instance; its memory is reserved at once.

    Raises:
        ConfigError: sizes out of range. InputError: there is a file, or no such folder.
        OutOfPool: there is not as much memory.
    """
    path = Path(path)
    layout = Layout.fitting(size, hosts, slots)
    draft = path.with_name(f".{path.name}.{token_hex(6)}.tmp")
    try:
        with draft.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, layout.size)
            format_segment(file.fileno(), layout)
        os.link(draft, path)  # unlike a rename, never over a pool that is in use
    except OSError as error:
        kind = OutOfPool if error.errno in (28, 122) else InputError
        raise kind(
            f"a pool of {layout.size:,} bytes at {path} — {error.strerror}; must be a new file "
            "in a writable folder with that much free; remove the old one, or ask for less."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return path


def create_memfd(size: int, *, hosts: int = 4, slots: int = 64) -> int:
    """An empty pool as a descriptor that nobody can cut; attach by `/proc/self/fd/N`."""
    layout = Layout.fitting(size, hosts, slots)
    fd = os.memfd_create("tidemill-cxl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.posix_fallocate(fd, 0, layout.size)
    format_segment(fd, layout)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def format_segment(fd: int, layout: Layout) -> None:
    """Write an empty pool's superblock and who owns what at first."""
    head = _SUPERBLOCK.pack(
        *(_MAGIC, _VERSION, layout.hosts, layout.slots, 0, layout.chunk_bytes, uuid4().bytes)
    )
    lines = {0: head + crc32c(head).to_bytes(4, "little")} | layout.first_lines()
    for at, line in lines.items():
        os.pwrite(fd, line, at)


def read_superblock(view: View, path: str, size: int) -> tuple[UUID, Layout]:
    """What a pool says of itself.

    Raises:
        CorruptFile: it is none, or of another version or length.
    """
    head = bytes(view.get(0, LINE))
    magic, version, hosts, slots, _, chunk_bytes, uuid = _SUPERBLOCK.unpack(head[: LINE - 4])
    if magic != _MAGIC or version != _VERSION:
        raise no_pool(path, f"begins with {magic!r}, version {version}")
    if crc32c(head[: LINE - 4]) != int.from_bytes(head[LINE - 4 :], "little"):
        raise no_pool(path, "its superblock is damaged")
    try:
        layout = Layout(hosts, slots, chunk_bytes)
    except ConfigError as error:
        raise no_pool(path, str(error)) from error
    if layout.size != size:
        raise no_pool(path, f"{size} bytes long instead of {layout.size}")
    return UUID(bytes=uuid), layout


def no_pool(path: str, found: str) -> CorruptFile:
    """The error for a file that is no pool."""
    return CorruptFile(
        f"{path} as a CXL pool — {found}; must be a whole pool of version {_VERSION}; "
        "`tidemill aquifer pool create` makes one."
    )
