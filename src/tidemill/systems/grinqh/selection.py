"""How many bits each input channel gets for this token: water-filling over activation energy.

Channel j read at b bits adds about a_j² D(b) to the squared error of the output, a_j = |x_j| times
the norm of column j. The step to level b saves a_j² · slope_b for every bit it costs; slopes fall,
so taking steps in order of their saving is optimal and every channel's steps come in order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS, U8, gaussian

F32 = NDArray[np.float32]
STEPS = tuple(high - low for low, high in zip((0, *LEVELS), LEVELS, strict=False))
"""Bits that each step costs: 2, 1, 1, 2."""


def slopes() -> F32:
    """What each step saves per bit, float32 as the kernel compares it."""
    return np.array(gaussian().slopes(), np.float32)


def budget_of(bits: float, channels: int) -> int:
    """Code bits that ``channels`` may take together at ``bits`` on average.

    Raises:
        ConfigError: ``bits`` is not in [0, 6].
    """
    check_bits(bits)
    return math.floor(bits * channels + 1e-9)


def check_bits(bits: float) -> None:
    """Refuse an average that no choice of levels has.

    Raises:
        ConfigError: ``bits`` is not in [0, 6].
    """
    if not 0 <= bits <= LEVELS[-1]:
        raise ConfigError.of("bits", bits, f"in [0, {LEVELS[-1]}]", "average bits per weight read")


def by_budget(energy: F32, bits: float, block: int = 1) -> U8:
    """The level of each channel such that the average is at most ``bits``, as near as steps allow.

    Args:
        energy: (n,) a_j², not negative.
        bits: Average code bits per weight.
        block: Neighbouring channels that share a level (mean energy decides).

    Raises:
        InputError: An energy is NaN or infinite.
        ConfigError: ``bits`` or ``block`` is out of range.
    """
    pooled = _pooled(energy, block)
    budget = budget_of(bits, len(pooled))
    key = pooled[None, :] * slopes()[:, None]  # (steps, n); ties: lower step, then lower index
    order = np.argsort(-key, axis=None, kind="stable")
    cost = np.repeat(np.array(STEPS), len(pooled))[order]
    taken = np.zeros(key.size, bool)
    taken[order[np.cumsum(cost) <= budget]] = True
    return _levels(taken.reshape(key.shape), block, len(energy))


def by_threshold(energy: F32, water: float, block: int = 1) -> U8:
    """The level of each channel whose steps save more than ``water`` per bit.

    Raises:
        InputError: An energy is NaN or infinite.
    """
    key = _pooled(energy, block)[None, :] * slopes()[:, None]
    return _levels(key > np.float32(water), block, len(energy))


def by_proportion(energy: F32, shares: dict[int, float]) -> U8:
    """The plain reading of the abstract: fixed shares of the channels, the largest at most bits.

    Args:
        energy: (n,) a_j².
        shares: By level; what is left over is skipped.

    Raises:
        ConfigError: A level does not exist or the shares exceed 1.
    """
    if not set(shares) <= set(LEVELS) or min(shares.values()) < 0 or sum(shares.values()) > 1:
        raise ConfigError.of("shares", shares, f"shares of {LEVELS} that add up to at most 1")
    order = np.argsort(-_pooled(energy, 1), kind="stable")
    levels = np.zeros(len(energy), np.uint8)
    begin = 0
    for level in sorted(shares, reverse=True):
        end = begin + round(shares[level] * len(energy))
        levels[order[begin:end]] = level
        begin = end
    return levels


def water_for(energies: list[F32], bits: float) -> float:
    """The threshold that gives ``bits`` on average over calibration tokens (TEAL's way).

    Raises:
        ConfigError: ``bits`` is out of range or there are no energies.
    """
    if not energies:
        raise ConfigError.of("energies", 0, "at least one token")
    pooled = np.concatenate(energies)
    key = np.concatenate([pooled * slope for slope in slopes()])
    order = np.argsort(-key, kind="stable")
    cost = np.cumsum(np.repeat(np.array(STEPS), len(pooled))[order])
    kept = int(np.searchsorted(cost, budget_of(bits, len(pooled)), side="right"))
    return float(key[order[kept]]) if kept < len(key) else -1.0


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


def _levels(taken: NDArray[np.bool_], block: int, channels: int) -> U8:
    levels = np.array((0, *LEVELS), np.uint8)[taken.sum(axis=0)]
    return np.repeat(levels, block)[:channels]
