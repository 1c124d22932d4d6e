"""Scores of ways to store weights: what is scored, how far it diverges, and with what certainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tidemill.bench.claim import Json

F64 = NDArray[np.float64]
BLOCK = 16
"""Tokens resampled together: neighbours err alike."""
_RESAMPLES = 2000


class Reach(StrEnum):
    """Which tokens are read at few bits."""

    DECODE = "decode"
    """The prompt at the full level, its continuation at few bits, teacher-forced."""
    ALL = "all tokens"
    """Prompt and continuation alike: harder than decoding ever is."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How much is scored.

    Args:
        windows: Of test text.
        prompt: Tokens of a window that are only read.
        continuation: Tokens after them that are predicted.
        calibration: Tokens of train text.
    """

    windows: int
    prompt: int
    continuation: int
    calibration: int


@dataclass(frozen=True, slots=True)
class Score:
    """Of one way to store weights, over the predicted tokens in order.

    Args:
        name: Of the way.
        bits: Read per weight and token: codes with padding, outliers, scales.
        divergence: (tokens,) KL divergence from the source model, nats.
        loss: (tokens,) negative log-likelihood, nats.
    """

    name: str
    bits: float
    divergence: F64
    loss: F64

    @property
    def kl(self) -> float:
        """Mean divergence."""
        return float(self.divergence.mean())

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss."""
        return math.exp(float(self.loss.mean()))

    def to_json(self) -> dict[str, Json]:
        """For a report."""
        return {
            "name": self.name,
            "bits": round(self.bits, 4),
            "kl": float(f"{self.kl:.5g}"),
            "perplexity": float(f"{self.perplexity:.5g}"),
            "tokens": len(self.loss),
        }


def ratio(top: F64, bottom: F64) -> tuple[float, float, float]:
    """Ratio of the means of two aligned series, with a 95 % interval over blocks of tokens."""
    one, two = _blocks(top), _blocks(bottom)
    draws = np.random.default_rng(0).integers(0, len(one), (_RESAMPLES, len(one)))
    low, high = np.quantile(one[draws].mean(axis=1) / two[draws].mean(axis=1), [0.025, 0.975])
    value = float(one.mean() / two.mean())
    return value, min(float(low), value), max(float(high), value)


def perplexity_ratio(top: F64, bottom: F64) -> tuple[float, float, float]:
    """Exp of the mean difference of two aligned losses, with a 95 % interval."""
    gap = _blocks(top - bottom)
    draws = np.random.default_rng(0).integers(0, len(gap), (_RESAMPLES, len(gap)))
    low, high = np.quantile(np.exp(gap[draws].mean(axis=1)), [0.025, 0.975])
    value = math.exp(float(gap.mean()))
    return value, min(float(low), value), max(float(high), value)


def blocks_of(tokens: int) -> int:
    """How many independent blocks so many tokens are."""
    return max(1, tokens // BLOCK)


def _blocks(values: F64) -> F64:
    whole = blocks_of(len(values)) * BLOCK
    if len(values) < BLOCK:
        return values
    found: F64 = values[:whole].reshape(-1, BLOCK).mean(axis=1)
    return found
