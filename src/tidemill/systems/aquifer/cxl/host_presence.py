"""Whether the process of a host still runs: a name in the kernel that lives as long as it does."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from contextlib import suppress

from tidemill.errors import ResourceError


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


def kill(pid: int, timeout_s: float = 10.0) -> None:
    """End a process and wait until it is gone."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], timeout_s)
        finally:
            os.close(handle)


def _address(pool: str, host: int) -> str:
    return f"\0tidemill-aquifer/{pool}/{host}"
