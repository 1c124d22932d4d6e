"""`GrinqhLinear`, and a torch model whose projections are replaced by it, live and in place."""

# torch leaves parts of its interface untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import NativeMatrix, Threads
from tidemill.systems.grinqh.selection import STEPS, budget_of, check_bits, slopes


@dataclass(slots=True)
class Trace:
    """What was read while it was open."""

    code_bits: float = 0.0
    weights: int = 0
    by_layer: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def average_bits(self) -> float:
        """Code bits read per weight and token."""
        return self.code_bits / max(1, self.weights)


_open: list[Trace] = []


@contextmanager
def trace() -> Generator[Trace]:
    """Count the bits that every `GrinqhLinear` reads inside the block."""
    found = Trace()
    _open.append(found)
    try:
        yield found
    finally:
        _open.remove(found)


class GrinqhLinear(nn.Module):
    """A linear layer that reads ``decode`` bits a weight for one token, all of them for many.

    A call with one token runs the native kernel on the packed planes. A call with several is
    prefill: with ``prefill=None`` it reads the top level, else that many bits for each token, in
    dense arithmetic on dequantised levels (for measuring quality, not speed).
    """

    def __init__(self, matrix: GradedMatrix, bias: Any = None, name: str = "linear") -> None:
        super().__init__()
        self.matrix, self.name = matrix, name
        self.bias = bias
        self.decode: float = float(LEVELS[-1])
        self.prefill: float | None = None
        self.block = 1
        self.threads: Threads | None = None
        self._native: NativeMatrix | None = None
        self._dense: dict[int, Any] = {}
        self._norm2 = torch.from_numpy(np.square(matrix.col_norm.astype(np.float32)))

    @property
    def weight(self) -> Any:
        """The top level, dequantised: what others read a dtype or device from."""
        return self._level(LEVELS[-1])

    def forward(self, x: Any) -> Any:
        """Y (..., m) of x (..., n)."""
        flat = x.detach().reshape(-1, self.matrix.cols).float()
        if not torch.isfinite(flat).all():
            raise InputError(f"{self.name} — its input holds NaN or infinity, must be finite.")
        if flat.shape[0] == 1:
            y = self._one(flat)
        elif self.prefill is None:
            y = flat @ self._level(LEVELS[-1]).T
            self._count(LEVELS[-1], flat.shape[0])
        else:
            y = self._graded(flat, self.prefill)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.matrix.rows)

    def levels(self, flat: Any, bits: float) -> Any:
        """Levels (tokens, n) of inputs (tokens, n): `selection.by_budget` for each token."""
        energy = flat * flat * self._norm2
        if self.block > 1:
            energy = energy.unflatten(1, (-1, self.block)).mean(2)
        channels = energy.shape[1]
        key = energy[:, None, :] * torch.from_numpy(slopes())[None, :, None]
        order = key.flatten(1).argsort(dim=1, descending=True, stable=True)
        cost = torch.tensor(STEPS).repeat_interleave(channels)
        taken = torch.zeros_like(order, dtype=torch.bool)
        taken.scatter_(1, order, cost[order].cumsum(1) <= budget_of(bits, channels))
        steps = taken.unflatten(1, (len(STEPS), channels)).sum(1)
        return torch.tensor((0, *LEVELS))[steps].repeat_interleave(self.block, 1)

    def release(self) -> None:
        """Forget dequantised levels; they are made again when needed."""
        self._dense.clear()

    def _one(self, flat: Any) -> Any:
        if self._native is None or self.threads is None:
            self._native = NativeMatrix(self.matrix)
            self.threads = self.threads or Threads(torch.get_num_threads())
        x = np.ascontiguousarray(flat.numpy()[0])
        levels = self._native.select(x, self.decode, self.block)
        self._count(float(levels.mean()), 1)
        return torch.from_numpy(self._native.apply(x, levels, self.threads))[None]

    def _graded(self, flat: Any, bits: float) -> Any:
        levels = self.levels(flat, bits)
        self._count(float(levels.float().mean()), flat.shape[0])
        y = torch.zeros(flat.shape[0], self.matrix.rows)
        for level in LEVELS:
            is_read = levels == level
            if is_read.any():
                y += (flat * is_read) @ self._level(level).T
        return y

    def _level(self, level: int) -> Any:
        if level not in self._dense:
            self._dense[level] = torch.from_numpy(self.matrix.dequantise(level))
        return self._dense[level]

    def _count(self, bits: float, tokens: int) -> None:
        for found in _open:
            weights = tokens * self.matrix.rows * self.matrix.cols
            found.code_bits += bits * weights
            found.weights += weights
            found.by_layer.setdefault(self.name, []).append(bits)


