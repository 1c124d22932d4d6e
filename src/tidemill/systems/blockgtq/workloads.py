"""Real inputs: WikiText-2 excerpts, a captured layer, models of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidemill.models.hf_model import load_model, missing_torch
from tidemill.models.hf_rope import rotate
from tidemill.models.wikitext import excerpt as text
from tidemill.systems.blockgtq.statistics import LayerStatistics

F32 = NDArray[np.float32]
__all__ = ["Captured", "captured", "load_model", "missing_torch", "text"]
_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class Captured:
    """What one layer attended with over one text: queries (Q, T, d), keys and values (H, T, d).

    Queries and keys are from before RoPE, whose ``frequencies`` are in radians per position.
    """

    queries: F32
    keys: F32
    values: F32
    frequencies: NDArray[np.float64]

    def statistics(self) -> LayerStatistics:
        """What calibration keeps of it."""
        return LayerStatistics.of(self.queries, self.keys, self.values, self.frequencies)

    def repeated(self, tokens: int) -> tuple[F32, F32]:
        """Keys at positions 0… and values of ``tokens`` tokens, the capture over and over."""
        order = np.arange(tokens) % self.keys.shape[1]
        keys = rotate(self.keys[:, order], self.frequencies, np.arange(tokens))
        return keys, np.ascontiguousarray(self.values[:, order])


def captured(split: str) -> Captured:
    """Layer 12 of Qwen2.5-Coder-0.5B over 384 tokens: one KV head, three of its query heads."""
    with np.load(_DATA / "qwen_layer12.npz") as file:
        arrays = [
            file[f"{split}_{name}"].astype(np.float32) for name in ("queries", "keys", "values")
        ]
        return Captured(arrays[0], arrays[1], arrays[2], file["frequencies"])
