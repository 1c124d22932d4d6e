"""A site in a process of its own, as ``tidemill up`` runs it; also the program of that process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from house import House, path_with_installed

from tidemill.bench.store import RunState, Store
from tidemill.web import create_app, serve

_PATIENCE_S = 60


class SiteProcess:
    """Start, stop and start again a real server on one database.

    Args:
        folder: Where its database, runs and home lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = f"sqlite:///{folder / 'tidemill.db'}"
        self.url = ""
        self._port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start serving, on the port of before if there was one; returns when it answers."""
        environment = {
            **os.environ,
            "PYTHONPATH": path_with_installed(),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "TIDEMILL_DB": self.database,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder / "tidemill.db"), str(self._port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip().rstrip("/")
        assert self.url, "the server did not start"
        self._port = int(self.url.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(_PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def clear(self) -> None:
        """Stop the server if it runs, and end the runs that a failed test may have left."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        store = Store(self.database)
        for run in store.runs(states=[RunState.RUNNING]):
            with contextlib.suppress(psutil.NoSuchProcess):
                session = psutil.Process(run.pid)
                session.terminate()
                session.wait(_PATIENCE_S)
        store.close()


def main(database: str, port: str) -> None:
    """Serve until told to stop; the address goes to standard output."""
    house = House.at(Path(database))
    house.library.import_shipped()
    app = create_app(house.store, house.library, house.queue)

    def ready(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    serve(app, "127.0.0.1", int(port), ready)
    house.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
