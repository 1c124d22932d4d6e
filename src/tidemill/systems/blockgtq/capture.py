"""Calibration of a transformers model: one forward pass whose attention also takes notes."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, UnsupportedModel
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.statistics import F32, LayerStatistics, rotate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ATTENTION = "tidemill_blockgtq_capture"
SPLIT_HALVES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3")
"""Model types whose RoPE turns dims i and i + d/2 together, all of them."""
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")

OnLayer: TypeAlias = Callable[[int, F32, F32, F32], None]
"""Layer, queries (Q, T, d), keys and values (H, T, d); queries and keys before RoPE."""


def calibrate(
    model: PreTrainedModel, tokenizer: Any, text: str, *, n_tokens: int = 2048
) -> Calibration:
    """Statistics of one forward pass over the first ``n_tokens`` tokens of ``text``.

    Raises:
        ConfigError: ``n_tokens`` below 64, or more than the text has.
        UnsupportedModel: Its RoPE is not of whole heads in split halves.
    """
    ids = tokenizer(text[: 16 * n_tokens], return_tensors="pt")["input_ids"][:, :n_tokens]
    if not 64 <= n_tokens <= ids.shape[1]:
        allowed = f"in 64-{ids.shape[1]}"
        raise ConfigError.of("n_tokens", n_tokens, allowed, "as many as the text has, at most")
    layers: dict[int, LayerStatistics] = {}
    rope = frequencies_of(model)

    def keep(layer: int, queries: F32, keys: F32, values: F32) -> None:
        layers[layer] = LayerStatistics.of(queries, keys, values, rope[layer])

    capture(model, ids, keep)
    return Calibration(
        tuple(layers[i] for i in range(len(rope))),
        windows_of(model),
        fingerprint_of(model),
        hashlib.sha256(text.encode()).hexdigest(),
        n_tokens,
    )


def capture(model: PreTrainedModel, ids: torch.Tensor, on_layer: OnLayer) -> None:
    """Run ``model`` over one row of token ids and hand over what each layer attends with.

    Raises:
        UnsupportedModel: As `calibrate`.
    """
    import torch

    rope = frequencies_of(model)
    positions = np.arange(ids.shape[1])

    def take(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        layer = int(module.layer_idx)
        arrays = [_plain(x) for x in (query, key, value)]
        queries, keys = (rotate(x, rope[layer], positions, sign=-1) for x in arrays[:2])
        on_layer(layer, queries, keys, arrays[2])

    with torch.inference_mode(), _taking_notes(model, take):
        model.base_model(input_ids=ids, use_cache=False)


@contextmanager
def _taking_notes(model: PreTrainedModel, take: Callable[..., None]) -> Generator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **rest: Any
    ) -> tuple[Any, None]:
        take(module, query, key, value)
        made, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **rest)
        return made, None

    name = f"{ATTENTION}_{id(take)}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    before = str(model.config._attn_implementation)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(name, None)


def _plain(x: torch.Tensor) -> F32:
    if x.shape[0] != 1:
        raise ConfigError.of("batch", x.shape[0], "1", "calibration takes one row of tokens")
    return np.ascontiguousarray(x[0].float().cpu().numpy())


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
