"""A userfaultfd handler in Python: gives a guest each page of its snapshot when it is touched."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import threading

import numpy as np

from tidemill.systems.aquifer import GuestRegion, Snapshot
from tidemill.systems.aquifer.snapshot import PAGE

SYS_USERFAULTFD = 323
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
PAGE_FAULT = 0x12


class FaultServer:
    """Use as ``supply=``; counts the pages it was asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.asked: list[int] = []
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise PermissionError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self.fd, UFFDIO_API, struct.pack("=QQQ", 0xAA, 0, 0))
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __call__(self, region: GuestRegion) -> None:
        self.region = region
        register = struct.pack("=QQQQ", region.address, region.size, 1, 0)
        fcntl.ioctl(self.fd, UFFDIO_REGISTER, register)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self.fd, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            message = os.read(self.fd, 32)
            assert message[0] == PAGE_FAULT
            (address,) = struct.unpack_from("=Q", message, 16)
            index = (address - self.region.address) // PAGE
            self.asked.append(index)
            page = np.ascontiguousarray(self.snapshot.page(index))
            to = self.region.address + index * PAGE
            fcntl.ioctl(
                self.fd, UFFDIO_COPY, struct.pack("=QQQQq", to, page.ctypes.data, PAGE, 0, 0)
            )

    def close(self) -> None:
        os.write(self._stop_write, b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for fd in (self.fd, self._stop_read, self._stop_write):
            os.close(fd)