@dataclass(frozen=True, slots=True)
class Quantised:
    """What `quantize` did to a model.

    Args:
        layers: The new layers by module name.
        skipped: Modules with weights left as they were, and why.
    """

    layers: dict[str, GrinqhLinear]
    skipped: dict[str, str]

    @property
    def stored_bits(self) -> float:
        """Bits per weight of what is stored, over all layers."""
        sizes = [each.matrix.rows * each.matrix.cols for each in self.layers.values()]
        bits = [each.matrix.stored_bits for each in self.layers.values()]
        return float(np.average(bits, weights=sizes))

    @property
    def overhead_bits(self) -> float:
        """Bits per weight of outliers and scales."""
        sizes = [each.matrix.rows * each.matrix.cols for each in self.layers.values()]
        bits = [each.matrix.overhead_bits for each in self.layers.values()]
        return float(np.average(bits, weights=sizes))

    def set_bits(
        self, decode: float | None = None, prefill: float | str | None = None, block: int = 1
    ) -> None:
        """Change what the next calls read; nothing is loaded anew.

        Args:
            decode: Average bits of a call with one token; None leaves it.
            prefill: Bits of a call with several, or "full"; None leaves it.
            block: Neighbouring channels that share a level, where they can be divided so.

        Raises:
            ConfigError: A value is out of range.
        """
        for bits in (decode, prefill):
            if isinstance(bits, str):
                if bits != "full":
                    raise ConfigError.of("prefill", bits, 'a number or "full"')
            elif bits is not None:
                check_bits(bits)
        if block < 1:
            raise ConfigError.of("block", block, "at least 1")
        for layer in self.layers.values():
            layer.decode = layer.decode if decode is None else decode
            if prefill is not None:
                layer.prefill = None if isinstance(prefill, str) else prefill
            layer.block = block if layer.matrix.cols % block == 0 else 1


def quantize(model: nn.Module, *, head: bool = False, threads: int | None = None) -> Quantised:
    """Replace the `torch.nn.Linear` layers of ``model`` in place.

    A weight that several modules share is quantised once. ``head=False`` leaves the output
    embedding, and whatever shares its weight, as it is.

    Raises:
        InputError: A weight cannot be quantised (the text names the layer), or none is left.
    """
    pool = Threads(threads or torch.get_num_threads())
    kept: Any = getattr(model, "get_output_embeddings", lambda: None)()
    made: dict[int, GradedMatrix] = {}
    layers: dict[str, GrinqhLinear] = {}
    skipped: dict[str, str] = {}
    for name, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        if isinstance(module, GrinqhLinear) or weight is None or weight.ndim != 2:
            continue
        if not isinstance(module, nn.Linear):
            skipped[name] = f"{type(module).__name__} is no torch.nn.Linear"
        elif module is kept and not head:
            skipped[name] = "output embedding"
        else:
            if id(weight) not in made:
                dense = weight.detach().float().numpy()
                made[id(weight)] = GradedMatrix.quantise(dense, name)
            layer = GrinqhLinear(made[id(weight)], module.bias, name)
            layer.threads = pool
            model.set_submodule(name, layer)
            layers[name] = layer
    if not layers:
        raise InputError(
            f"{type(model).__name__} — none of its layers is a torch.nn.Linear that can be "
            f"quantised; left out: {skipped or 'nothing'}."
        )
    return Quantised(layers, skipped)
