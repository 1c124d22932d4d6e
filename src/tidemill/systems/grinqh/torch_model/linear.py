"""`GrinqhLinear`: a torch layer that reads as many bits of its weights as this token deserves."""

# torch leaves parts of its interface untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from tidemill.errors import InputError
from tidemill.systems.grinqh.choice import Choice
from tidemill.systems.grinqh.codebook import U8
from tidemill.systems.grinqh.graded_matrix import GROUP, GradedMatrix
from tidemill.systems.grinqh.kernels import F32, NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.reading import Reading, is_traced, record

MOST_DECODED = 8
"""Tokens that the kernel multiplies one by one at the top level too; more are a prompt."""
_TILE = 4 << 20
FIELDS = ("row_scale", "col_scale", "col_norm", "outlier_start", "outlier_rows", "outlier_values")


@dataclass(frozen=True, slots=True)
class Stages:
    """How each group of layers chooses in decode and in prefill; None: the top level for all."""

    decode: Mapping[str, Choice | None]
    prefill: Mapping[str, Choice | None]


@dataclass(slots=True)
class Control:
    """What the layers of one model share: how they choose, threads, and memory to work in.

    While the model runs, a change waits: it takes effect with the model's next call, which is the
    next token, never in the middle of one.
    """

    threads: Threads
    wanted: Stages
    scratch: F32 = field(default_factory=lambda: np.empty(_TILE, np.float32))
    _active: list[tuple[Stages, bool | None]] = field(
        default_factory=list[tuple[Stages, bool | None]]
    )

    def scratch_of(self, floats: int) -> F32:
        """Memory to dequantise into, at least so much; one layer at a time may use it."""
        if self.scratch.size < floats:
            self.scratch = np.empty(floats, np.float32)
        return self.scratch

    def enter(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The model begins a call: a forward pre-hook."""
        ids = named.get("input_ids", given[0] if given else None)
        one = None
        if isinstance(ids, torch.Tensor) and not ids.is_floating_point():
            one = ids.shape[-1] == 1
        elif (embedded := named.get("inputs_embeds")) is not None:
            one = embedded.shape[-2] == 1
        self._active.append((self.wanted, one))

    def leave(self, *_: Any) -> None:
        """The model ended a call, well or not: a forward hook that is always called."""
        self._active.pop()

    def choice(self, group: str, x: Any) -> Choice | None:
        """How ``group`` chooses for this input."""
        stages, is_decode = self._active[-1] if self._active else (self.wanted, None)
        if is_decode is None:
            is_decode = x.numel() == x.shape[-1] or (x.ndim > 2 and x.shape[-2] == 1)
        return (stages.decode if is_decode else stages.prefill)[group]


class Group:
    """Layers that share one input, and so the choice of levels for its channels.

    Args:
        name: Of the first of them.
        norm2: (n,) squared column norms of all of them together.
        levels: What a channel may be read at, from 0.
    """

    def __init__(
        self, name: str, norm2: F32, levels: tuple[int, ...], threads: Threads | None = None
    ) -> None:
        self.name, self.norm2, self.ladder = name, norm2, levels
        self.selector = Selector(norm2, levels, threads=threads)
        self._last: tuple[Any, Choice, U8] | None = None

    def levels(self, x: Any, flat: F32, choice: Choice) -> U8:
        """Levels (tokens, n) of the input ``x``, which is ``flat`` as rows; chosen once for all."""
        if self._last is not None and self._last[0]() is x and self._last[1] is choice:
            return self._last[2]
        levels = choice(flat)
        self._last = (weakref.ref(x), choice, levels)
        return levels


class GrinqhLinear(nn.Module):
    """A linear layer over a `GradedMatrix`.

    Where levels are chosen, the native kernel runs on the packed planes, token by token, and reads
    no more than the planes chosen. At the top level, more than `MOST_DECODED` tokens are multiplied
    by torch with tiles that are dequantised once for all of them and thrown away.
    """

    def __init__(
        self, matrix: GradedMatrix, *, bias: Any, name: str, group: Group, control: Control
    ) -> None:
        super().__init__()
        self.name, self.group, self.control = name, group, control
        self.out_features, self.in_features = matrix.rows, matrix.cols
        self.bias = bias
        self.codebook = matrix.codebook
        for each in FIELDS:
            self.register_buffer(each, torch.from_numpy(getattr(matrix, each)))
        for level, plane in matrix.planes.items():
            self.register_buffer(f"plane{level}", torch.from_numpy(plane))
        self._native: NativeMatrix | None = None
        self._reading: Reading | None = None

    @property
    def matrix(self) -> GradedMatrix:
        """The stored matrix; its arrays are the layer's buffers."""
        buffers = {name: buffer.numpy() for name, buffer in self.named_buffers(recurse=False)}
        planes = {
            int(name.removeprefix("plane")): cast("U8", buffer)
            for name, buffer in buffers.items()
            if name.startswith("plane")
        }
        return GradedMatrix(
            rows=self.out_features,
            cols=self.in_features,
            planes=planes,
            codebook=self.codebook,
            **{each: cast("Any", buffers[each]) for each in FIELDS},
        )

    @property
    def weight(self) -> Any:
        """The top level, dequantised anew: what others read a dtype or device from."""
        return torch.from_numpy(self.matrix.dequantise())

    @property
    def reading(self) -> Reading:
        """What its products read."""
        if self._reading is None:
            self._reading = Reading(self.matrix)
        return self._reading

    def forward(self, x: Any) -> Any:
        """Y (..., m) of x (..., n).

        Raises:
            InputError: The input holds NaN or infinity; the text names the layer.
        """
        flat = np.ascontiguousarray(x.detach().reshape(-1, self.in_features).float().numpy())
        choice = self.control.choice(self.group.name, x)
        levels = self._levels(x, flat, choice)
        is_dense = choice is None and len(flat) > MOST_DECODED
        if is_traced():
            record(self.name, self.reading, levels, at_once=is_dense)
        if is_dense:
            y = self._dense(torch.from_numpy(flat))
        else:
            y = torch.from_numpy(self._kernel().apply(flat, levels, self.control.threads))
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _levels(self, x: Any, flat: F32, choice: Choice | None) -> U8:
        try:
            if choice is not None:
                return self.group.levels(x, flat, choice)
            if np.isfinite(flat).all():
                return np.full(flat.shape, self.group.ladder[-1], np.uint8)
        except InputError:
            pass
        raise InputError(f"{self.name} — its input holds NaN or infinity, must be finite.")

    def _kernel(self) -> NativeMatrix:
        if self._native is None:
            self._native = NativeMatrix(self.matrix)
            # one copy is enough: the planes are those that the kernel reads
            for level in self.matrix.planes:
                setattr(self, f"plane{level}", torch.from_numpy(self._native.plane(level)))
        return self._native

    def _dense(self, flat: Any) -> Any:
        kernel, groups = self._kernel(), -(-self.out_features // GROUP)
        y = flat.new_empty(len(flat), self.out_features)
        step = max(1, _TILE // (GROUP * self.in_features))
        for first in range(0, groups, step):
            tile = range(first, min(first + step, groups))
            scratch = self.control.scratch_of(self.in_features * GROUP)
            dense = kernel.tile(self.group.ladder[-1], tile, self.control.threads, scratch)
            outputs = y[:, first * GROUP : first * GROUP + dense.shape[1]]
            torch.mm(flat, torch.from_numpy(dense), out=outputs)
        return y
