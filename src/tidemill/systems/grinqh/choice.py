"""Ways to choose levels for the channels of one group of matrices, one row of inputs at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tidemill.errors import InputError
from tidemill.systems.grinqh.codebook import U8
from tidemill.systems.grinqh.kernels import F32, Selector
from tidemill.systems.grinqh.selection import by_proportion


class Choice(Protocol):
    """Levels (tokens, n) for inputs (tokens, n)."""

    def __call__(self, x: F32) -> U8:
        """Choose.

        Raises:
            InputError: An input is NaN or infinite.
        """
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """The best levels of exactly ``bits`` on average, for each token."""

    selector: Selector
    bits: float
    block: int = 1

    def __call__(self, x: F32) -> U8:
        """Choose."""
        return self.selector.within(x, self.bits, self.block)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Every step that saves more than ``water`` per bit."""

    selector: Selector
    water: float
    block: int = 1

    def __call__(self, x: F32) -> U8:
        """Choose."""
        return self.selector.above(x, self.water, self.block)


@dataclass(frozen=True, slots=True)
class Shares:
    """Fixed shares of the channels at each level, the largest energies first."""

    norm2: F32
    shares: dict[int, float]

    def __call__(self, x: F32) -> U8:
        """Choose."""
        energy = x * x * self.norm2
        return np.stack([by_proportion(row, self.shares) for row in energy])


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same levels for every token: what static mixed precision does."""

    levels: U8

    def __call__(self, x: F32) -> U8:
        """Choose, whatever the input."""
        if not np.isfinite(x).all():
            raise InputError("activations — some are NaN or infinite, must be finite.")
        return np.broadcast_to(self.levels, x.shape).copy()
