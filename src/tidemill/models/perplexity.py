"""Perplexity of a text under a decoder, as llama.cpp's tool defines it.

The text is cut into windows; of each, the first half is only read and the second is predicted, so
every predicted token has at least half a window of context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError

if TYPE_CHECKING:
    from tidemill.models.native_decoder import NativeDecoder

WindowLosses = Callable[[Sequence[int], int], NDArray[np.float64]]
_ROWS = 64  # of logits at once: 39 MB with 150,000 words


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well a text was predicted."""

    value: float
    """exp of the mean negative log-likelihood."""
    low: float
    high: float
    """95 % interval, from the spread over the predicted tokens."""
    tokens: int
    """Predicted ones."""
    windows: int


def window_losses(decoder: NativeDecoder, ids: Sequence[int], *, first: int) -> NDArray[np.float64]:
    """Negative log-likelihoods of ``ids[first:]``, each given all ids before it."""
    sequence = decoder.sequence()
    found: list[NDArray[np.float64]] = []
    for begin, end in _cuts(first - 1, len(ids) - 1):
        from tidemill.models.native_decoder import Part

        wanted = end - begin if begin >= first - 1 else 0
        logits = decoder.step([Part(sequence, ids[begin:end], wanted)])
        if wanted:
            found.append(losses(logits, ids[begin + 1 : end + 1]))
    return np.concatenate(found)


def perplexity(
    decoder: NativeDecoder,
    ids: Sequence[int],
    *,
    window: int = 512,
    bos_id: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """As ``perplexity_of``, of the native decoder.

    Raises:
        ConfigError: ``window`` is too small or larger than the context.
        InputError: there are fewer ids than one window.
    """
    if window > decoder.context:
        raise ConfigError.of("window", window, f"at most the context of {decoder.context}")

    def losses(cut: Sequence[int], first: int) -> NDArray[np.float64]:
        return window_losses(decoder, cut, first=first)

    return perplexity_of(losses, ids, window=window, bos_id=bos_id, progress=progress)


def perplexity_of(
    losses_of: WindowLosses,
    ids: Sequence[int],
    *,
    window: int = 512,
    bos_id: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """Perplexity of ``ids`` in windows that do not overlap; a rest shorter than one is left out.

    ``losses_of(ids, first)`` gives the negative log-likelihoods of ``ids[first:]``. Where the model
    wants it, ``bos_id`` takes the place of the first id of each window. Cost: one pass over the
    ids. ``progress`` is told of windows done and in all.

    Raises:
        ConfigError: ``window`` is too small.
        InputError: there are fewer ids than one window.
    """
    if window < 4:
        raise ConfigError.of("window", window, "at least 4")
    count = len(ids) // window
    if count == 0:
        raise InputError(
            f"text — has {len(ids)} tokens, fewer than one window of {window}; "
            "give a longer text, or a smaller window."
        )
    found: list[NDArray[np.float64]] = []
    for index in range(count):
        cut = list(ids[index * window : (index + 1) * window])
        if bos_id is not None:
            cut[0] = bos_id
        found.append(losses_of(cut, window // 2))
        if progress is not None:
            progress(index + 1, count)
    return _summary(np.concatenate(found), count)


def _cuts(read: int, end: int) -> list[tuple[int, int]]:
    """Steps over positions 0..end: those before ``read`` need no logits."""
    begins = [*range(0, read, 4 * _ROWS), *range(read, end, _ROWS)]
    return list(zip(begins, [*begins[1:], end], strict=True))


def losses(logits: NDArray[np.float32], targets: Sequence[int]) -> NDArray[np.float64]:
    """Negative log-likelihoods of ``targets``, each under its row of ``logits``."""
    top = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets]
    found: NDArray[np.float64] = np.log(totals) + top[:, 0] - chosen
    return found


def _summary(losses: NDArray[np.float64], windows: int) -> Perplexity:
    mean = float(losses.mean())
    spread = 1.96 * float(losses.std()) / math.sqrt(len(losses))
    return Perplexity(
        math.exp(mean), math.exp(mean - spread), math.exp(mean + spread), len(losses), windows
    )
