"""The shape of a decoder: one value for every architecture that can be run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tidemill.errors import ConfigError, UnsupportedModel
from tidemill.models.rope_scaling import RopeScaling, inverse_frequencies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tidemill.models.gguf import GGUFFile

ARCHITECTURES = ("gemma3", "llama", "qwen2", "qwen3")
ACTIVATIONS = ("silu", "gelu_tanh")
_SIZES = {
    "layers": 1 << 10,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "heads": 1 << 10,
    "kv_heads": 1 << 10,
    "head_dim": 1 << 12,
    "vocab_size": 1 << 22,
    "context_length": 1 << 27,
}
"""The largest value of each size; a larger one is a mistake, and would be allocated for."""
_LARGEST_THETA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """What a decoder computes, apart from its weights.

    Raises:
        ConfigError: a size is outside its range, or two fields contradict each other.
    """

    architecture: str
    """One of ``ARCHITECTURES``; what computes differently is in the other fields."""
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    rope_theta_local: float
    """Theta of the sliding layers (Gemma3: 10,000); elsewhere the same as ``rope_theta``."""
    rope_scaling: RopeScaling | None = None
    """Of the full layers only; sliding layers are never scaled."""
    rope_interleaved: bool = False
    """Whether a rotation takes neighbours (2i, 2i + 1), as Llama's rows in GGUF are permuted for;
    else (i, i + head_dim / 2)."""
    sliding_window: int | None = None
    """A query of a sliding layer sees itself and the ``sliding_window - 1`` tokens before it."""
    sliding_layers: tuple[bool, ...]
    query_scale: float
    """What q·k is multiplied by before the softmax."""
    activation: str = "silu"
    embedding_scale: float = 1.0
    """What a looked-up embedding is multiplied by; Gemma: √hidden_size."""
    qk_norm: bool = False
    attention_bias: bool = False
    post_norms: bool = False
    """Whether attention and MLP are normed before they are added to the residual, too."""
    tied_head: bool = False
    """Whether the head is the embedding."""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedModel(
                f"architecture {self.architecture!r} — is not implemented; "
                f"{', '.join(ARCHITECTURES)} are."
            )
        for name, most in _SIZES.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError.of(name, getattr(self, name), f"from 1 to {most}")
        for name in ("rms_norm_eps", "query_scale", "embedding_scale"):
            _check_positive(name, getattr(self, name))
        for name in ("rope_theta", "rope_theta_local"):
            if not 1 < getattr(self, name) <= _LARGEST_THETA:
                raise ConfigError.of(name, getattr(self, name), "above 1, at most 1e12")
        if self.heads % self.kv_heads:
            raise ConfigError.of("kv_heads", self.kv_heads, f"a divisor of heads={self.heads}")
        if self.head_dim % 2:
            raise ConfigError.of("head_dim", self.head_dim, "even", "dimensions rotate in pairs")
        if self.activation not in ACTIVATIONS:
            raise ConfigError.of("activation", self.activation, f"one of {ACTIVATIONS}")
        self._check_sliding()

    def _check_sliding(self) -> None:
        if len(self.sliding_layers) != self.layers:
            raise ConfigError.of(
                "sliding_layers", len(self.sliding_layers), f"{self.layers} booleans, one a layer"
            )
        if self.sliding_window is None and any(self.sliding_layers):
            raise ConfigError.of("sliding_window", None, "set if any layer slides")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ConfigError.of("sliding_window", self.sliding_window, "at least 1")

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> DecoderConfig:
        """The decoder in ``file``. Its RMSNorm weights contain Gemma's "+1" already.

        Raises:
            CorruptFile: a key is missing or says something impossible.
            UnsupportedModel: the architecture, or a variation of it, is not implemented.
        """
        from tidemill.models.gguf_config import config_of

        return config_of(file)

    @classmethod
    def from_hf(cls, config: Mapping[str, object]) -> DecoderConfig:
        """The decoder that a ``config.json`` of the Hugging Face hub describes.

        Raises:
            CorruptFile: a key is missing or says something impossible.
            UnsupportedModel: the architecture, or a variation of it, is not implemented.
        """
        from tidemill.models.hf_config import config_of

        return config_of(config)

    def window(self, layer: int) -> int | None:
        """How many tokens a query of ``layer`` sees, itself included; None for all."""
        return self.sliding_window if self.sliding_layers[layer] else None

    def inverse_frequencies(self, layer: int) -> NDArray[np.float32]:
        """The angles per position of ``layer``'s rotations, shape (head_dim / 2,)."""
        if self.sliding_layers[layer]:
            return inverse_frequencies(self.head_dim, self.rope_theta_local, None)
        return inverse_frequencies(self.head_dim, self.rope_theta, self.rope_scaling)

    def rope_magnitude(self, layer: int) -> float:
        """What the rotated q and k of ``layer`` are multiplied by; not 1 for YaRN only."""
        if self.rope_scaling is None or self.sliding_layers[layer]:
            return 1.0
        return self.rope_scaling.magnitude

    @property
    def kv_size(self) -> int:
        """Numbers in the keys (or the values) of one token in one layer."""
        return self.kv_heads * self.head_dim

    def to_json(self) -> dict[str, object]:
        """Every field by name, for people and machines to read."""
        document: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        scaling = self.rope_scaling
        document["rope_scaling"] = None if scaling is None else scaling.to_json()
        document["sliding_layers"] = list(self.sliding_layers)
        return document


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError.of(name, value, "a positive number")
