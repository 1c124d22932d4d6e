"""One host's access to a segment: through the processor's caches, or through caches of our own.

`DirectView` is a mapping with real `clwb`, `clflushopt` and `mfence`; between processes of one
machine the hardware keeps it coherent whatever the program forgets. `IncoherentView` does not: it
works on a private copy of each line, copied in when it is first touched and out when it is written
back, so that a forgotten write-back or invalidation really gives stale bytes. Its adversary evicts,
writes back and fetches lines when nobody asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tidemill import native
from tidemill.errors import ResourceError
from tidemill.systems.aquifer.cxl.operations import LINE, WORD

U8 = NDArray[np.uint8]
_HAUNTS = 64
"""Lines touched last, among which the adversary chooses."""


class DirectView:
    """The segment itself; a file that was cut under it is an error, not a signal.

    Args:
        segment: (bytes,) the mapping.
        size_now: how long the file is; asked before a part of it is handed out.
        name: what errors call it.
    """

    def __init__(self, segment: U8, size_now: Callable[[], int], name: str) -> None:
        self.segment, self._size_now, self._name = segment, size_now, name
        self._lines: Any = native.kernels("cxl")

    def __repr__(self) -> str:
        return f"<{self._name}, coherent by hardware; {self._lines.write_back_instruction()}>"

    def load(self, at: int) -> int:
        """An aligned word."""
        word = self._lines.load_word(self.segment, at)
        return self._cut() if word is None else word

    def store(self, at: int, value: int) -> None:
        """Store an aligned word."""
        self._check(self._lines.store_word(self.segment, at, value))

    def get(self, at: int, size: int) -> memoryview:
        """A copy of some bytes."""
        found = np.empty(size, np.uint8)
        self._check(self._lines.copy(found, 0, self.segment, at, size))
        return found.data

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Store bytes."""
        self._check(self._lines.put(self.segment, at, np.frombuffer(data, np.uint8)))

    def write_back(self, at: int, size: int) -> None:
        """Write lines back."""
        self._check(self._lines.write_back(self.segment, at, size))

    def invalidate(self, at: int, size: int) -> None:
        """Drop lines from this processor's caches."""
        self._check(self._lines.invalidate(self.segment, at, size))

    def fence(self) -> None:
        """Order what came before with what comes after."""
        self._lines.fence()

    def window(self, at: int, size: int) -> memoryview:
        """The bytes themselves, read-only, not a copy."""
        if self._size_now() < at + size:
            self._cut()
        return self.segment[at : at + size].data.toreadonly()

    def _check(self, is_there: bool) -> None:
        if not is_there:
            self._cut()

    def _cut(self) -> NoReturn:
        raise ResourceError(
            f"{self._name} — its file was cut to {self._size_now()} bytes while mapped; must "
            f"stay {self.segment.size} bytes; make a new pool and publish again."
        )


class IncoherentView:
    """A host whose caches nobody keeps coherent.

    Args:
        direct: the shared segment.
        size: of the segment, in bytes.
        seed: of the adversary; None leaves lines alone until they are written back or invalidated.
        rate: how often, per operation, the adversary does something.
    """

    def __init__(
        self, direct: DirectView, size: int, *, seed: int | None = None, rate: float = 0.5
    ) -> None:
        self._direct = direct
        self._lines = -(-size // LINE)
        self._segment = direct.segment[: self._lines * LINE].view(np.uint64).reshape(-1, 8)
        self._shadow = np.zeros((self._lines, LINE // WORD), np.uint64)
        self._valid = np.zeros(self._lines, bool)
        self._dirty = np.zeros(self._lines, bool)
        self._write_backs: list[slice] = []
        self._invalidations: list[slice] = []
        self._random = None if seed is None else random.Random(seed)
        self._rate = rate
        self._haunts: list[int] = []

    def __repr__(self) -> str:
        return f"<{self._direct!r} through caches of its own, emulated, incoherent>"

    def load(self, at: int) -> int:
        """An aligned word."""
        self._fetch(self._range(at, WORD))
        return int(self._shadow[at // LINE, at % LINE // WORD])

    def store(self, at: int, value: int) -> None:
        """Store an aligned word into the cache."""
        lines = self._range(at, WORD)
        self._fetch(lines)
        self._shadow[at // LINE, at % LINE // WORD] = value
        self._dirty[lines] = True

    def get(self, at: int, size: int) -> memoryview:
        """A copy of some bytes, as this host sees them."""
        return memoryview(bytes(self.window(at, size)))

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Store bytes into the cache."""
        if not len(data):
            return
        lines = self._range(at, len(data))
        self._fetch(lines)
        self._shadow.reshape(-1).view(np.uint8)[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self._dirty[lines] = True

    def write_back(self, at: int, size: int) -> None:
        """Write dirty lines back, at the latest with the next fence."""
        self._write_backs.append(self._range(at, size))

    def invalidate(self, at: int, size: int) -> None:
        """Write dirty lines back and drop all, at the latest with the next fence."""
        self._invalidations.append(self._range(at, size))

    def fence(self) -> None:
        """Do what was asked for."""
        for lines in (*self._write_backs, *self._invalidations):
            self._write(lines.start + np.flatnonzero(self._dirty[lines]))
        for lines in self._invalidations:
            self._valid[lines] = False
        self._write_backs.clear()
        self._invalidations.clear()

    def window(self, at: int, size: int) -> memoryview:
        """The bytes as this host's cache holds them, read-only."""
        self._fetch(self._range(at, size))
        return self._shadow.reshape(-1).view(np.uint8)[at : at + size].data.toreadonly()

    def _range(self, at: int, size: int) -> slice:
        lines = slice(at // LINE, (at + max(size, 1) - 1) // LINE + 1)
        if self._random is not None and self._random.random() < self._rate:
            self._haunts = [*self._haunts[-_HAUNTS:], lines.start, lines.stop - 1]
            self._misbehave(self._random)
        return lines

    def _misbehave(self, generator: random.Random) -> None:
        line = generator.choice(self._haunts)
        act = generator.randrange(3)
        if act == 0:
            self._fetch(slice(line, line + 1))
        elif self._dirty[line]:
            self._write(np.array([line]))
        if act == 2:
            self._valid[line] = False

    def _fetch(self, lines: slice) -> None:
        missing = lines.start + np.flatnonzero(~self._valid[lines])
        if missing.size:
            self._direct.window(0, int(missing[-1] + 1) * LINE)  # is the file still as long?
            self._shadow[missing] = self._segment[missing]
            self._valid[missing] = True

    def _write(self, lines: NDArray[Any]) -> None:
        self._segment[lines] = self._shadow[lines]
        self._dirty[lines] = False
