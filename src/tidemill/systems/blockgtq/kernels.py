"""The native sub-module as Python sees it; wrong shapes raise ValueError, wrong dtypes TypeError.

Arrays are C-contiguous float32 unless said otherwise. Equal input gives equal codes at both levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tidemill import native
from tidemill.models.sockets import NativeKVCache

F32: TypeAlias = "NDArray[np.float32]"
Bytes: TypeAlias = "NDArray[np.uint8]"
TILE = 32
"""Tokens of a tile."""
Group: TypeAlias = object
PackedArena: TypeAlias = object
"""Memory that packed sequences share."""


class Codec(Protocol):
    """How one KV head's keys and values become tiles."""

    dim: int
    key_bytes: int
    tile_bytes: int


class Kernels(Protocol):
    """What both native levels offer."""

    PackedArena: Callable[[int, int, list[Codec], bool, int], PackedArena]
    """Of layers, KV heads, their codecs, whether RoPE is interleaved, and pages."""

    def make_group(
        self, width: int, centroids: Sequence[float], dims: int, low: float, high: float
    ) -> Group:
        """``low`` and ``high``: log2 of the norms' range for 8-bit norms; low > high asks fp16."""
        ...

    def make_codec(
        self,
        groups: Sequence[Group],
        key: tuple[F32, F32],
        value: Group,
        value_basis: tuple[F32, F32],
        *,
        mean: F32,
        value_mean: F32,
        frequencies: NDArray[np.float64],
    ) -> Codec:
        """Of matrices dim x dim with their inverses; means are taken off, keys' before RoPE."""
        ...

    def encode(
        self, codec: Codec, keys: F32, values: F32, tiles: Bytes, *, start: int, base: int
    ) -> int:
        """Write tokens to slots ``start``… of ``tiles``; slot 0 is at position ``base``.

        Returns how many norms were outside the calibrated range.
        """
        ...

    def decode(
        self, codec: Codec, tiles: Bytes, *, start: int, base: int, keys: F32, values: F32
    ) -> None:
        """Fill ``keys`` and ``values`` (tokens x dim) from slots ``start``…."""
        ...

    def attend(  # noqa: PLR0913 - the native signature
        self,
        codecs: Sequence[Codec],
        tiles: Sequence[Bytes],
        queries: F32,
        *,
        window_keys: F32,
        window_values: F32,
        out: F32,
        tokens: int,
        skip: int,
        base: int,
        scale: float,
        threads: int,
    ) -> None:
        """Softmax attention of ``queries`` (rows x heads x dim) over slots ``skip``-``tokens``.

        The window's tokens (rows x count x dim) join in; one codec and one buffer for each row.
        """
        ...

    def packed_kv(self, arena: PackedArena) -> NativeKVCache:
        """A new sequence of a native decoder whose tiles come from ``arena``."""
        ...


@cache
def load(level: str | None = None) -> Kernels:
    """The kernels at ``level``, by default the best that this CPU runs.

    Raises:
        MissingCapability: This installation lacks them.
    """
    return cast(Kernels, native.kernels("blockgtq", level))
