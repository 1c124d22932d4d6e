"""RoPE in split halves; what a loaded transformers model says of it and of its windows.

Also a fingerprint of a model's keys.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPLIT_HALVES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3")
"""Model types whose RoPE turns dims i and i + d/2 together, all of them."""
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")


def rotate(
    x: NDArray[np.float32],
    frequencies: NDArray[np.float64],
    positions: NDArray[np.int64],
    *,
    sign: int = 1,
) -> NDArray[np.float32]:
    """RoPE, split halves: turn each block of ``x`` (…, T, d) by sign · frequency · position."""
    angles = sign * positions[:, None] * frequencies
    cos, sin = np.cos(angles), np.sin(angles)
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    return np.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1).astype(
        np.float32
    )


def split_halves(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dims (0, 1), (2, 3) … that RoPE turns together, as dims i and i + d/2."""
    return np.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


def frequencies_of(model: PreTrainedModel) -> tuple[NDArray[np.float64], ...]:
    """Radians per position of each RoPE block, for every layer.

    Raises:
        UnsupportedModel: RoPE of part of a head, of interleaved dims, or that changes with length.
    """
    config: Any = model.config.get_text_config()
    if config.model_type not in SPLIT_HALVES:
        raise UnsupportedModel(
            f"model type {config.model_type!r} — its RoPE is not known; must be one of "
            f"{', '.join(SPLIT_HALVES)}."
        )
    rotary = next(m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding"))
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return tuple(_frequencies(rotary, kind, _head_dim(config)) for kind in kinds)


def _frequencies(rotary: Any, kind: str, head_dim: int) -> NDArray[np.float64]:
    rope_type = rotary.rope_type
    chosen = rope_type[kind] if isinstance(rope_type, dict) else rope_type
    if chosen not in _STATIC_ROPE:
        raise UnsupportedModel(
            f"RoPE scaling {chosen!r} — changes with the length; must be one of "
            f"{', '.join(_STATIC_ROPE)}."
        )
    found = getattr(rotary, f"{kind}_inv_freq", None)
    inverse = rotary.inv_freq if found is None else found
    if 2 * len(inverse) != head_dim or head_dim % 8:
        raise UnsupportedModel(
            f"RoPE over {2 * len(inverse)} of {head_dim} dimensions — must be all of a head whose "
            "size is a multiple of 8."
        )
    return inverse.double().cpu().numpy()


def windows_of(model: PreTrainedModel) -> tuple[int, ...]:
    """The sliding window of each layer, 0 for none."""
    config: Any = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return tuple(int(config.sliding_window) if "sliding" in kind else 0 for kind in kinds)


def fingerprint_of(model: PreTrainedModel) -> str:
    """Of the shapes, the RoPE and the q and k projections, in whatever precision they are held."""
    import torch

    config: Any = model.config.get_text_config()
    shape = [
        config.model_type,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        _head_dim(config),
        getattr(config, "rope_parameters", None),
    ]
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True, default=str).encode())
    last = config.num_hidden_layers - 1
    for name, weight in sorted(model.named_parameters()):
        is_sampled = any(f".{layer}." in name for layer in (0, last // 2, last))
        if is_sampled and (".q_proj." in name or ".k_proj." in name):
            digest.update(weight.detach().to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _head_dim(config: Any) -> int:
    found = getattr(config, "head_dim", None)
    return int(found or config.hidden_size // config.num_attention_heads)
