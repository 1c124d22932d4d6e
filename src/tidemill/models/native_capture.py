"""What each layer of a native decoder attends with; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tidemill.models.hf_rope import rotate, split_halves
from tidemill.models.native_decoder import NativeDecoder
from tidemill.native import kernels

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile

F32 = NDArray[np.float32]
OnLayer: TypeAlias = Callable[[int, F32, F32, F32], None]
"""Layer, queries (Q, T, d), keys and values (H, T, d).

Queries and keys are from before RoPE, which turns dims i and i + d/2 together.
"""


def capture(model: ModelFile, ids: Sequence[int], on_layer: OnLayer) -> None:
    """Read ``ids`` once and hand over what each layer attended with, layer after layer.

    Holds all of it meanwhile: 4 B for each number of queries, keys and values.
    """
    config, tokens = model.config, len(ids)
    decoder = NativeDecoder(model, context=tokens, kv_tokens=tokens)
    seen: Any = kernels("models").RecordingKV(decoder.sequence())
    decoder.prefill(seen, ids)

    def heads(flat: F32) -> F32:
        return np.ascontiguousarray(flat.reshape(tokens, -1, config.head_dim).swapaxes(0, 1))

    for layer in range(config.layers):
        frequencies = np.asarray(config.inverse_frequencies(layer), dtype=np.float64)

        def still(flat: F32, frequencies: NDArray[np.float64] = frequencies) -> F32:
            x = split_halves(heads(flat)) if config.rope_interleaved else heads(flat)
            return rotate(x, frequencies, np.arange(tokens), sign=-1)

        on_layer(
            layer, still(seen.queries(layer)), still(seen.keys(layer)), heads(seen.values(layer))
        )
