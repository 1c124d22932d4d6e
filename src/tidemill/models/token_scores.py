"""How far ways to run a model are from the model itself, token by token.

Sums over the vocabulary are taken in parts, so that logits of a few tokens are there at once.
"""

# torch leaves parts of its interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.bench.claim import Json
from tidemill.bench.intervals import Interval

F64 = NDArray[np.float64]
_ROWS = 64
"""Tokens whose logits are there at once."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Of one way to run a model, over the predicted tokens in order.

    Args:
        divergence: (tokens,) KL divergence from the model itself, nats.
        loss: (tokens,) negative log-likelihood of what the text has, nats.
        agrees: (tokens,) whether the likeliest token is the model's own.
    """

    divergence: F64
    loss: F64
    agrees: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[TokenScores]) -> Self:
        """Of several texts, one after the other."""
        return cls(
            np.concatenate([each.divergence for each in parts]),
            np.concatenate([each.loss for each in parts]),
            np.concatenate([each.agrees for each in parts]),
        )

    @property
    def kl(self) -> float:
        """Mean divergence."""
        return float(self.divergence.mean())

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss."""
        return math.exp(float(self.loss.mean()))

    def divergence_over(self, other: TokenScores, block: int) -> Interval:
        """Mean divergence over the other's, of the same tokens; ``block`` of them err alike."""
        return Interval.of_ratio(self.divergence, other.divergence, block)

    def perplexity_over(self, other: TokenScores, block: int) -> Interval:
        """Perplexity over the other's, of the same tokens; ``block`` of them err alike."""
        return Interval.of_exp(self.loss - other.loss, block)

    def to_json(self, name: str, bits: float) -> dict[str, Json]:
        """For a report: of the way called ``name``, which takes ``bits`` a number."""
        return {
            "name": name,
            "bits": round(bits, 4),
            "kl": float(f"{self.kl:.5g}"),
            "perplexity": float(f"{self.perplexity:.5g}"),
            "top1": float(f"{self.agrees.mean():.5g}"),
            "tokens": len(self.loss),
        }


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the model itself predicts for some tokens, such that a student's logits are needed once.

    With p the model's probabilities and z = W h a student's logits, the divergence is
    Σ p log p − h·(pᵀ W) + log Σ exp z: sums over the vocabulary are kept, not p.

    Args:
        entropy: (tokens,) −Σ p log p, nats.
        mean_row: (tokens, hidden) pᵀ W, float64.
        best: (tokens,) the likeliest token.
    """

    entropy: Any
    mean_row: Any
    best: Any

    @classmethod
    def of(cls, hidden: Any, head: Any) -> Self:
        """Of the model's hidden states (tokens, hidden), and the output matrix."""
        import torch

        found = [cls._some(rows, head) for rows in hidden.split(_ROWS)]
        return cls(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    @staticmethod
    def _some(hidden: Any, head: Any) -> tuple[Any, Any, Any]:
        import torch

        known = (hidden @ head.T).log_softmax(dim=-1)
        chances = known.exp()
        entropy = -(chances * known).sum(dim=-1, dtype=torch.float64)
        return entropy, (chances @ head).double(), known.argmax(dim=-1)

    def judge(self, hidden: Any, targets: Any, head: Any) -> TokenScores:
        """Of a student's hidden states, where the text goes on with ``targets``."""
        total = hidden.new_empty(len(hidden)).double()
        agrees = self.best == self.best
        for first in range(0, len(hidden), _ROWS):
            rows = slice(first, first + _ROWS)
            logits = hidden[rows] @ head.T
            total[rows] = logits.logsumexp(dim=-1).double()
            agrees[rows] = logits.argmax(dim=-1) == self.best[rows]
        states = hidden.double()
        gap = total - self.entropy - (states * self.mean_row).sum(dim=-1)
        loss = total - (states * head[targets].double()).sum(dim=-1)
        return TokenScores(gap.clamp(min=0).numpy(), loss.numpy(), agrees.numpy())


def hidden_of(model: Any, row: Any, cache: Any) -> Any:
    """What ``model`` gives before its head for one row of ids, shape (tokens, width)."""
    return model.base_model(
        input_ids=row, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state[0]
