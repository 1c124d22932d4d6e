"""Memory that is watched by a userfaultfd, and page servers."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill.errors import MissingCapability
from tidemill.memory import PageServer, Userfaultfd

from .touching import Serve, Watch


@pytest.fixture
def faults() -> Iterator[Userfaultfd]:
    try:
        made = Userfaultfd()
    except MissingCapability as error:
        pytest.skip(str(error))
    with made:
        yield made


@pytest.fixture
def memory() -> Watch:
    """``memory(pages)`` is that much fresh anonymous memory without huge pages."""

    def make(pages: int) -> NDArray[np.uint8]:
        mapping = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        return np.frombuffer(mapping, np.uint8)

    return make


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """``serve(size)`` starts a page server on a Unix socket; all end with the test."""
    servers: list[PageServer] = []

    def start(size: int = 1 << 24, address: str | None = None) -> PageServer:
        server = PageServer(address or f"unix:{tmp_path}/pages{len(servers)}", size)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
