"""Page faults as events: the kernel's userfaultfd, of this process or handed over by another."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import MissingCapability, ProtocolError
from tidemill.memory.kernels import paging

PAGE_BYTES = 4096


class EventKind(IntEnum):
    """What a `FaultEvent` tells."""

    PAGE_FAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


class Mode(IntFlag):
    """What a range is registered for."""

    MISSING = 1
    WRITE_PROTECT = 2


class Feature(IntFlag):
    """What a userfaultfd is asked to be able to do."""

    NONE = 0
    WRITE_PROTECT = 1 << 0
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5


class FaultEvent(NamedTuple):
    """One event.

    Attributes:
        kind: what happened.
        address: of the access, or of the first byte removed.
        end: first byte behind what was removed.
        is_write_protect: whether a page was there, but may not be written yet.
    """

    kind: EventKind
    address: int
    end: int
    is_write_protect: bool


class Userfaultfd:
    """A userfaultfd; closed by `close` or at the end of a ``with`` block.

    Raises:
        MissingCapability: this user may not have one, or the kernel lacks a feature.
    """

    def __init__(self, features: Feature = Feature.NONE) -> None:
        try:
            self.native: Any = paging().Userfaultfd(int(features))
        except OSError as error:
            raise _missing(error, features) from error

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Take over a descriptor that another process opened and initialised."""
        made = cls.__new__(cls)
        made.native = paging().Userfaultfd.adopt(fd)
        return made

    @property
    def fd(self) -> int:
        """The descriptor; readable when events wait."""
        return self.native.fd

    def register(self, address: int, size: int, mode: Mode = Mode.MISSING) -> None:
        """Have faults of whole pages reported; OSError if the memory cannot be watched."""
        self.native.register(address, size, int(mode))

    def register_pages(
        self, base: int, ranges: NDArray[np.uint64], mode: Mode = Mode.MISSING
    ) -> None:
        """Register many ranges, (n, 2): first page and pages, counted from address ``base``."""
        self.native.register_ranges(base, np.ascontiguousarray(ranges, np.uint64), int(mode))

    def unregister(self, address: int, size: int) -> None:
        """Leave the range to the kernel again; works on another process's memory as well."""
        self.native.unregister(address, size)

    def write_protect(self, address: int, size: int, *, on: bool = True) -> None:
        """Have the next write of each page reported, or let writers go on."""
        self.native.write_protect(address, size, on)

    def copy(self, address: int, data: NDArray[np.uint8], *, wakes: bool = True) -> bool:
        """Install pages; those that are there stay. False: read the events first, then again."""
        return self.native.install(address, data, data.size, wakes)

    def zero(self, address: int, size: int, *, wakes: bool = True) -> bool:
        """Install zero pages, as `copy`."""
        return self.native.install(address, None, size, wakes)

    def install_runs(
        self,
        base: int,
        runs: NDArray[np.uint64],
        pages: NDArray[np.uint8],
        *,
        wakes: bool = False,
    ) -> int:
        """Install runs, (n, 3): first page, pages, slot in ``pages``; the bytes.

        With ``wakes``, whoever waits for one of them already goes on.
        """
        return self.native.install_runs(base, np.ascontiguousarray(runs, np.uint64), pages, wakes)

    def events(self) -> list[FaultEvent]:
        """Up to 16 events that wait; does not block."""
        return [
            FaultEvent(EventKind(kind), address, end, bool(flags & 2))
            for kind, address, end, flags in self.native.events()
        ]

    def send(self, peer: socket.socket, message: bytes) -> None:
        """Hand a copy of the descriptor to another process along with a message."""
        socket.send_fds(peer, [message], [self.fd])

    def close(self) -> None:
        """Give it back; memory that is still registered belongs to the kernel again."""
        self.native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def receive(peer: socket.socket, most_bytes: int = 1 << 16) -> tuple[bytes, Userfaultfd | None]:
    """A message, and the userfaultfd that came with it, if one did.

    Raises:
        ProtocolError: more descriptors than one came; all are closed.
    """
    message, fds, _, _ = socket.recv_fds(peer, most_bytes, 8)
    if len(fds) > 1:
        for fd in fds:
            os.close(fd)
        raise ProtocolError(f"one userfaultfd was expected, {len(fds)} descriptors came")
    return message, Userfaultfd.adopt(fds[0]) if fds else None


def merged(pages: Sequence[int] | NDArray[np.int64], gap: int = 0) -> NDArray[np.uint64]:
    """Ascending pages as ranges (n, 2): first page and pages; gaps up to ``gap`` are included."""
    ordered = np.asarray(pages, np.int64)
    if ordered.size == 0:
        return np.empty((0, 2), np.uint64)
    breaks = np.flatnonzero(np.diff(ordered) > gap + 1)
    first = ordered[np.concatenate([[0], breaks + 1])]
    last = ordered[np.concatenate([breaks, [ordered.size - 1]])]
    return np.stack([first, last - first + 1], axis=1).astype(np.uint64)


def _missing(error: OSError, features: Feature) -> MissingCapability:
    if error.errno in (errno.EPERM, errno.EACCES):
        return MissingCapability(
            f"user {os.getuid()} may not handle page faults; allow it with `sudo sysctl "
            "vm.unprivileged_userfaultfd=1`, or give it /dev/userfaultfd (`sudo setfacl -m "
            "u:$USER:rw /dev/userfaultfd`), or, in a container, CAP_SYS_PTRACE"
        )
    if error.errno == errno.EINVAL:
        return MissingCapability(f"this kernel's userfaultfd lacks one of {features!r}; use >= 5.7")
    return MissingCapability(
        f"no userfaultfd here: {error.strerror or error}; it needs a kernel with "
        "CONFIG_USERFAULTFD, and a container whose seccomp profile lets the call through"
    )
