"""For caches that hold no tensors: a tensor that is made when it is first used, and a mask's shape.

A transformers cache must return tensors. An attention of its own may take what lies behind one and
never make it; any other one makes it by touching it.
"""

# torch leaves parts of its interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class LaterTensor(torch.Tensor):
    """A tensor without storage; every operation on it is done on what ``make`` gives."""

    source: object
    make: Callable[[], torch.Tensor]

    @staticmethod
    def of(
        shape: Sequence[int], like: torch.Tensor, source: object, make: Callable[[], torch.Tensor]
    ) -> LaterTensor:
        """Of the dtype and device of ``like``; ``source`` is for who knows what lies behind."""
        made = LaterTensor(shape, like)
        made.source, made.make = source, make
        return made

    def __new__(cls, shape: Sequence[int], like: torch.Tensor) -> LaterTensor:
        """See `of`."""
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)

    def __repr__(self, **_: object) -> str:
        """Says what it is instead of making it."""
        return f"LaterTensor({tuple(self.shape)}, {self.dtype})"

    def now(self) -> torch.Tensor:
        """As an ordinary tensor."""
        return self.make().to(self.dtype)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Make it, then do it."""
        plain = [_now(x) for x in args]
        return func(*plain, **{name: _now(x) for name, x in (kwargs or {}).items()})


def _now(x: Any) -> Any:
    """``x``, or what is in it, as ordinary tensors: operations take tensors and lists of them."""
    if isinstance(x, LaterTensor):
        return x.now()
    return [_now(each) for each in x] if isinstance(x, list) else x


def is_causal(mask: torch.Tensor | None, queries: int, sliding: int) -> bool:
    """Whether each query sees itself and all before it, within the window."""
    if mask is None:
        return True
    allowed = mask if mask.dtype == torch.bool else mask == 0
    columns = allowed.shape[-1]
    last = torch.arange(columns - queries, columns)[:, None]
    seen = torch.arange(columns)[None, :]
    wanted = (seen <= last) & ((seen > last - sliding) if sliding else torch.tensor(True))
    return bool((allowed == wanted).all())
