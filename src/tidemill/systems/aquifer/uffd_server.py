"""Page faults of other monitors, Firecracker first of all, answered from the pool."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError, ProtocolError, TidemillError
from tidemill.memory import (
    FaultHandler,
    GuestRange,
    PageSource,
    RemoteExtent,
    RemoteTier,
    Userfaultfd,
)
from tidemill.memory.fault_handler import process_switch
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.handshake import GOODBYE, receive_handshake
from tidemill.systems.aquifer.restore import Borrow, cold_pages, hot_pages
from tidemill.systems.aquifer.snapshot import PAGE

U64 = NDArray[np.uint64]
_WORTH_UNREGISTERING = 64  # pages: below, a fault or two are cheaper than the call


@dataclass(frozen=True, slots=True)
class Served:
    """What a server gives to everyone who connects.

    Attributes:
        maps: the snapshot's classes and runs.
        borrow: its hot pages for the moment of a copy.
        remote: the memory nodes, and where its cold pages lie.
    """

    maps: SnapshotFile
    borrow: Borrow
    remote: tuple[RemoteTier, RemoteExtent]


class UffdServer:
    """Listens where ``PUT /snapshot/load`` names its ``mem_backend`` of type ``Uffd``.

    Each connection is a guest with a handler of its own, until its process ends or says goodbye. A
    guest whose pages cannot be had is killed: Firecracker would hang.

    Args:
        path: of the Unix socket; it must not exist.
        served: the snapshot.
        deadline_s: how long a cold page may take.

    Raises:
        InputError: there is no listening at that path.
    """

    def __init__(self, path: str | Path, served: Served, *, deadline_s: float = 2.0) -> None:
        self.path = Path(path)
        self._served, self._deadline_s = served, deadline_s
        self.refused: list[str] = []
        self.guests: list[Guest] = []
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(path))
        except OSError as error:
            self._listener.close()
            raise InputError(f"{path}: {error.strerror}; give a path where nothing is") from error
        self._listener.listen()
        self._stop_read, self._stop_write = os.pipe()
        self._threads: list[threading.Thread] = []
        self._sources: dict[bool, PageSource] = {}
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._listener, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            peer, _ = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            pid = struct.unpack("=3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[
                0
            ]
            try:
                pidfd = os.pidfd_open(pid)
            except OSError as error:
                self.refused.append(f"process {pid}: {error}")
                return
            try:
                self._serve_process(peer, pid, pidfd)
            except (TidemillError, OSError, ValueError, RuntimeError) as error:
                self.refused.append(str(error))
                if not isinstance(error, ProtocolError) and pid != os.getpid():
                    process_switch(pidfd).pull(str(error))  # its memory is with us: it would hang
            finally:
                os.close(pidfd)

    def _serve_process(self, peer: socket.socket, pid: int, pidfd: int) -> None:
        memory_bytes = self._served.maps.guest_pages * PAGE
        faults, ranges = receive_handshake(peer, memory_bytes)
        with faults:
            is_huge = any(part.page_bytes != PAGE for part in ranges)
            if not is_huge:
                self._unregister_zeros(faults, ranges)
                self._install(faults, ranges)
            source = self._source(is_huge)
            handler = FaultHandler(faults, ranges, source, deadline_s=self._deadline_s)
        with handler:
            if pid != os.getpid():
                handler.guard(process_switch(pidfd))
            self.guests.append(Guest(pid, handler))
            self._wait(peer, pidfd)

    def _wait(self, peer: socket.socket, pidfd: int) -> None:
        """Until the process ends, says goodbye, or the server stops."""
        sockets = [peer]
        while True:
            ready, _, _ = select.select([*sockets, pidfd, self._stop_read], [], [])
            if pidfd in ready or self._stop_read in ready:
                return
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                said = peer.recv(16)
                if said.startswith(GOODBYE):
                    return
                if not said:
                    sockets = []  # Firecracker closes its end and goes on

    def _source(self, is_huge: bool) -> PageSource:
        """With 4 KiB pages what is hot is there before it is touched; a huge page mixes classes."""
        if is_huge not in self._sources:
            maps = self._served.maps
            local = None
            if is_huge:
                with self._served.borrow() as lease:
                    local = np.frombuffer(lease.hot, np.uint8).copy()
            cold = cold_pages(maps)
            self._sources[is_huge] = PageSource(
                maps.guest_pages,
                local_pages=hot_pages(maps),
                local=local,
                remote_pages=cold,
                remote=self._served.remote if cold.size else None,
                crc=np.ascontiguousarray(maps.cold_checksums, np.uint32),
            )
        return self._sources[is_huge]

    def _unregister_zeros(self, faults: Userfaultfd, ranges: list[GuestRange]) -> None:
        wanted = self._served.maps.regions_to_register.astype(np.int64)
        starts = np.concatenate([[0], wanted.sum(axis=1)])
        ends = np.concatenate([wanted[:, 0], [self._served.maps.guest_pages]])
        keep = ends - starts >= _WORTH_UNREGISTERING
        gaps = np.stack([starts, ends - starts], axis=1)[keep]
        for address, count, _ in located(gaps.astype(np.uint64), ranges):
            faults.unregister(address, count * PAGE)

    def _install(self, faults: Userfaultfd, ranges: list[GuestRange]) -> None:
        with self._served.borrow() as lease:
            runs = located(self._served.maps.hot_runs, ranges)
            at = np.array([(a // PAGE, n, slot) for a, n, slot in runs], np.uint64).reshape(-1, 3)
            faults.install_runs(0, at, np.frombuffer(lease.hot, np.uint8), wakes=True)

    def close(self) -> None:
        """Stop answering; guests that still run wait for ever unless they are killed first."""
        os.write(self._stop_write, b"x")
        for thread in (self._accepting, *self._threads):
            thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)
        os.close(self._stop_read)
        os.close(self._stop_write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Guest:
    """One connection: whose memory it is, and the handler that serves it."""

    pid: int
    handler: FaultHandler


def located(runs: U64, ranges: list[GuestRange]) -> list[tuple[int, int, int]]:
    """Runs of guest pages as (host address, pages, slot), cut where the regions are."""
    found: list[tuple[int, int, int]] = []
    for first, count, *slot in runs.tolist():
        for part in ranges:
            start = max(first, part.first_page)
            end = min(first + count, part.first_page + part.size // PAGE)
            if start < end:
                at = part.address + (start - part.first_page) * PAGE
                found.append((at, end - start, (slot[0] if slot else 0) + start - first))
    return found
