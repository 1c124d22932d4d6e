"""`BlockGTQCache`: packed stores as a transformers cache, and the attention that reads them.

``update`` hands on tensors that are unpacked only when something other than the packed attention
touches them, so that any attention implementation works, the packed one without a dense copy.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportPrivateUsage=false

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tidemill.errors import InputError
from tidemill.models.checked_tensors import pack, unpack
from tidemill.models.hf_later import LaterTensor, is_causal
from tidemill.systems.blockgtq.plan import Plan
from tidemill.systems.blockgtq.store import PackedStore, Window

ATTENTION = "tidemill_blockgtq"
MOST_QUERIES = 16
"""With more at once (a prompt) one layer is unpacked for the time of its attention."""
SATURATED = 0.001
"""Share of norms out of range from which on to calibrate anew."""
_log = logging.getLogger(__name__)


class PackedLayer(CacheLayerMixin):
    """One layer of a `BlockGTQCache`."""

    is_croppable = True

    def __init__(self, plan: Plan, layer: int) -> None:
        super().__init__()
        sliding = plan.windows[layer]
        window = Window(plan.sink, plan.recent, sliding)
        self.store = PackedStore(plan.heads[layer], window, f"layer {layer}")
        self.is_sliding = bool(sliding)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the plan says all."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pack the new tokens; gives all that their queries may see, unpacked when touched.

        Raises:
            InputError: Wrong shapes or numbers that are not finite; the length is what it was.
        """
        before = self.store.visible
        self.store.append(_array(key_states), _array(value_states))
        return self._states(before + key_states.shape[2], key_states)

    def _states(self, count: int, like: torch.Tensor) -> tuple[LaterTensor, LaterTensor]:
        shape = (like.shape[0], like.shape[1], count, like.shape[3])
        seen, read = self.store.version, cache(lambda: self.store.read(count))

        def part(which: int) -> LaterTensor:
            return LaterTensor.of(
                shape, like, self.store, lambda: self._unpacked(seen, lambda: read()[which])
            )

        return part(0), part(1)

    def _unpacked(self, seen: int, read: Callable[[], np.ndarray[Any, Any]]) -> torch.Tensor:
        if self.store.version != seen:
            raise InputError(
                f"{self.store.name}: keys of an earlier step — the cache went on; must be used "
                "before its next update; clone them."
            )
        _told_once()
        return torch.from_numpy(read())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will give."""
        return self.store.visible + query_length, self.store.length - self.store.visible

    def get_seq_length(self) -> int:
        """Tokens taken in."""
        return self.store.length

    def get_max_length(self) -> int:
        """The sliding window, or -1."""
        return self.store.window.sliding or -1

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.store.rows

    def offload(self) -> None:
        """Nothing to do: it is on the CPU."""

    prefetch = offload

    def reset(self) -> None:
        """Forget all tokens."""
        self.store.reset()

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; as in transformers the number is negative."""
        self.store.crop(abs(tokens_to_remove))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Rows in the order of ``beam_idx``."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        if self.store.rows:
            self.store.select([int(i) for i in indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times."""
        self.store.select([row for row in range(self.store.rows) for _ in range(repeats)])


class BlockGTQCache(Cache):
    """A transformers cache that holds keys and values packed as ``plan`` says.

    One cache serves one thread at a time; separate caches are independent.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        super().__init__(layers=[PackedLayer(plan, layer) for layer in range(plan.layers)])

    @property
    def stores(self) -> list[PackedStore]:
        """The packed stores of the layers."""
        return [layer.store for layer in self.layers if isinstance(layer, PackedLayer)]

    @property
    def nbytes(self) -> int:
        """Bytes in use: codes, norms and dense windows of all layers."""
        return sum(store.nbytes for store in self.stores)

    def report(self) -> dict[str, float]:
        """Lengths, bytes, bits per number and what fp16 would take; warns of norms out of range."""
        stores = self.stores
        held = [s.visible if s.window.sliding else s.length for s in stores]
        pairs = zip(stores, held, strict=True)
        numbers = sum(2 * s.rows * len(s.heads) * s.heads[0].dim * count for s, count in pairs)
        norms = sum(s.rows * s.length * sum(len(h.groups) + 1 for h in s.heads) for s in stores)
        share = sum(s.saturated for s in stores) / max(1, norms)
        if share > SATURATED:
            _log.warning(
                "%.2f %% of the norms are out of range; calibrate on such text.", 100 * share
            )
        return {
            "tokens": self.get_seq_length(),
            "nbytes": self.nbytes,
            "allocated_bytes": sum(s.allocated_bytes for s in stores),
            "fp16_bytes": 2 * numbers,
            "bits_per_number": 8 * self.nbytes / max(1, numbers),
            "saturated_norms": share,
        }

    def to_bytes(self) -> bytes:
        """All tokens, for `from_bytes` with the same plan: prefix reuse, suspension."""
        tensors: dict[str, np.ndarray[Any, Any]] = {}
        counts: list[list[int]] = []
        for i, store in enumerate(self.stores):
            numbers, arrays = store.state()
            counts.append(numbers)
            tensors |= {f"{i:04}.{j:06}": array for j, array in enumerate(arrays)}
        return pack(tensors, {"plan": self.plan.digest, "counts": json.dumps(counts)})

    @classmethod
    def from_bytes(cls, data: bytes, plan: Plan) -> BlockGTQCache:
        """What `to_bytes` gave.

        Raises:
            CorruptFile: It is cut short or damaged.
            InputError: It was packed with another plan.
        """
        tensors, facts = unpack(data, "cache bytes", "start the text anew")
        if facts["plan"] != plan.digest:
            raise InputError(
                f"cache bytes of plan {facts['plan'][:12]} — this plan is {plan.digest[:12]}; "
                "must be the same calibration and bits."
            )
        made = cls(plan)
        for i, (store, counts) in enumerate(
            zip(made.stores, json.loads(facts["counts"]), strict=True)
        ):
            names = sorted(name for name in tensors if name.startswith(f"{i:04}."))
            store.restore(counts, [tensors[name] for name in names])
        return made


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over packed keys and values; with any others, or a long prompt, torch's.

    Args:
        module: Of the model.
        query: After RoPE, batch x heads x tokens x dim.
        key: What `BlockGTQCache.update` gave, or a tensor.
        value: As the key.
        attention_mask: None, or where a query may look.
        scaling: Of the dot products.
        rest: As torch's attention takes it.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if (
        isinstance(key, LaterTensor)
        and isinstance(key.source, PackedStore)
        and query.shape[2] <= MOST_QUERIES
        and rest.get("softcap") is None
        and is_causal(attention_mask, query.shape[2], key.source.window.sliding)
    ):
        made = key.source.attend(_array(query), scale, threads=torch.get_num_threads())
        out = torch.from_numpy(np.ascontiguousarray(made.transpose(0, 2, 1, 3)))
        return out.to(query.dtype), None
    plain = [x.now() if isinstance(x, LaterTensor) else x for x in (key, value)]
    made, _ = sdpa_attention_forward(
        module, query, plain[0], plain[1], attention_mask, scaling=scaling, **rest
    )
    return made, None


@cache
def _told_once() -> None:
    _log.info("unpacking for another attention; %s reads packed tiles.", ATTENTION)


def _array(x: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return x.detach().to("cpu", torch.float32).contiguous().numpy()


def register() -> None:
    """Make ``tidemill_blockgtq`` known to transformers; importing this module does it."""
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


register()
