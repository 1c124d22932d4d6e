"""What all tiers of memory have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from tidemill.memory.link import Link


class TierKind(StrEnum):
    """How real a tier is."""

    REAL = "real"
    """The hardware itself."""
    EMULATED = "emulated"
    """The mechanism on other hardware, no faster than the link would be."""
    MODELLED = "modelled"
    """Times from declared parameters alone."""


class Tier(Protocol):
    """Memory at some distance."""

    @property
    def kind(self) -> TierKind:
        """How real it is; reports say so."""
        ...

    @property
    def link(self) -> Link:
        """What lies between it and this host."""
        ...

    def describe(self) -> str:
        """One line for a report: what it is and what stands in for it."""
        ...
