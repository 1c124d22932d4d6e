"""What time it is, for those who may know."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since some moment; never goes back."""

    def now(self) -> float:
        """Seconds."""
        ...


class MonotonicClock:
    """The machine's own, which no change of its date disturbs."""

    def now(self) -> float:
        """Seconds since some moment before this process."""
        return time.monotonic()


class SimClock:
    """The time that a simulation has come to."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds since the beginning."""
        return self._now

    def advance_to(self, moment: float) -> None:
        """Let time pass; it never goes back."""
        assert moment >= self._now, "time went back"
        self._now = moment
