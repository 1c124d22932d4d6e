"""Pages for a guest as it touches them: from local memory, from page servers; without the GIL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, ResourceError
from tidemill.memory.kernels import paging
from tidemill.memory.remote import RemoteExtent, RemoteTier
from tidemill.memory.userfaultfd import PAGE_BYTES, Userfaultfd

CHUNK_PAGES = 16
"""Pages of one remote read."""
Pages = NDArray[np.uint32] | NDArray[np.int64] | NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class GuestRange:
    """Part of a guest's memory.

    Attributes:
        address: where it is mapped.
        size: in bytes.
        first_page: the guest's page, of 4 KiB, that it begins with.
        page_bytes: what one fault is answered with: 4096, or a huge page.
    """

    address: int
    size: int
    first_page: int = 0
    page_bytes: int = PAGE_BYTES


class PageSource:
    """Where each page of a guest comes from; shared by all its clones, never changed.

    Pages that neither local nor remote memory holds are zero.

    Args:
        pages: of the guest, 4 KiB each.
        local_pages: the guest's pages that ``local`` holds, in its order.
        local: their bytes; None if they will have been installed before any is touched.
        remote_pages: the guest's pages that the extent holds, ascending.
        crc: CRC32C of each chunk of the extent.
        chunk_pages: pages of one remote read, 1 to 64.
    """

    def __init__(
        self,
        pages: int,
        *,
        local_pages: Pages | None = None,
        local: NDArray[np.uint8] | None = None,
        remote_pages: Pages | None = None,
        remote: tuple[RemoteTier, RemoteExtent] | None = None,
        crc: NDArray[np.uint32] | None = None,
        chunk_pages: int = CHUNK_PAGES,
    ) -> None:
        if not 1 <= chunk_pages <= 64:
            raise ConfigError.of("chunk_pages", chunk_pages, "in 1-64", "pages of one remote read")
        native = paging()
        place = np.full(pages, native.ZERO, np.uint32)
        here = np.asarray([] if local_pages is None else local_pages, np.uint32)
        there = np.asarray([] if remote_pages is None else remote_pages, np.uint32)
        place[here] = np.arange(here.size, dtype=np.uint32) | np.uint32(native.LOCAL)
        place[there] = np.arange(there.size, dtype=np.uint32)
        self.pages = pages
        tier, extent = remote or (None, None)
        self.native: Any = native.PageSource(
            place,
            None if local is None else local.reshape(-1),
            there,
            crc,
            chunk_pages,
            None if tier is None else tier.native,
            [] if extent is None else list(extent.bases),
        )

    @classmethod
    def of_image(cls, image: NDArray[np.uint8], nonzero: Pages) -> Self:
        """All pages from an image of the whole memory, or a file that is mapped like one."""
        made = cls.__new__(cls)
        native = paging()
        made.pages = image.size // PAGE_BYTES
        place = np.full(made.pages, native.ZERO, np.uint32)
        place[nonzero] = np.asarray(nonzero, np.uint32) | np.uint32(native.LOCAL)
        nothing = np.empty(0, np.uint32)
        made.native = native.PageSource(place, image.reshape(-1), nothing, None, 1, None, [])
        return made


class FaultHandler:
    """A thread that answers the faults of one guest until it is closed.

    Args:
        faults: where the guest's memory is registered; may be closed afterwards.
        ranges: its memory.
        source: its pages.
        deadline_s: how long a page may take; after that the guest is ended.
        records: keep the order and time of faults.
        trickles: read what nobody has touched as well, while nobody touches anything.

    Raises:
        ConfigError: ranges and source do not fit together.
    """

    def __init__(
        self,
        faults: Userfaultfd,
        ranges: list[GuestRange],
        source: PageSource,
        *,
        deadline_s: float = 2.0,
        records: bool = False,
        trickles: bool = False,
    ) -> None:
        plain = [(part.address, part.size, part.first_page, part.page_bytes) for part in ranges]
        try:
            self._native: Any = paging().FaultHandler(
                faults.native, plain, source.native, deadline_s, records, trickles
            )
        except ValueError as error:
            raise ConfigError(f"this memory cannot be served: {error}") from error

    def guard(self, victim: Any) -> None:
        """Say whom to end when a page cannot be had: a native ``KillSwitch``."""
        self._native.guard(victim)

    @property
    def counts(self) -> dict[str, int]:
        """Faults by where their page came from, bytes, reads, and what went wrong on the way."""
        return self._native.counts

    @property
    def failure(self) -> str:
        """Why no page can be had any more; empty if all is well."""
        return self._native.failure

    def touches(self) -> NDArray[np.int64]:
        """What was recorded, (n, 2): page, and nanoseconds since the beginning, in order."""
        return np.asarray(self._native.touches(), np.int64).reshape(-1, 2)

    def raise_failure(self) -> None:
        """ResourceError if a page could not be had."""
        if self.failure:
            raise ResourceError(f"a page could not be provided: {self.failure}")

    def close(self) -> None:
        """Stop. Faults that come later wait for ever, unless the last descriptor is closed."""
        self._native.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def process_switch(pidfd: int) -> Any:
    """A kill switch that ends another process, by a descriptor of `os.pidfd_open`."""
    return paging().KillSwitch.process(pidfd)
