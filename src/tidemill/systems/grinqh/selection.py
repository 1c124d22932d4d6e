"""How many bits each input channel gets for this token: water-filling over activation energy.

Channel j read at b bits adds about a_j² D(b) to the squared error of the output, a_j = |x_j| times
the norm of column j. The step to level b saves a_j² · slope_b for every bit it costs; slopes fall,
so taking steps in order of their saving is optimal and every channel's steps come in order.

These are the references; the native `Selector` does the same faster.
"""

from __future__ import annotations

import math
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS, U8, check_levels, gaussian

F32 = NDArray[np.float32]
ALL = (0, *LEVELS)


class Mode(StrEnum):
    """What keeps the average at the bits asked for."""

    BUDGET = "budget"
    """Each token and layer spends exactly so many: the least error for them."""
    THRESHOLD = "threshold"
    """One calibrated threshold over all layers; what a token spends follows from its input."""
    PROPORTION = "proportion"
    """Fixed shares of the channels at each level, the plain reading of the abstract."""


def costs(levels: tuple[int, ...] = ALL) -> tuple[int, ...]:
    """Bits that each step costs: 2, 1, 1, 2."""
    check_levels(levels)
    return tuple(high - low for low, high in pairwise(levels))


def slopes(levels: tuple[int, ...] = ALL) -> F32:
    """What each step saves per bit, float32 as the kernel compares it."""
    return np.array(gaussian().slopes(levels), np.float32)


def budget_of(bits: float, channels: int, top: int = LEVELS[-1]) -> int:
    """Code bits that ``channels`` may take together at ``bits`` on average.

    Raises:
        ConfigError: ``bits`` is not in [0, top].
    """
    check_bits(bits, top)
    return math.floor(bits * channels + 1e-9)


def check_bits(bits: float, top: int = LEVELS[-1]) -> None:
    """Refuse an average that no choice of levels has.

    Raises:
        ConfigError: ``bits`` is not in [0, top].
    """
    if not 0 <= bits <= top:
        raise ConfigError.of("bits", bits, f"in [0, {top}]", "average bits per weight read")


def by_budget(energy: F32, bits: float, block: int = 1, levels: tuple[int, ...] = ALL) -> U8:
    """The level of each channel such that the average is at most ``bits``, as near as steps allow.

    Args:
        energy: (n,) a_j², not negative.
        bits: Average code bits per weight.
        block: Neighbouring channels that share a level (mean energy decides).
        levels: What a channel may be read at, from 0.

    Raises:
        InputError: An energy is NaN or infinite.
        ConfigError: ``bits``, ``block`` or ``levels`` is out of range.
    """
    pooled = _pooled(energy, block)
    budget = budget_of(bits, len(pooled), levels[-1])
    key = pooled[None, :] * slopes(levels)[:, None]  # (steps, n); ties: lower step, lower index
    order = np.argsort(-key, axis=None, kind="stable")
    cost = np.repeat(np.array(costs(levels)), len(pooled))[order]
    taken = np.zeros(key.size, bool)
    taken[order[np.cumsum(cost) <= budget]] = True
    return _levels(taken.reshape(key.shape), block, len(energy), levels)


def by_threshold(energy: F32, water: float, block: int = 1, levels: tuple[int, ...] = ALL) -> U8:
    """The level of each channel whose steps save more than ``water`` per bit.

    Raises:
        InputError: An energy is NaN or infinite.
    """
    key = _pooled(energy, block)[None, :] * slopes(levels)[:, None]
    return _levels(key > np.float32(water), block, len(energy), levels)


def by_proportion(energy: F32, shares: dict[int, float]) -> U8:
    """Fixed shares of the channels, those of the most energy at the most bits.

    Args:
        energy: (n,) a_j².
        shares: By level; what is left over is skipped.

    Raises:
        ConfigError: A level does not exist or the shares exceed 1.
    """
    total = sum(shares.values())
    if not set(shares) <= set(LEVELS) or min(shares.values()) < 0 or total > 1 + 1e-9:
        raise ConfigError.of("shares", shares, f"shares of {LEVELS} that add up to at most 1")
    order = np.argsort(-_pooled(energy, 1), kind="stable")
    levels = np.zeros(len(energy), np.uint8)
    below = 0.0
    for level in sorted(shares, reverse=True):
        begin, end = round(below * len(energy)), round((below + shares[level]) * len(energy))
        levels[order[begin:end]] = level
        below += shares[level]
    return levels


def shares_for(bits: float, levels: tuple[int, ...] = ALL) -> dict[int, float]:
    """Fixed shares with that average: three neighbouring levels, binomial: ¼ ½ ¼ in the middle."""
    check_bits(bits, levels[-1])
    places = range(len(levels) - 2)
    if not places:
        return {levels[1]: bits / levels[1]}
    best = min(places, key=lambda i: abs((levels[i] + levels[i + 2]) / 2 - bits))
    low, middle, high = levels[best : best + 3]
    inside = min(max(bits, low), high)
    # the share p with (1-p)² low + 2p(1-p) middle + p² high = bits
    a, b, c = low - 2 * middle + high, 2 * (middle - low), low - inside
    p = -c / b if a == 0 else (-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)
    found = {low: (1 - p) ** 2, middle: 2 * p * (1 - p), high: p * p}
    return {level: share for level, share in found.items() if level > 0}


def average_bits(levels: U8) -> float:
    """Code bits read per weight."""
    return float(levels.mean())


def _pooled(energy: F32, block: int) -> F32:
    if not np.isfinite(energy).all():
        raise InputError("activations — some are NaN or infinite, must be finite.")
    if block == 1:
        return energy
    if block < 1 or len(energy) % block:
        raise ConfigError.of("block", block, f"a divisor of the {len(energy)} channels")
    return energy.reshape(-1, block).mean(axis=1, dtype=np.float32)


def _levels(
    taken: NDArray[np.bool_], block: int, channels: int, allowed: tuple[int, ...] = ALL
) -> U8:
    levels = np.array(allowed, np.uint8)[taken.sum(axis=0)]
    return np.repeat(levels, block)[:channels]
