"""Text from a prompt, token by token, until a stop condition.

for piece in generate(decoder, tokenizer, ids, SamplingParams(temperature=0)):
    print(piece.text, end="")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.sampling import Sampler, SamplingParams, TokenLogprobs, token_logprobs
from tidemill.models.sockets import NativeKVCache
from tidemill.models.stream import Detokenizer
from tidemill.models.tokenizer import Tokenizer


class FinishReason(StrEnum):
    """Why a text ended."""

    STOP = "stop"
    """The model ended it, or it came to a stop string."""
    LENGTH = "length"
    """``max_tokens``, or the context, is used up."""
    ABORT = "abort"
    """Nobody wanted more of it."""
    ERROR = "error"
    """It could not be computed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One step of a text."""

    token_id: int | None
    """None for the last piece, which only brings text that was held back."""
    text: str
    """What this token settled; often empty."""
    logprobs: TokenLogprobs | None = None


class PromptCache:
    """A sequence and the ids in it, so that the next prompt computes only what is new in it.

    For one thread. After an exception, or Ctrl-C, it is still good.
    """

    def __init__(self, decoder: NativeDecoder) -> None:
        self.decoder = decoder
        self.ids: list[int] = []
        self.sequence: NativeKVCache = decoder.sequence()

    def keep(self, prompt_ids: Sequence[int]) -> int:
        """Forget all but what ``prompt_ids`` begin with; how many of them are there.

        At least one id is always left to compute, for its logits.
        """
        pairs = zip(self.ids[: self.sequence.length], prompt_ids[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self.sequence.truncate(shared)
        self.ids = list(prompt_ids[:shared])
        return shared


class Generation:
    """A text on its way: iterate over it once. Nothing is computed before that."""

    ids: list[int]
    """The generated ids, an ending one included."""
    finish_reason: FinishReason | None = None
    reused: int = 0
    """Tokens of the prompt that were in the cache."""

    def __init__(
        self,
        cache: PromptCache,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        params: SamplingParams,
    ) -> None:
        decoder = cache.decoder
        if not prompt_ids:
            raise InputError("prompt — is empty; give at least one token.")
        room = decoder.context - len(prompt_ids)
        if room < 1:
            raise InputError(
                f"context — a prompt of {len(prompt_ids)} tokens leaves no room in the context of "
                f"{decoder.context}; shorten it, or open the model with a larger context."
            )
        self.prompt_ids = tuple(prompt_ids)
        self.ids = []
        self._cache = cache
        self._params = params
        self._most = min(room, params.max_tokens or room)
        self._ends = frozenset[int]() if params.ignore_eos else tokenizer.eos_ids
        self._detokenizer = Detokenizer(tokenizer, stop=params.stop, continues=True)
        self._sampler = None if params.plain else Sampler(params, prompt_ids)

    def __iter__(self) -> Iterator[Piece]:
        token, logprobs = self._first()
        while True:
            self.ids.append(token)
            if token in self._ends:
                self.finish_reason = FinishReason.STOP
                yield Piece(token, "", logprobs)
                break
            text = self._detokenizer.add(token)
            yield Piece(token, text, logprobs)
            if self._detokenizer.stopped_by is not None:
                self.finish_reason = FinishReason.STOP
                return
            if len(self.ids) >= self._most:
                self.finish_reason = FinishReason.LENGTH
                break
            token, logprobs = self._next(token)
        held_back = self._detokenizer.finish()
        if held_back:
            yield Piece(None, held_back)

    def _first(self) -> tuple[int, TokenLogprobs | None]:
        cache = self._cache
        self.reused = cache.keep(self.prompt_ids)
        rest = self.prompt_ids[self.reused :]
        cache.ids += rest
        return self._pick(cache.decoder.prefill(cache.sequence, rest))

    def _next(self, token: int) -> tuple[int, TokenLogprobs | None]:
        cache = self._cache
        cache.ids.append(token)
        part = Part(cache.sequence, (token,))
        if self._sampler is None:
            return cache.decoder.step_greedy([part])[0], None
        return self._pick(cache.decoder.step([part])[0])

    def _pick(self, logits: NDArray[np.float32]) -> tuple[int, TokenLogprobs | None]:
        if self._sampler is None:
            return int(logits.argmax()), None
        token = self._sampler.sample(logits)
        count = self._params.logprobs
        return token, None if count is None else token_logprobs(logits, token, count)


def generate(
    decoder: NativeDecoder,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    *,
    cache: PromptCache | None = None,
) -> Generation:
    """A text that goes on from ``prompt_ids``, to be iterated over.

    Args:
        decoder: Where it is computed.
        tokenizer: Of the same model.
        prompt_ids: At least one.
        params: Stop conditions and how tokens are drawn.
        cache: Of an earlier prompt that this one may share a beginning with.

    Raises:
        InputError: the prompt is empty, too long, or holds ids outside the vocabulary.
    """
    return Generation(cache or PromptCache(decoder), tokenizer, prompt_ids, params)
