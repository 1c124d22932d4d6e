"""A memory node of its own process: big memory, read and written by offset over sockets."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from tidemill.errors import ConfigError, ResourceError
from tidemill.memory.kernels import paging

_START_S = 30.0
_MOST_BYTES = 1 << 46


class PageServer:
    """Starts a page server as a child process; it ends with `close`, and with this process.

    Args:
        address: ``unix:/path`` or ``tcp:host:port``; with port 0 the system picks one.
        size: bytes of memory; they are occupied as they are written.

    Raises:
        ConfigError: no such address or size; ResourceError: the server does not start.
    """

    def __init__(self, address: str, size: int) -> None:
        check(address, size)
        command = [sys.executable, "-m", "tidemill.memory.page_server", address, str(size)]
        self._child = subprocess.Popen(
            [*command, "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None, "it is a pipe"
        line = self._child.stdout.readline()
        if not line:
            _, why = self._child.communicate()
            said = why.strip().splitlines()[-1:] or ["it said nothing"]
            raise ResourceError(f"page server at {address}: {said[0]}")
        self.address = line.strip()
        self.size = size

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._child.pid

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._child.kill()
        self.close()

    def close(self) -> None:
        """End it; its memory is gone."""
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._child.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self.address.startswith("unix:"):
            Path(self.address[5:]).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check(address: str, size: int) -> None:
    """Refuse what no server can be.

    Raises:
        ConfigError: names the field.
    """
    if not address.startswith(("unix:", "tcp:")):
        raise ConfigError.of("address", address, "unix:/path or tcp:host:port")
    if not 4096 <= size <= _MOST_BYTES:
        raise ConfigError.of("size", size, f"in 4096-{_MOST_BYTES}", "bytes of memory")


def serve(address: str, size: int, *, until_eof: bool = False) -> None:
    """Serve until interrupted, or until standard input ends; prints the address when ready.

    Raises:
        ResourceError: it cannot listen there.
    """
    check(address, size)
    try:
        server = paging().PageServer(address, size)
    except (OSError, ValueError) as error:
        raise ResourceError(f"page server at {address}: {error}") from error
    done = threading.Event()  # a join that Ctrl-C interrupts takes the thread for ended

    def run() -> None:
        try:
            server.run()
        finally:
            done.set()

    runner = threading.Thread(target=run, daemon=True)
    try:
        runner.start()
        print(server.address, flush=True)  # noqa: T201 - whoever started it waits for this line
        if until_eof:
            sys.stdin.read()
        else:
            done.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        done.wait()
        runner.join()


def main() -> None:
    """``python -m tidemill.memory.page_server ADDRESS BYTES``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("size", type=int)
    parser.add_argument("--until-eof", action="store_true")
    given = parser.parse_args()
    try:
        serve(given.address, given.size, until_eof=given.until_eof)
    except (ConfigError, ResourceError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
