"""How far one way to run a model is from another, token by token, with intervals of the ratios.

Neighbouring tokens err alike, so that intervals come from resampling blocks of them.
"""

# torch leaves parts of its interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.bench.claim import Json, Measurement

F64 = NDArray[np.float64]
_RESAMPLES = 2000
_BLOCK = 32
_PIECE = 256
"""Tokens whose logits are there at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, its 95 % interval, and on how many independent parts it rests."""

    value: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, value: float, resampled: F64, repeats: int) -> Self:
        """From the same figure of resampled parts."""
        low, high = (float(x) for x in np.quantile(resampled, [0.025, 0.975]))
        return cls(value, min(low, value), max(high, value), repeats)

    @classmethod
    def of_mean(cls, parts: F64) -> Self:
        """Of the mean of ``parts``."""
        return cls.of(float(parts.mean()), parts[_drawn(len(parts))].mean(axis=1), len(parts))

    def measurement(
        self, claim: str, *, subject: str, baseline: str, detail: dict[str, Json]
    ) -> Measurement:
        """As the answer to ``claim``."""
        made = Measurement(
            claim=claim, value=self.value, low=self.low, high=self.high, repeats=self.repeats
        )
        return replace(made, subject=subject, baseline=baseline, detail=detail)


@dataclass(slots=True)
class Scored:
    """Of one variant, token by token."""

    divergence: list[float] = field(default_factory=list[float])
    loss: list[float] = field(default_factory=list[float])
    agrees: list[bool] = field(default_factory=list[bool])

    def extend(self, more: Scored) -> None:
        """Take ``more`` tokens in."""
        self.divergence += more.divergence
        self.loss += more.loss
        self.agrees += more.agrees

    @property
    def perplexity(self) -> float:
        """Of all tokens."""
        return math.exp(float(np.mean(self.loss)))

    def divergence_over(self, other: Scored) -> Interval:
        """Mean KL divergence over the other's, of the same tokens."""
        one, two = _blocks(self.divergence), _blocks(other.divergence)
        draws = _drawn(len(one))
        resampled = one[draws].mean(axis=1) / two[draws].mean(axis=1)
        return Interval.of(float(one.mean() / two.mean()), resampled, len(one))

    def perplexity_over(self, other: Scored) -> Interval:
        """Perplexity over the other's, of the same tokens."""
        gap = _blocks(self.loss) - _blocks(other.loss)
        resampled = np.exp(gap[_drawn(len(gap))].mean(axis=1))
        return Interval.of(math.exp(float(gap.mean())), resampled, len(gap))


def hidden_of(model: Any, row: Any, cache: Any) -> Any:
    """What ``model`` gives before its head for one row of ids, shape (tokens, width)."""
    return model.base_model(
        input_ids=row, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state[0]


class Reference:
    """What the unquantised model says of one window; others are compared with it, piece by piece.

    Its probabilities are kept, so that each comparison costs one product with the head and no
    temporary of its size: KL = Σ p log p - Σ p x + log Σ exp x, x being the other's logits.
    """

    def __init__(self, model: Any, row: Any) -> None:
        self._head, self._next = model.lm_head, row[0, 1:]
        self.hidden = hidden_of(model, row, None)
        logs = [self._head(rows).log_softmax(dim=-1) for rows in self._pieces(self.hidden)]
        self._best = [each.argmax(dim=-1) for each in logs]
        self._probabilities = [each.exp() for each in logs]
        pairs = zip(self._probabilities, logs, strict=True)
        self._certainty = [_dots(p, each) for p, each in pairs]

    def compare(self, hidden: Any) -> Scored:
        """Token by token, from what another pass gives before the head."""
        found = Scored()
        for i, rows in enumerate(self._pieces(hidden)):
            logits = self._head(rows)
            whole = logits.logsumexp(dim=-1)
            divergence = self._certainty[i] - _dots(self._probabilities[i], logits) + whole
            wanted = self._next[i * _PIECE : i * _PIECE + len(rows)]
            loss = whole - logits.gather(1, wanted[:, None])[:, 0]
            found.divergence += divergence.clamp(min=0).tolist()
            found.loss += loss.tolist()
            found.agrees += (logits.argmax(dim=-1) == self._best[i]).tolist()
        return found

    @staticmethod
    def _pieces(hidden: Any) -> Any:
        return hidden[:-1].split(_PIECE)


def _dots(one: Any, two: Any) -> Any:
    return (one[:, None] @ two[:, :, None])[:, 0, 0]


def _blocks(values: list[float]) -> F64:
    whole = len(values) // _BLOCK * _BLOCK
    return np.array(values[:whole]).reshape(-1, _BLOCK).mean(axis=1)


def _drawn(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
