"""A plan: what each KV head's keys and values are packed into, down to the byte."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from tidemill.models.lloyd_max import Marginal, codebook, distortion
from tidemill.models.rotation import rotation
from tidemill.systems.blockgtq import kernels
from tidemill.systems.blockgtq.config import Mode

KEY_SEED, VALUE_SEED = 42, 7001
_FP16 = (1.0, 0.0)  # a range that is none: norms as halves


@dataclass(frozen=True, slots=True)
class WidthGroup:
    """RoPE blocks of one width: one norm, one rotation, one codebook.

    Args:
        width: Bits of a coordinate.
        blocks: Their indices; the group's dims are these, then these plus d/2.
        low: log2 of the least norm that 8 bits can tell.
        high: Of the largest; below ``low``: norms are halves.
    """

    width: int
    blocks: tuple[int, ...]
    low: float
    high: float

    @property
    def dims(self) -> int:
        """Coordinates of the group."""
        return 2 * len(self.blocks)

    @property
    def norm_bits(self) -> int:
        """Bits of a norm."""
        return 8 if self.low <= self.high else 16


@dataclass(frozen=True)
class HeadPlan:
    """How one KV head is packed.

    Args:
        widths: Bits of each RoPE block.
        scales: What each block is multiplied with before its group is rotated; queries are divided.
        groups: The blocks by width.
        v_bits: Bits of a value's coordinate.
        v_range: log2 of the values' norms, or none: halves.
        marginal: What the codebooks assume.
        mean: What is taken off keys before RoPE, d numbers.
        frequencies: Radians per position of each block.
        v_seed: Of the values' rotation.
    """

    widths: tuple[int, ...]
    scales: tuple[float, ...]
    groups: tuple[WidthGroup, ...]
    v_bits: int
    v_range: tuple[float, float]
    marginal: Marginal
    mean: tuple[float, ...]
    frequencies: tuple[float, ...]
    v_seed: int

    @property
    def dim(self) -> int:
        """Dimensions of the head."""
        return 2 * len(self.widths)

    @property
    def key_bits(self) -> int:
        """Bits of a packed key, norms included."""
        return sum(g.width * g.dims + g.norm_bits for g in self.groups)

    @property
    def value_bits(self) -> int:
        """Bits of a packed value, its norm included."""
        return self.v_bits * self.dim + (8 if self.v_range[0] <= self.v_range[1] else 16)

    @cached_property
    def codec(self) -> kernels.Codec:
        """The native codec for keys after RoPE."""
        return self.native(np.array(self.frequencies))

    @cached_property
    def still_codec(self) -> kernels.Codec:
        """The native codec for keys before RoPE, as the paper's diagnostic takes them."""
        return self.native(np.zeros(self.dim // 2))

    def native(self, frequencies: NDArray[np.float64], level: str | None = None) -> kernels.Codec:
        """A codec at ``level`` for a mean that turns with ``frequencies``."""
        native = kernels.load(level)
        turn = _as_float(self.dim, self.v_seed)
        groups = [
            native.make_group(
                g.width, codebook(g.width, g.dims, self.marginal), g.dims, g.low, g.high
            )
            for g in self.groups
        ]
        value = native.make_group(
            self.v_bits, codebook(self.v_bits, self.dim, self.marginal), self.dim, *self.v_range
        )
        return native.make_codec(
            groups,
            self.key_basis(),
            value,
            (turn, np.ascontiguousarray(turn.T)),
            mean=np.array(self.mean, dtype=np.float32),
            value_mean=np.zeros(self.dim, np.float32),
            frequencies=frequencies,
        )

    def key_basis(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Permutation to groups, scales and their rotations as one matrix, and its inverse."""
        made = np.zeros((2, self.dim, self.dim))
        row, scales = 0, np.array(self.scales * 2)
        for g in self.groups:
            dims = [*g.blocks, *(block + self.dim // 2 for block in g.blocks)]
            rows = slice(row, row + g.dims)
            turn = rotation(g.dims, KEY_SEED + g.width)
            made[0, rows, dims] = turn.T * scales[dims][:, None]
            made[1, dims, rows] = turn.T / scales[dims][:, None]
            row += g.dims
        return made[0].astype(np.float32), made[1].astype(np.float32)

    def distortion(self, energy: NDArray[np.float64]) -> float:
        """Expected squared error of a key over its squared norm, given E‖k_i‖² of its blocks."""
        lost, squares = 0.0, np.array(self.scales) ** 2
        for g in self.groups:
            blocks = list(g.blocks)
            scaled = float((energy[blocks] * squares[blocks]).mean())
            share = distortion(g.width, g.dims, self.marginal)
            lost += share * scaled * float((1 / squares[blocks]).sum())
        return lost / max(float(energy.sum()), 1e-30)


@dataclass(frozen=True)
class Plan:
    """Allocations of all layers and heads, and what stays dense.

    Args:
        heads: Plans by layer and KV head.
        windows: Sliding window of each layer in tokens, 0 for none.
        mode: How the bits are spent.
        k_bits: Asked for, per dimension of a key.
        v_bits: Per dimension of a value.
        sink: First tokens that stay dense.
        recent: Last tokens that stay dense.
        fingerprint: Of the model it was calibrated for.
    """

    heads: tuple[tuple[HeadPlan, ...], ...]
    windows: tuple[int, ...]
    mode: Mode
    k_bits: float
    v_bits: int
    sink: int
    recent: int
    fingerprint: str

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.heads)

    @property
    def bits_per_number(self) -> float:
        """Bits per cached number, codes and norms of keys and values."""
        heads = [head for layer in self.heads for head in layer]
        total = sum(head.key_bits + head.value_bits for head in heads)
        return total / (2 * sum(head.dim for head in heads))

    @property
    def bytes_per_token(self) -> float:
        """Packed bytes that one more token takes in all layers without a sliding window."""
        return sum(
            head.codec.tile_bytes / kernels.TILE
            for layer, window in zip(self.heads, self.windows, strict=True)
            for head in layer
            if not window
        )

    @cached_property
    def digest(self) -> str:
        """Equal for plans whose packed bytes mean the same."""
        text = json.dumps(
            [
                [
                    [
                        h.widths,
                        h.scales,
                        h.v_bits,
                        h.v_range,
                        h.marginal,
                        h.mean,
                        h.frequencies,
                        h.v_seed,
                    ]
                    + [[g.low, g.high] for g in h.groups]
                    for h in layer
                ]
                for layer in self.heads
            ]
            + [self.windows, self.sink, self.recent]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _as_float(dim: int, seed: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(rotation(dim, seed), dtype=np.float32)


def head_plan(  # noqa: PLR0913 - one parameter per fact, all but one by name
    widths: tuple[int, ...],
    *,
    scales: NDArray[np.float64] | None = None,
    norms: NDArray[np.float16] | None,
    v_bits: int,
    v_range: tuple[float, float] | None,
    marginal: Marginal,
    mean: NDArray[np.float32],
    frequencies: NDArray[np.float64],
    head: int,
) -> HeadPlan:
    """Group the blocks by width, for KV head number ``head``.

    ``norms`` (S, B) of sampled tokens give 8-bit norms their range; without, norms are halves.
    ``scales`` (B,) of the blocks, relative: each group's are brought to a geometric mean of 1.
    """
    factors = np.ones(len(widths)) if scales is None else scales.copy()
    for width in set(widths):
        of_group = np.array(widths) == width
        factors[of_group] /= np.exp(np.log(factors[of_group]).mean())
    groups: list[WidthGroup] = []
    for width in sorted(set(widths)):
        blocks = tuple(i for i, w in enumerate(widths) if w == width)
        groups.append(WidthGroup(width, blocks, *_range(norms, blocks, factors)))
    return HeadPlan(
        widths,
        tuple(factors.tolist()),
        tuple(groups),
        v_bits,
        _FP16 if v_range is None else (v_range[0] - 0.5, v_range[1] + 0.5),
        marginal,
        tuple(mean.tolist()),
        tuple(frequencies.tolist()),
        VALUE_SEED + head,
    )


def _range(
    norms: NDArray[np.float16] | None, blocks: tuple[int, ...], factors: NDArray[np.float64]
) -> tuple[float, float]:
    """Half an octave around what calibration saw of the group's norm."""
    if norms is None:
        return _FP16
    chosen = list(blocks)
    lengths = np.linalg.norm(norms[:, chosen].astype(np.float64) * factors[chosen], axis=1)
    lengths = np.maximum(lengths, max(float(lengths.max()) * 2.0**-16, 1e-20))
    logs = np.log2(lengths)
    return float(logs.min()) - 0.5, float(logs.max()) + 0.5
