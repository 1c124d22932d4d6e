"""The sampler in NumPy: what ``sampler.cpp`` must do, step by step and slowly.

Order as in ``transformers``' ``LogitsProcessorList``: bias, repetition penalty, presence and
frequency penalty, temperature, top-k, top-p, min-p, softmax. Ties: top-k keeps all that equal the
k-th and greedy takes the lowest id, as there; top-p drops lower ids first (torch's sort, which is
not stable, leaves it open).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill.models.sampling import F32, SamplingParams, unusable_logits

F64 = NDArray[np.float64]
_MASK = 0xFFFFFFFF


def philox(key: int, counter: int) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random 32-bit words. Source: Salmon et al. 2011, "Parallel random …"."""
    words = (counter & _MASK, counter >> 32 & _MASK, 0, 0)
    low, high = key & _MASK, key >> 32 & _MASK
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = (b >> 32 ^ words[1] ^ low, b & _MASK, a >> 32 ^ words[3] ^ high, a & _MASK)
        low, high = (low + 0x9E3779B9) & _MASK, (high + 0xBB67AE85) & _MASK
    return words


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) with 53 random bits, the ``counter``-th of ``seed``."""
    words = philox(seed, counter)
    return ((words[1] << 32 | words[0]) >> 11) * 2.0**-53


class ReferenceSampler:
    """`tidemill.models.sampling.Sampler` in NumPy: same arguments, same tokens."""

    seed: int

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int] = ()
    ) -> None:
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._params = params
        self._prompt = set(prompt_ids)
        self._output = Counter(output_ids)

    def sample(self, logits: F32) -> int:
        """The next token's id, which counts from now on as generated."""
        drawn = self._output.total()
        if self._params.greedy:
            chosen = int(self.scores(logits).argmax())
        else:
            probabilities = self.probabilities(logits)
            passed = np.cumsum(probabilities)
            target = uniform(self.seed, drawn) * passed[-1]
            last = max(np.flatnonzero(probabilities).tolist())
            chosen = min(int(np.count_nonzero(passed <= target)), last)
        self._output[chosen] += 1
        return chosen

    def probabilities(self, logits: F32) -> F64:
        """What the next token is drawn from: shape (vocab,), 0 for those that were filtered out."""
        return softmax(self.filtered(self.scores(logits)))

    def scores(self, logits: F32) -> F32:
        """Logits with bias, penalties and temperature: shape (vocab,)."""
        params = self._params
        scores = logits.copy()
        for token_id, amount in params.logit_bias.items():
            if token_id < len(scores):
                scores[token_id] += np.float32(amount)
        for token_id in self._prompt | set(self._output):
            if token_id < len(scores):
                scores[token_id] = self._penalised(scores[token_id], self._output[token_id])
        self._check(scores)
        return scores if params.greedy else scores / np.float32(params.temperature)

    def filtered(self, scores: F32) -> F32:
        """``scores`` with -inf for what top-k, top-p and min-p leave out."""
        params = self._params
        if 0 < params.top_k < len(scores):
            least = np.sort(scores)[-params.top_k]
            scores = np.where(scores < least, -np.inf, scores).astype(np.float32)
        if params.top_p < 1:
            order = np.argsort(scores, kind="stable")[::-1]  # falling; of equals the higher id
            mass = np.cumsum(weights(scores)[order])
            before = np.concatenate(([0.0], mass[:-1]))
            dropped = order[before >= params.top_p * mass[-1]]
            scores = scores.copy()
            scores[dropped] = -np.inf
        if params.min_p > 0:
            probabilities = softmax(scores)
            out = probabilities < params.min_p * probabilities.max()
            scores = np.where(out, -np.inf, scores).astype(np.float32)
        return scores

    def _penalised(self, logit: np.float32, count: int) -> np.float32:
        penalty = np.float32(self._params.repetition_penalty)
        logit = logit * penalty if logit < 0 else logit / penalty
        if count:
            logit -= np.float32(self._params.frequency_penalty) * np.float32(count)
            logit -= np.float32(self._params.presence_penalty)
        return logit

    def _check(self, scores: F32) -> None:
        found = (
            "NaN"
            if np.isnan(scores).any()
            else "+inf"
            if scores.max() == np.inf
            else "-inf everywhere"
            if scores.max() == -np.inf
            else ""
        )
        if found:
            raise unusable_logits(scores, found, self._output.total())


def softmax(scores: F32) -> F64:
    """Probabilities of ``scores``, in double precision."""
    found = weights(scores)
    return found / found.sum()


def weights(scores: F32) -> F64:
    """Probabilities over that of the likeliest; summing these, equal tokens add up exactly."""
    return np.exp(scores.astype(np.float64) - scores.max())
