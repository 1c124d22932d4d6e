"""A published snapshot, borrowed; and what its place in the pool is worth."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from uuid import UUID

from tidemill.errors import ResourceError
from tidemill.systems.aquifer.aqs.snapshot_file import SnapshotFile
from tidemill.systems.aquifer.aqs.snapshot_header import parse_header
from tidemill.systems.aquifer.cxl.ownership import Borrowed
from tidemill.systems.aquifer.snapshot import PAGE

_USAGE = struct.Struct("<Qd")
_FADING_NS = 60e9


class StaleEpoch(ResourceError):
    """What was asked for was revoked or replaced meanwhile; ask again."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a snapshot in the pool is good for; `worth` of its bytes decides who may evict whom."""

    restores_per_s: float
    saved_s: float = 0.1

    def worth(self, nbytes: int) -> float:
        """Seconds saved per second and byte."""
        return self.restores_per_s * self.saved_s / max(nbytes, 1)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a host writes beside its lease: how it uses a slot.

    Attributes:
        last_ns: when it borrowed last.
        rate: borrowings per second then, older ones counting less (a minute: 1/e).
    """

    last_ns: int = 0
    rate: float = 0.0

    def rate_at(self, now_ns: int) -> float:
        """The rate, faded since."""
        return self.rate * math.exp(-max(0, now_ns - self.last_ns) / _FADING_NS)

    def once_more(self, now_ns: int) -> Usage:
        """After another borrowing."""
        return Usage(now_ns, self.rate_at(now_ns) + 1e9 / _FADING_NS)

    def pack(self) -> bytes:
        """Two words."""
        return _USAGE.pack(self.last_ns, self.rate)

    @classmethod
    def of(cls, words: bytes) -> Usage:
        """From two words."""
        return cls(*_USAGE.unpack_from(words))


class Lease:
    """A published snapshot, borrowed: nobody rewrites it until `release`.

    Attributes:
        epoch: of its slot; each publication has another.
        uuid: of the snapshot.
        hot: its hot pages, straight from the segment; not to be touched after `release`.
    """

    def __init__(
        self, borrowed: Borrowed, window: memoryview, give_back: Callable[[Lease], bool]
    ) -> None:
        self.borrowed, self._window, self._give_back = borrowed, window, give_back
        self.name, self.epoch = borrowed.entry.name, borrowed.entry.word.epoch
        self._title = f"{borrowed.entry.name} in the pool"
        head = parse_header(window, self._title)
        self.uuid: UUID = head.uuid
        self.hot = window[head.hot_offset :][: head.hot * PAGE]
        self._maps: SnapshotFile | None = None
        self.is_released = False

    @property
    def maps(self) -> SnapshotFile:
        """Checked when they are first asked for: whoever knows them by `uuid` need not."""
        if self._maps is None:
            self._maps = SnapshotFile(self._window, self._title)
        return self._maps

    def release(self) -> None:
        """Let its owner have it back; twice is once."""
        if self._give_back(self):
            self.is_released = True
            self.hot.release()
            if self._maps is not None:
                self._maps.close()
            with suppress(BufferError):
                self._window.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
