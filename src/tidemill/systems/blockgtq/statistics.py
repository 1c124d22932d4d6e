"""What calibration keeps of one layer's queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_SAMPLES = 512
_WORTH = 1 / 20


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Of one layer; H KV heads, B = d/2 RoPE blocks, S sampled tokens.

    Args:
        frequencies: Radians per position of each block, (B,).
        query_energy: E‖q_i‖² over tokens and the query heads of the group, (H, B).
        key_energy: E‖k_i‖², (H, B).
        residual_energy: E‖k_i − μ_i‖², (H, B).
        key_mean: μ before RoPE, zero in blocks where it is small beside the rest, (H, d).
        key_norms: ‖k_i‖ of sampled tokens, (H, S, B).
        residual_norms: ‖k_i − μ_i‖ of the same tokens.
        value_range: log2 of the least and largest ‖v‖, (H, 2).
    """

    frequencies: F64
    query_energy: F64
    key_energy: F64
    residual_energy: F64
    key_mean: F32
    key_norms: NDArray[np.float16]
    residual_norms: NDArray[np.float16]
    value_range: F64

    @classmethod
    def of(cls, queries: F32, keys: F32, values: F32, frequencies: F64) -> LayerStatistics:
        """From queries (Q, T, d), keys and values (H, T, d), all before RoPE.

        Raises:
            InputError: A number is not finite.
        """
        for name, array in (("queries", queries), ("keys", keys), ("values", values)):
            if not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise InputError(
                    f"calibration {name} — not finite at (head, token, dim) {at}; must be finite; "
                    "load the model in float32 or bfloat16."
                )
        kv_heads, tokens, dim = keys.shape
        grouped = _blocks(queries).reshape(kv_heads, -1, dim // 2)
        whole = keys.mean(axis=1, dtype=np.float64)
        spread = _blocks(keys - whole[:, None].astype(np.float32)).mean(axis=1)
        mean = _carrying(whole, spread)
        energy, residual = _blocks(keys), _blocks(keys - mean[:, None].astype(np.float32))
        evenly = np.array(np.linspace(0, tokens - 1, _SAMPLES), dtype=np.int64)
        sample = np.unique(np.concatenate([np.arange(min(16, tokens)), evenly]))
        lengths = np.sqrt((values.astype(np.float64) ** 2).sum(axis=-1))
        floor = np.maximum(lengths.max(axis=1, keepdims=True) * 2.0**-20, 1e-30)
        logs = np.log2(np.maximum(lengths, floor))
        return cls(
            frequencies,
            grouped.mean(axis=1),
            energy.mean(axis=1),
            residual.mean(axis=1),
            mean.astype(np.float32),
            np.sqrt(energy[:, sample]).astype(np.float16),
            np.sqrt(residual[:, sample]).astype(np.float16),
            np.stack([logs.min(axis=1), logs.max(axis=1)], axis=-1),
        )


def _blocks(x: F32) -> F64:
    """‖x_i‖² of each RoPE block: dims i and i + d/2."""
    half = x.shape[-1] // 2
    squares = x.astype(np.float64) ** 2
    return squares[..., :half] + squares[..., half:]


def _carrying(mean: F64, residual: F64) -> F64:
    """``mean`` in the blocks where it is worth taking off, zero elsewhere.

    Left in, it costs at most a factor 1 + _WORTH of what the block's error would be; taken off, two
    multiplications a query head and tile, or a few more in the fastest blocks.

    Args:
        mean: (H, d).
        residual: E‖k_i − μ_i‖² with all of the mean taken off, (H, B).
    """
    half = mean.shape[-1] // 2
    carries = mean[:, :half] ** 2 + mean[:, half:] ** 2 > _WORTH * residual
    return np.where(np.concatenate([carries, carries], axis=1), mean, 0.0)
