"""What is scored of a way to store weights: which tokens are read at few bits, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tidemill.bench.claim import Json
from tidemill.models.token_scores import TokenScores

BLOCK = 16
"""Tokens resampled together: neighbours err alike."""


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
    """Of one way to store weights.

    Args:
        name: Of the way.
        bits: Read per weight and token: codes with padding, outliers, scales.
        tokens: How the predicted tokens fare.
    """

    name: str
    bits: float
    tokens: TokenScores

    @property
    def kl(self) -> float:
        """Mean divergence from the source model."""
        return self.tokens.kl

    @property
    def perplexity(self) -> float:
        """Of the predicted tokens."""
        return self.tokens.perplexity

    def to_json(self) -> dict[str, Json]:
        """For a report."""
        return self.tokens.to_json(self.name, self.bits)
