"""Whether the process of a host still runs: a name in the kernel that lives as long as it does.

The name is an abstract Unix socket, so all hosts of an emulated pool must run in one network
namespace: from another, a host that runs would look dead. Hosts that are machines need a fence of
their own, as the pod's fabric manager gives.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from contextlib import suppress

import psutil

from tidemill.errors import ResourceError

_IDENTITY = struct.Struct("<QQ")
IDENTITY_BYTES = _IDENTITY.size


class HostPresence:
    """Holds a host's place of a pool; the kernel lets go of it after the process's memory.

    Raises:
        ResourceError: a running process holds it.
    """

    def __init__(self, pool: str, host: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(_address(pool, host))
        except OSError as error:
            self._socket.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise ResourceError(
                f"host {host} of this pool — a running process is it; must be one process; give "
                "another host, or end that process."
            ) from error

    def close(self) -> None:
        """Give the place up."""
        self._socket.close()


def is_present(pool: str, host: int) -> bool:
    """Whether a process is this host now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_address(pool, host))
        except ConnectionRefusedError:
            return False
        return True


def identity() -> bytes:
    """This process, so that `kill` ends it and none that has its number later."""
    return _IDENTITY.pack(os.getpid(), _started(os.getpid()))


def kill(whose: bytes, timeout_s: float = 10.0) -> None:
    """End the process of an `identity` and wait until it is gone."""
    pid, started = _IDENTITY.unpack(whose)
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        handle = os.pidfd_open(pid)
        try:
            if _started(pid) == started:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], timeout_s)
        finally:
            os.close(handle)


def _started(pid: int) -> int:
    return round(psutil.Process(pid).create_time() * 100)


def _address(pool: str, host: int) -> str:
    return f"\0tidemill-aquifer/{pool}/{host}"
