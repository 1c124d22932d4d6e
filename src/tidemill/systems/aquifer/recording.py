"""Which pages a function touches: a restore with every page missing, watched fault by fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.memory import FaultHandler, GuestRange, PageSource, Userfaultfd
from tidemill.systems.aquifer.microvm import MicroVM
from tidemill.systems.aquifer.snapshot import GuestRegion, Snapshot


@dataclass(frozen=True, slots=True)
class Recording:
    """One invocation as its page faults tell it.

    Attributes:
        pages: (n,) the guest's pages in the order they were first touched, zero ones included.
        at_ns: (n,) nanoseconds after the restore began.
        answer: what the function answered.
    """

    pages: NDArray[np.int64]
    at_ns: NDArray[np.int64]
    answer: bytes


def record(snapshot: Snapshot, requests: Iterable[bytes]) -> list[Recording]:
    """Restore once for each request and note every page that is touched until the answer.

    Raises:
        MissingCapability: no KVM or no userfaultfd here; GuestFailed: the function fails.
    """
    source = PageSource(
        snapshot.nonzero.size, local_pages=np.flatnonzero(snapshot.nonzero), local=snapshot.pages
    )
    return [_record_one(snapshot, source, request) for request in requests]


def _record_one(snapshot: Snapshot, source: PageSource, request: bytes) -> Recording:
    handlers: list[FaultHandler] = []

    def supply(region: GuestRegion) -> None:
        with Userfaultfd() as faults:
            faults.register(region.address, region.size)
            memory = [GuestRange(region.address, region.size)]
            handlers.append(FaultHandler(faults, memory, source, records=True))

    try:
        with MicroVM.restore(snapshot.machine, supply=supply) as clone:
            handlers[0].guard(clone.kill_switch)
            answer = clone.invoke(request)
            touches = handlers[0].touches()
    finally:
        for handler in handlers:
            handler.close()
    _, first = np.unique(touches[:, 0], return_index=True)
    touches = touches[np.sort(first)]
    return Recording(touches[:, 0], touches[:, 1], answer)
