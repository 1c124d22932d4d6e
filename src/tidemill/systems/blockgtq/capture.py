"""Calibration of a transformers model: one forward pass whose attention also takes notes."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tidemill.errors import ConfigError
from tidemill.models.hf_rope import fingerprint_of, frequencies_of, windows_of
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.statistics import F32, LayerStatistics, rotate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ATTENTION = "tidemill_blockgtq_capture"

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
