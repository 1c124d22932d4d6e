"""Packed tiles of one KV head on a CUDA device, attended to there by a Triton kernel.

    device = DeviceTiles(plan.heads[3][0], tiles, tokens)   # MissingCapability without CUDA
    out = device.attend(queries, scale=dim ** -0.5)         # numpy in, numpy out

Queries and centroids stay float32: nothing is lost that the tiles hold. ``TRITON_INTERPRET=1``
with ``device="cpu"`` runs the same kernel in Triton's interpreter, for tests: its speed means
nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.models.lloyd_max import codebook
from tidemill.models.rotation import rotation
from tidemill.native.device import torch_for
from tidemill.systems.blockgtq.kernels import TILE
from tidemill.systems.blockgtq.plan import HeadPlan, WidthGroup

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
_HEADS = 16
"""The least rows of a product of two tiles."""


class DeviceTiles:
    """Some tokens of one KV head.

    Args:
        head: How they are packed.
        tiles: They are copied.
        tokens: How many of their slots are filled.
        device: ``"cuda"``, ``"cuda:1"``, … or ``"cpu"`` in Triton's interpreter.

    Raises:
        ConfigError: ``device`` is neither.
        MissingCapability: torch, Triton or the device is not there.
        InputError: There are too few tiles.
    """

    def __init__(
        self, head: HeadPlan, tiles: NDArray[np.uint8], tokens: int, *, device: str = "cuda"
    ) -> None:
        self._torch = torch_for(device, instead="PackedStore")
        self._head, self._tokens, self._device = head, tokens, device
        self._tile_bytes = head.codec.tile_bytes
        if tokens < 1 or len(tiles) < -(-tokens // TILE) * self._tile_bytes:
            raise InputError(f"tiles — {len(tiles)} bytes do not hold {tokens} tokens.")
        self._width = max(32, 1 << (head.dim - 1).bit_length())
        value = WidthGroup(head.v_bits, tuple(range(head.dim // 2)), *head.v_range)
        offset, rows, values = 0, list[NDArray[np.int64]](), list[float]()
        ranges: list[F32] = []
        for group in (*head.groups, value):
            made = layout(group, offset, len(values), is_key=group is not value)
            rows.append(made)
            ranges.append(_ranges(group))
            values += codebook(group.width, group.dims, head.marginal)
            offset += TILE * group.norm_bits // 8 + 4 * group.width * group.dims
        keys = np.concatenate(rows[:-1], axis=1), np.concatenate(ranges[:-1], axis=1)
        self._layouts = [
            self._sent(self._padded(each, np.int32 if each.dtype == np.int64 else np.float32))
            for each in (*keys, rows[-1], ranges[-1])
        ]
        self._centroids = self._sent(np.array(values, np.float32))
        self._tiles = self._sent(tiles)
        turns = np.zeros(self._width // 2)
        turns[: head.dim // 2] = np.array(head.frequencies) / (2 * math.pi)
        self._turns = self._sent(turns)

    def attend(self, queries: F32, scale: float, *, base: int = 0, splits: int = 8) -> F32:
        """Softmax attention of (heads, dim) queries after RoPE over all tokens.

        Args:
            queries: At most 16, which share the KV head.
            scale: Multiplies the dot products.
            base: Position of the first token.
            splits: Programs that share the tiles.

        Raises:
            ConfigError: ``splits`` below 1.
            InputError: Queries of another shape.
        """
        heads, dim = len(queries), self._head.dim
        if queries.ndim != 2 or queries.shape[1] != dim or not 1 <= heads <= _HEADS:
            raise InputError(f"queries — {queries.shape}, must be (1-{_HEADS}, {dim}).")
        if splits < 1:
            raise ConfigError.of("splits", splits, "at least 1")
        from tidemill.systems.blockgtq import triton_kernels

        tiles = -(-self._tokens // TILE)
        per_split = -(-tiles // splits)
        splits = -(-tiles // per_split)
        scaled = queries.astype(np.float64) * scale * math.log2(math.e)
        turned = np.zeros((_HEADS, self._width))
        turned[:heads, :dim] = scaled @ self._head.key_basis()[1]
        torch: Any = self._torch
        tops, sums = (torch.empty((splits, _HEADS), device=self._device) for _ in range(2))
        outs = torch.empty((splits, _HEADS, self._width), device=self._device)
        kernel: Any = getattr(triton_kernels, "attend_tiles")  # noqa: B009 - untyped
        kernel[(splits,)](
            self._tiles,
            self._sent(turned.astype(np.float32)),
            self._sent(self._waves(scaled)),
            self._turns,
            *self._layouts,
            self._centroids,
            tops,
            sums,
            outs,
            self._tokens,
            base,
            self._tile_bytes,
            per_split,
            HEADS=_HEADS,
            D=self._width,
        )
        share = torch.exp2(tops - tops.amax(dim=0))
        whole = (outs * share[..., None]).sum(dim=0) / (sums * share).sum(dim=0)[:, None]
        found = whole[:heads, :dim].cpu().numpy() @ rotation(dim, self._head.v_seed)
        return np.ascontiguousarray(found, np.float32)

    def _waves(self, scaled: NDArray[np.float64]) -> F32:
        """What the mean key counts with the cosine and with the sine of each block's angle."""
        half = self._head.dim // 2
        mean = np.array(self._head.mean)
        made = np.zeros((2, _HEADS, self._width // 2), np.float32)
        one, two = scaled[:, :half], scaled[:, half:]
        made[0, : len(scaled), :half] = one * mean[:half] + two * mean[half:]
        made[1, : len(scaled), :half] = two * mean[:half] - one * mean[half:]
        return made

    def _padded(self, rows: NDArray[Any], dtype: type[np.int32] | type[np.float32]) -> NDArray[Any]:
        made = np.zeros((len(rows), self._width), dtype)
        made[:, : rows.shape[1]] = rows
        if dtype is np.int32:
            made[2, rows.shape[1] :] = 1  # a divisor
        return made

    def _sent(self, array: NDArray[Any]) -> Any:
        torch: Any = self._torch
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def layout(group: WidthGroup, offset: int, first: int, *, is_key: bool) -> NDArray[np.int64]:
    """Where the codes and norms of each coordinate of a group lie, (19, dims).

    Rows: codes' offset in the tile, bytes of a vector, tokens of a vector, its number for the first
    tokens, how many vectors on the next ones are, places between tokens and the first place in a
    vector, norms' offset, bytes of a norm (two: a half), the first centroid; then for each of three
    fields its bits (none: 0), its offset in the vector, the bit of the code that it begins at.
    """
    dims = np.arange(group.dims)
    quads = group.dims // 4
    if is_key:
        is_whole = dims // 4 < quads
        places = [
            np.where(is_whole, 8, 16),
            np.where(is_whole, dims // 4, 4 * quads),
            np.where(is_whole, quads, 1),
            np.where(is_whole, 4, 2),
            np.where(is_whole, dims % 4, dims % 2),
        ]
    else:
        ones = np.ones_like(dims)
        places = [4 * ones, dims // 8 * 8, ones, ones, 4 * (dims % 8)]
    norm_bytes = group.norm_bits // 8
    facts = [offset + TILE * norm_bytes, 4 * group.width, *places, offset, norm_bytes, first]
    left, begun = group.width, 0
    for bits in (4, 4, 2, 1):
        if left >= bits and len(facts) < 19:
            facts += [bits, 4 * begun, begun]
            left, begun = left - bits, begun + bits
    facts += [0] * (19 - len(facts))
    return np.stack([np.broadcast_to(np.asarray(fact, np.int64), dims.shape) for fact in facts])


def _ranges(group: WidthGroup) -> F32:
    """log2 of the norm of code 1, and of a step, for each coordinate."""
    step = max((group.high - group.low) / 254, 1e-6) if group.norm_bits == 8 else 0.0
    return np.full((group.dims, 2), [group.low, step], np.float32).T
