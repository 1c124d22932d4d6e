"""The packed keys and values of one layer: tiles per row and KV head, and the windows beside them.

Tokens stand in the order sink | packed | recent. A key is quantised the moment it leaves the recent
window, into its slot of the last tile, so that no dense copy of a part of a tile is ever kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError, OutOfPool
from tidemill.systems.blockgtq import kernels
from tidemill.systems.blockgtq.kernels import TILE
from tidemill.systems.blockgtq.plan import HeadPlan

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
_DROP_TILES = 4


@dataclass(frozen=True, slots=True)
class Window:
    """What stays dense, and how far back a layer looks.

    Args:
        sink: First tokens that stay dense.
        recent: Last tokens that stay dense.
        sliding: Tokens a query sees, itself included; 0 for all.
    """

    sink: int = 0
    recent: int = 0
    sliding: int = 0


class PackedStore:
    """Keys (after RoPE) and values of one layer. Not thread-safe; separate stores are independent.

    Args:
        heads: Plans of the KV heads.
        window: What stays dense; a sliding layer has no sink.
        name: For messages ("layer 3").
    """

    def __init__(
        self, heads: Sequence[HeadPlan], window: Window | None = None, name: str = "layer"
    ) -> None:
        self.name = name
        self.heads = tuple(heads)
        kept = window or Window()
        self.window = replace(kept, sink=0) if kept.sliding else kept
        self.length = 0
        self.saturated = 0
        self.version = 0
        self._codecs = [head.codec for head in self.heads]
        self._dim = self.heads[0].dim
        self._base = 0  # position of slot 0
        self._packed = 0
        self._tiles: list[list[NDArray[np.uint8]]] = []
        self._dense = _none(0, self._dim), _none(0, self._dim)
        self._sinks = 0  # how many of the dense tokens are sinks

    @property
    def rows(self) -> int:
        """Rows of the batch; 0 before the first token."""
        return len(self._tiles)

    @property
    def visible(self) -> int:
        """Tokens that the next query may see beside its own."""
        back = self.window.sliding
        return min(self.length, back - 1) if back else self.length

    @property
    def nbytes(self) -> int:
        """Bytes in use: tiles begun and dense tokens."""
        tiles = -(-self._packed // TILE)
        per_row = sum(codec.tile_bytes for codec in self._codecs) * tiles
        return per_row * self.rows + sum(x.nbytes for x in self._dense)

    @property
    def allocated_bytes(self) -> int:
        """Bytes reserved, the room to grow included."""
        return sum(t.nbytes for row in self._tiles for t in row) + sum(
            x.nbytes for x in self._dense
        )

    def append(self, keys: F32, values: F32) -> None:
        """Take tokens in; on any error the store is what it was.

        Args:
            keys: After RoPE, rows x KV heads x tokens x dim.
            values: As the keys.

        Raises:
            InputError: Other shapes than before, or a number that is not finite.
            OutOfPool: There is no memory for them.
        """
        self._check(keys, values)
        self._drop()  # now and not at the end: this step's queries may still see all of it
        tiles = self._tiles or [[_NO_TILES] * len(self.heads) for _ in range(len(keys))]
        fresh = keys.shape[2]
        sinks = min(self.window.sink, self._sinks + fresh) if not self._packed else self._sinks
        dense = _joined(self._dense[0], keys), _joined(self._dense[1], values)
        out = max(0, dense[0].shape[2] - sinks - self.window.recent)
        leaving = slice(sinks, sinks + out)
        base = self._base if self._packed else self._first(dense[0].shape[2], sinks)
        try:
            grown = [[self._room(tile, h, out) for h, tile in enumerate(row)] for row in tiles]
            saturated = self._encode(grown, dense[0][:, :, leaving], dense[1][:, :, leaving], base)
            kept = tuple(_without(x, leaving) for x in dense)
        except MemoryError as error:
            raise OutOfPool(
                f"{self.name}: {fresh} more tokens — no memory for them; {self.length} are held "
                "and stay; free memory or crop."
            ) from error
        self._tiles, self._dense, self._sinks = grown, (kept[0], kept[1]), sinks
        self._base, self._packed = base, self._packed + out
        self.length += fresh
        self.saturated += saturated
        self.version += 1

    def read(self, count: int | None = None) -> tuple[F32, F32]:
        """The last ``count`` tokens (default: all held), unpacked: rows x heads x count x dim."""
        held = self.length - self._base + (self._sinks if self._packed else 0)
        if not self._packed:
            held = self._dense[0].shape[2]
        wanted = held if count is None else count
        shape = (self.rows, len(self.heads), self._packed, self._dim)
        keys, values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        native = kernels.load()
        for r, row in enumerate(self._tiles):
            for h, tiles in enumerate(row):
                native.decode(
                    self._codecs[h],
                    tiles,
                    start=0,
                    base=self._base,
                    keys=keys[r, h],
                    values=values[r, h],
                )
        whole = [
            np.concatenate([dense[:, :, : self._sinks], packed, dense[:, :, self._sinks :]], axis=2)
            for dense, packed in zip(self._dense, (keys, values), strict=True)
        ]
        start = whole[0].shape[2] - wanted
        return whole[0][:, :, start:].astype(np.float32), whole[1][:, :, start:].astype(np.float32)

    def attend(self, queries: F32, scale: float, *, threads: int = 1) -> F32:
        """Causal attention of the last tokens' queries over what they may see, without unpacking.

        Args:
            queries: After RoPE, rows x query heads x tokens x dim; the last one's key was appended
                last.
            scale: Multiplies the dot products.
            threads: At most this many.

        Returns:
            Rows x query heads x tokens x dim.
        """
        rows, query_heads, count, dim = queries.shape
        share = query_heads // len(self.heads)
        out = np.empty((count, rows * len(self.heads), share, dim), np.float32)
        codecs = self._codecs * rows
        tiles = [tile for row in self._tiles for tile in row]
        for i in range(count):
            seen = self.length - count + i + 1
            lowest = max(0, seen - self.window.sliding) if self.window.sliding else 0
            slots = min(self._packed, max(0, seen - self._base))
            recent = self._dense[0].shape[2] - self._sinks
            ahead = min(self._sinks, seen) + max(0, recent - (self.length - seen))
            start = max(0, lowest - self._base - self._packed)  # a sliding layer has no sinks
            window = [
                np.ascontiguousarray(x[:, :, start:ahead], dtype=np.float32).reshape(
                    rows * len(self.heads), -1, dim
                )
                for x in self._dense
            ]
            kernels.load().attend(
                codecs,
                tiles,
                np.ascontiguousarray(queries[:, :, i]).reshape(out.shape[1:]),
                window_keys=window[0],
                window_values=window[1],
                out=out[i],
                tokens=slots,
                skip=min(slots, max(0, lowest - self._base)),
                base=self._base,
                scale=scale,
                threads=threads,
            )
        return out.reshape(count, rows, query_heads, dim).transpose(1, 2, 0, 3)

    def crop(self, count: int) -> None:
        """Forget the last ``count`` tokens.

        Raises:
            ConfigError: More than are held, or more than a sliding layer still has.
        """
        held = self._packed + self._dense[0].shape[2]
        most = held if not self.window.sliding or held == self.length else held - self.visible
        if not 0 <= count <= most:
            why = f"{self.name} holds {held} of {self.length} tokens"
            raise ConfigError.of("crop", count, f"in 0-{most}", why)
        from_dense = min(count, self._dense[0].shape[2] - (self._sinks if self._packed else 0))
        keep = self._dense[0].shape[2] - from_dense
        self._dense = self._dense[0][:, :, :keep], self._dense[1][:, :, :keep]
        self._packed -= min(self._packed, count - from_dense)
        if not self._packed and from_dense < count:
            left = self.length - count
            self._dense = self._dense[0][:, :, :left], self._dense[1][:, :, :left]
        self._sinks = min(self._sinks, self._dense[0].shape[2])
        self.length -= count
        self.version += 1

    def select(self, indices: Sequence[int]) -> None:
        """Keep the rows ``indices``, in that order, repeats allowed (beam search)."""
        used = -(-self._packed // TILE)
        self._tiles = [
            [
                tile[: used * codec.tile_bytes].copy()
                for tile, codec in zip(self._tiles[i], self._codecs, strict=True)
            ]
            for i in indices
        ]
        self._dense = self._dense[0][list(indices)], self._dense[1][list(indices)]
        self.version += 1

    def reset(self) -> None:
        """Forget all tokens."""
        self.__init__(self.heads, self.window, self.name)

    def state(self) -> tuple[list[int], list[NDArray[np.generic]]]:
        """Counts and arrays that `restore` takes; the arrays are views."""
        used = -(-self._packed // TILE)
        tiles = [
            tile[: used * codec.tile_bytes]
            for row in self._tiles
            for tile, codec in zip(row, self._codecs, strict=True)
        ]
        counts = [self.rows, self.length, self.saturated, self._base, self._packed, self._sinks]
        return counts, [*self._dense, *tiles]

    def restore(self, counts: Sequence[int], arrays: Sequence[NDArray[np.generic]]) -> None:
        """Become what `state` told; the arrays are copied.

        Raises:
            InputError: They do not fit together or to the plan.
        """
        rows, self.length, self.saturated, self._base, self._packed, self._sinks = counts
        dense, tiles = arrays[:2], [np.array(x, dtype=np.uint8) for x in arrays[2:]]
        used = -(-self._packed // TILE)
        wanted = [codec.tile_bytes * used for codec in self._codecs] * rows
        if [len(tile) for tile in tiles] != wanted:
            raise InputError(f"{self.name} — its tiles do not fit the plan; pack with this plan.")
        heads = len(self.heads)
        self._tiles = [tiles[r * heads : (r + 1) * heads] for r in range(rows)]
        self._dense = np.array(dense[0], dtype=np.float16), np.array(dense[1], dtype=np.float16)
        self.version += 1

    def _check(self, keys: F32, values: F32) -> None:
        rows, heads, _, dim = keys.shape
        if (
            keys.shape != values.shape
            or (heads, dim) != (len(self.heads), self._dim)
            or rows != (self.rows or rows)
        ):
            raise InputError(
                f"{self.name}: keys {keys.shape}, values {values.shape} — must be "
                f"({self.rows or 'rows'}, {len(self.heads)}, tokens, {self._dim}); the cache is of "
                "another model or batch."
            )
        for what, array in (("key", keys), ("value", values)):
            if not np.isfinite(array).all():
                row, head, token, _ = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise InputError(
                    f"{self.name}, head {head}, position {self.length + token}, row {row}: a "
                    f"{what} is not finite — must be; the cache is unchanged; check the model's "
                    "precision."
                )

    def _first(self, dense: int, sinks: int) -> int:
        """Position of slot 0 when nothing is packed yet."""
        return self.length - self._dense[0].shape[2] + sinks if dense else self.length

    def _room(self, tiles: NDArray[np.uint8], head: int, more: int) -> NDArray[np.uint8]:
        size = self._codecs[head].tile_bytes
        needed = -(-(self._packed + more) // TILE) * size
        if needed <= len(tiles):
            return tiles
        used = -(-self._packed // TILE) * size
        # an eighth to spare: amortised, and honest against a bound on resident memory
        grown = np.empty(needed + needed // 8 // size * size, np.uint8)
        grown[:used] = tiles[:used]
        grown[used:] = 0
        return grown

    def _encode(
        self,
        tiles: list[list[NDArray[np.uint8]]],
        keys: NDArray[np.generic],
        values: NDArray[np.generic],
        base: int,
    ) -> int:
        native, saturated = kernels.load(), 0
        if not keys.shape[2]:
            return 0
        for r, row in enumerate(tiles):
            for h, buffer in enumerate(row):
                pair = [np.ascontiguousarray(x[r, h], dtype=np.float32) for x in (keys, values)]
                saturated += native.encode(
                    self._codecs[h], pair[0], pair[1], buffer, start=self._packed, base=base
                )
        return saturated

    def _drop(self) -> None:
        """Let whole tiles go that no later query of a sliding layer can see."""
        if not self.window.sliding:
            return
        unseen = self.length - self.window.sliding + 1 - self._base
        tiles = min(unseen, self._packed) // TILE
        if tiles < _DROP_TILES:
            return
        for row in self._tiles:
            for h, buffer in enumerate(row):
                size = self._codecs[h].tile_bytes
                buffer[: len(buffer) - tiles * size] = buffer[tiles * size :]
        self._base += tiles * TILE
        self._packed -= tiles * TILE


_NO_TILES = np.empty(0, np.uint8)


def _none(rows: int, dim: int) -> F16:
    return np.empty((rows, 0, 0, dim), np.float16)


def _joined(dense: F16, more: F32) -> NDArray[np.generic]:
    """What is kept as halves, then the new tokens as they are."""
    return np.concatenate([dense, more], axis=2) if dense.size else more


def _without(x: NDArray[np.generic], leaving: slice) -> F16:
    kept = np.concatenate([x[:, :, : leaving.start], x[:, :, leaving.stop :]], axis=2)
    return kept.astype(np.float16)
