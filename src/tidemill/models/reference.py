"""A decoder written to be read: what the native step must equal, and nothing clever.

Every architecture of ``DecoderConfig`` is this one computation; what differs is in its fields. It
keeps no cache: each call computes all positions anew, in float32, one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tidemill.errors import InputError
from tidemill.models.config import DecoderConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class WeightSource(Protocol):
    """Where a decoder finds its weights; ``ModelFile`` is one."""

    def has(self, role: str, layer: int | None = None) -> bool:
        """Whether that tensor is there; only biases and norms may be missing."""
        ...

    def weight(self, role: str, layer: int | None = None) -> NDArray[np.float32]:
        """The float32 weights, outputs first."""
        ...


class ReferenceDecoder:
    """Llama, Qwen2, Qwen3 or Gemma3 in plain torch.

    Holds all weights in float32: four bytes each. Cost of a call: O(tokens · weights + tokens²).
    """

    def __init__(self, config: DecoderConfig, source: WeightSource) -> None:
        import torch

        self.config = config
        self._source = source
        self._torch = torch
        self._weights: dict[tuple[str, int | None], Tensor] = {}

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of ``ids``, shape (tokens, vocab_size).

        Raises:
            InputError: there is no id, or one is outside the vocabulary.
        """
        with self._torch.inference_mode():
            x = self.hidden(ids)
            return self._linear(x, "output")

    def hidden(self, ids: Sequence[int]) -> Tensor:
        """What the head sees, shape (tokens, hidden_size)."""
        self._check(ids)
        config, torch = self.config, self._torch
        with torch.inference_mode():
            x = self._weight("embedding")[torch.tensor(ids)] * config.embedding_scale
            for layer in range(config.layers):
                x = x + self._attention(self._norm(x, "attn_norm", layer), layer)
                x = x + self._mlp(self._norm(x, "ffn_norm", layer), layer)
            return self._norm(x, "output_norm")

    def _attention(self, x: Tensor, layer: int) -> Tensor:
        config, torch = self.config, self._torch
        tokens = x.shape[0]
        q = self._linear(x, "q", layer).view(tokens, config.heads, config.head_dim)
        k = self._linear(x, "k", layer).view(tokens, config.kv_heads, config.head_dim)
        v = self._linear(x, "v", layer).view(tokens, config.kv_heads, config.head_dim)
        if config.qk_norm:
            q, k = self._norm(q, "q_norm", layer), self._norm(k, "k_norm", layer)
        q, k = self._rotate(q, layer), self._rotate(k, layer)
        group = config.heads // config.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * config.query_scale
        scores = scores.masked_fill(~self._visible(tokens, layer), float("-inf"))
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), v)
        out = self._linear(mixed.reshape(tokens, -1), "o", layer)
        return self._norm(out, "post_attn_norm", layer) if config.post_norms else out

    def _mlp(self, x: Tensor, layer: int) -> Tensor:
        functional = self._torch.nn.functional
        gate = self._linear(x, "gate", layer)
        if self.config.activation == "silu":
            gate = functional.silu(gate)
        else:
            gate = functional.gelu(gate, approximate="tanh")
        out = self._linear(gate * self._linear(x, "up", layer), "down", layer)
        return self._norm(out, "post_ffn_norm", layer) if self.config.post_norms else out

    def _visible(self, tokens: int, layer: int) -> Tensor:
        """Which keys (columns) each query (row) sees."""
        at = self._torch.arange(tokens)
        distance = at[:, None] - at[None, :]
        visible = distance >= 0
        window = self.config.window(layer)
        return visible if window is None else visible & (distance < window)

    def _rotate(self, x: Tensor, layer: int) -> Tensor:
        """RoPE on x (tokens, heads, head_dim), in either order of the pairs."""
        config, torch = self.config, self._torch
        positions = torch.arange(x.shape[0], dtype=torch.float32)
        angles = positions[:, None] * torch.from_numpy(config.inverse_frequencies(layer))
        magnitude = config.rope_magnitude(layer)
        cos, sin = angles.cos()[:, None] * magnitude, angles.sin()[:, None] * magnitude
        if config.rope_interleaved:
            first, second = x[..., 0::2], x[..., 1::2]
        else:
            first, second = x.chunk(2, dim=-1)
        rotated = (first * cos - second * sin, first * sin + second * cos)
        if config.rope_interleaved:
            return torch.stack(rotated, dim=-1).flatten(-2)
        return torch.cat(rotated, dim=-1)

    def _norm(self, x: Tensor, role: str, layer: int | None = None) -> Tensor:
        mean = x.square().mean(dim=-1, keepdim=True)
        scale = (mean + self.config.rms_norm_eps).rsqrt()
        return x * scale * self._weight(role, layer)

    def _linear(self, x: Tensor, role: str, layer: int | None = None) -> Tensor:
        bias_role = f"{role}_bias"
        has_bias = (
            role in ("q", "k", "v", "o")
            and self.config.attention_bias
            and self._source.has(bias_role, layer)
        )
        bias = self._weight(bias_role, layer) if has_bias else None
        return self._torch.nn.functional.linear(x, self._weight(role, layer), bias)

    def _weight(self, role: str, layer: int | None = None) -> Tensor:
        if role == "output" and self.config.tied_head:
            role = "embedding"
        key = (role, layer)
        if key not in self._weights:
            self._weights[key] = self._torch.as_tensor(self._source.weight(role, layer))
        return self._weights[key]

    def _check(self, ids: Sequence[int]) -> None:
        if not ids:
            raise InputError("prompt — is empty; give at least one token.")
        for token in ids:
            if not 0 <= token < self.config.vocab_size:
                raise InputError(
                    f"token id {token} — is outside the vocabulary; "
                    f"ids are from 0 to {self.config.vocab_size - 1}."
                )
