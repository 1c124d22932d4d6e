"""Texts that a transformers model writes greedily, and how long two of them are the same."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def written(model: Any, prompts: Any, cache: Any, count: int) -> Ids:
    """(rows, count) likeliest tokens, one after the other, whatever they are.

    Args:
        model: In transformers.
        prompts: (rows, tokens) ids of prompts of equal length, which are read first.
        cache: Of no tokens yet; it holds the prompts and all but the last token afterwards.
        count: Of tokens to write.
    """
    import torch

    found: list[Ids] = []
    ids = prompts
    with torch.inference_mode():
        for _ in range(count):
            hidden = model.base_model(
                input_ids=ids, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            ids = model.lm_head(hidden).argmax(dim=-1, keepdim=True)
            found.append(ids[:, 0].numpy())
    return np.stack(found, axis=1)


def lengths_until_different(one: Ids, other: Ids) -> Ids:
    """Of each row, tokens up to the first that differs, which counts; all where none does."""
    differs = one != other
    first = np.where(differs.any(axis=1), differs.argmax(axis=1) + 1, one.shape[1])
    return first.astype(np.int64)
