"""What a site stands on, and the package of one more system that is installed for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tidemill.bench.queue import RunQueue
from tidemill.bench.store import Store
from tidemill.feed.library import Library

INSTALLED = Path(__file__).parent / "installed"
"""Where the package of the system ``waterwheel`` lies."""


def path_with_installed() -> str:
    """A ``PYTHONPATH`` for child processes that find the waterwheel."""
    return os.pathsep.join(filter(None, [str(INSTALLED), os.environ.get("PYTHONPATH", "")]))


@dataclass
class House:
    """Store, library and queue of one database."""

    store: Store
    library: Library
    queue: RunQueue

    @classmethod
    def at(cls, database: Path) -> House:
        """The house of that file, its tables made; its queue has not been started."""
        store = Store(f"sqlite:///{database}")
        store.migrate()
        library = Library(store)
        library.migrate()
        return cls(store, library, RunQueue(store, database.parent / "runs"))
