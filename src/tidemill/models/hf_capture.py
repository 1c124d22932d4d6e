"""What each layer of a transformers model attends with, seen from inside its attention."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.models.hf_rope import frequencies_of, rotate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

F32 = NDArray[np.float32]
OnLayer: TypeAlias = Callable[[int, F32, F32, F32], None]
"""Layer, queries (Q, T, d), keys and values (H, T, d); queries and keys before RoPE."""


def capture(model: PreTrainedModel, ids: torch.Tensor, on_layer: OnLayer) -> None:
    """Run ``model`` over one row of token ids and hand over what each layer attends with.

    Raises:
        UnsupportedModel: Its RoPE is not of whole heads in split halves.
        ConfigError: More than one row.
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

    name = f"tidemill_capture_{id(take)}"
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
        raise ConfigError.of("batch", x.shape[0], "1", "one row of tokens at a time")
    return np.ascontiguousarray(x[0].float().cpu().numpy())
