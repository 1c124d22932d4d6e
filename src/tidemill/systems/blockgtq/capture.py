"""Calibration of a transformers model: one forward pass whose attention also takes notes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tidemill.errors import ConfigError
from tidemill.models.hf_capture import capture
from tidemill.models.hf_rope import fingerprint_of, frequencies_of, windows_of
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.statistics import F32, LayerStatistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
