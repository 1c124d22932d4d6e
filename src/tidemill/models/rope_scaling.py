"""Rotary positions stretched over longer contexts: linear, Llama 3's and YaRN's scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError

KINDS = ("linear", "llama3", "yarn")
_LONGEST_CONTEXT = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How the angles of RoPE are stretched.

    Raises:
        ConfigError: a value is outside its range.

    Source: Chen et al. 2023 (linear), Peng et al. 2023 (YaRN, §3), the configuration of Llama 3.1.
    """

    kind: str
    factor: float = 1.0
    original_context_length: int = 8192
    """The context that the model was trained with before; ``llama3`` and ``yarn``."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """YaRN's magnitude; None for 0.1 ln(factor) + 1."""
    frequency_divisors: tuple[float, ...] | None = None
    """Llama 3's factors as a GGUF file keeps them, one per frequency; rules the formula out."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError.of("rope_scaling.kind", self.kind, f"one of {KINDS}")
        for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            value: float = getattr(self, name)
            if not _is_sane(value):
                raise ConfigError.of(f"rope_scaling.{name}", value, "from 0.001 to 1,000,000")
        if not 1 <= self.original_context_length <= _LONGEST_CONTEXT:
            raise ConfigError.of(
                "rope_scaling.original_context_length",
                self.original_context_length,
                "from 1 to 2^27",
            )
        if self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError.of(
                "rope_scaling.high_freq_factor",
                self.high_freq_factor,
                f"more than low_freq_factor={self.low_freq_factor}",
            )
        if not all(_is_sane(divisor) for divisor in self.frequency_divisors or ()):
            raise ConfigError.of(
                "rope_scaling.frequency_divisors",
                self.frequency_divisors,
                "numbers from 0.001 to 1,000,000",
            )
        if not _is_sane(self.magnitude):
            raise ConfigError.of(
                "rope_scaling.attention_factor", self.attention_factor, "from 0.001 to 1,000,000"
            )

    @property
    def magnitude(self) -> float:
        """What rotated queries and keys are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def to_json(self) -> dict[str, object]:
        """Every field by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _is_sane(value: float) -> bool:
    """Whether no angle can overflow by it, which NaN and infinity would not be."""
    return 1e-3 <= value <= 1e6


def inverse_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> NDArray[np.float32]:
    """Radians per position of each rotating pair, shape (head_dim / 2,).

    Raises:
        ConfigError: ``scaling`` has divisors, but not one per pair.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies = theta**-exponents
    if scaling is None:
        scaled = frequencies
    elif scaling.frequency_divisors is not None:
        scaled = _divided(frequencies, scaling.frequency_divisors)
    elif scaling.kind == "linear":
        scaled = frequencies / scaling.factor
    elif scaling.kind == "llama3":
        scaled = _llama3(frequencies, scaling)
    else:
        scaled = _yarn(frequencies, head_dim, theta, scaling)
    return scaled.astype(np.float32)


def _divided(frequencies: NDArray[np.float64], divisors: tuple[float, ...]) -> NDArray[np.float64]:
    if len(divisors) != len(frequencies):
        raise ConfigError.of(
            "rope_scaling.frequency_divisors", len(divisors), f"{len(frequencies)}, one per pair"
        )
    return frequencies / np.array(divisors)


def _llama3(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Long wavelengths are stretched by ``factor``, short ones kept, those between blended."""
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def _yarn(
    frequencies: NDArray[np.float64], head_dim: int, theta: float, scaling: RopeScaling
) -> NDArray[np.float64]:
    """Peng et al. 2023, eq. 17-20: a ramp between two dimensions found from rotation counts."""

    def dimension(turns: float) -> float:
        wavelength = scaling.original_context_length / (turns * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    first = max(math.floor(dimension(scaling.beta_fast)), 0)
    last = min(math.ceil(dimension(scaling.beta_slow)), head_dim - 1)
    span = max(last - first, 0.001)
    stretched = np.clip((np.arange(head_dim // 2) - first) / span, 0, 1)
    return stretched * frequencies / scaling.factor + (1 - stretched) * frequencies
