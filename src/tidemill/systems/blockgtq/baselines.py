"""What Block-GTQ is compared with: block-rounded caches as llama.cpp has them, dense attention.

Uniform TQ-MSE, the paper's own baseline, is a plan of mode ``uniform``, so that it runs through the
same codec and the same kernels.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.systems.blockgtq import kernels
from tidemill.systems.blockgtq.kernels import TILE

F32 = NDArray[np.float32]


def rounded_cache(config: Any, rounding: Any) -> Any:
    """A dense transformers cache of what ``rounding`` keeps of each key and value."""
    import torch
    from transformers import DynamicCache

    class Rounded(DynamicCache):
        def update(
            self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
        ) -> Any:
            kept = [torch.from_numpy(rounding(x.numpy())) for x in (key_states, value_states)]
            return super().update(kept[0], kept[1], layer_idx, *args, **kwargs)

    return Rounded(config=config)


@dataclass(frozen=True, slots=True)
class DenseCells:
    """Keys and values of some KV heads for the dense kernels, in tiles of 32 tokens."""

    keys: NDArray[Any]
    values: NDArray[Any]
    tokens: int

    @classmethod
    def of(cls, keys: F32, values: F32, dtype: type[np.float16] | type[np.float32]) -> DenseCells:
        """From (rows, tokens, dim), whole tiles."""
        rows, tokens, dim = keys.shape
        tiled = keys.astype(dtype).reshape(rows, tokens // TILE, TILE, dim).swapaxes(2, 3)
        flat = np.ascontiguousarray(tiled).reshape(rows, tokens // TILE, dim * TILE)
        cells = [flat, np.ascontiguousarray(values, dtype=dtype)]
        if dtype is np.float16:
            cells = [x.view(np.uint16) for x in cells]
        return cls(cells[0], cells[1], tokens)

    def attend(self, queries: F32, out: F32, scale: float, threads: int) -> None:
        """Softmax attention of (rows, heads, dim) queries over all tokens, into ``out``."""
        cast(Any, kernels.load()).attend_dense(
            self.keys,
            self.values,
            queries,
            out,
            tokens=self.tokens,
            scale=scale,
            threads=threads,
        )


def torch_forms(queries: F32, keys: F32, values: F32, scale: float) -> dict[str, Any]:
    """Torch's ways to attend, by name: rows x heads x dim queries over rows x tokens x dim keys."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    q, k, v = (torch.from_numpy(x) for x in (queries, keys, values))
    one = q[:, :, None], k[:, None], v[:, None]

    def grouped() -> Any:
        return torch.matmul(torch.softmax(torch.matmul(q, k.mT) * scale, dim=-1), v)

    def shared() -> Any:
        return sdpa(*one, scale=scale, enable_gqa=True)

    def as_rows() -> Any:
        return sdpa(q[:, None], k[:, None], v[:, None], scale=scale)

    return {"torch matmul": grouped, "torch sdpa, gqa": shared, "torch sdpa, as rows": as_rows}
