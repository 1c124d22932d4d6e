"""Plugs for the sockets of a decoder, made of what the models' room itself offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.models.model_file import ModelFile
from tidemill.native import kernels


@dataclass
class Floats:
    """Every matrix of a named role in float32."""

    role: str = "down"

    def __post_init__(self) -> None:
        self.packed: list[tuple[str, int | None]] = []

    def pack(self, model: ModelFile, role: str, layer: int | None, pool: Any) -> Any:
        if role != self.role:
            return None
        self.packed.append((role, layer))
        weights = self.weights(model, layer)
        raw = weights.view(np.uint8).ravel()
        return kernels("models").pack_linear(0, *weights.shape, raw, pool)

    def weights(self, model: ModelFile, layer: int | None) -> np.ndarray:
        return model.weight(self.role, layer)


class Transposed(Floats):
    def weights(self, model: ModelFile, layer: int | None) -> np.ndarray:
        return np.ascontiguousarray(model.weight(self.role, layer).T)


@dataclass
class OwnPages:
    """The usual cache, but of an arena that the plug owns."""

    options: str = ""

    def pool(self, model: ModelFile, tokens: int) -> OwnPages:
        config = model.config
        sizes = config.layers, config.kv_heads, config.head_dim
        self.arena = kernels("models").PageArena(*sizes, -(-tokens // 32))
        return self

    def sequence(self) -> Any:
        return kernels("models").paged_kv(self.arena)


class WrongShape(OwnPages):
    def pool(self, model: ModelFile, tokens: int) -> OwnPages:
        self.arena = kernels("models").PageArena(1, 1, 8, 4)
        return self
