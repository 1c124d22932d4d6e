"""Plans computed by the native decoder: one C++ call per step."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError
from tidemill.models.native_decoder import NativeDecoder
from tidemill.models.native_decoder import Part as Slice
from tidemill.models.sampling import Sampler, TokenLogprobs, token_logprobs
from tidemill.models.sockets import MappedKVCache, NativeKVCache
from tidemill.serve.grammar import Grammars, Matcher
from tidemill.serve.types import PENDING, Part, Request, Sampled, StepPlan, StepResult


@dataclass(slots=True)
class _State:
    """What lives as long as a request does."""

    sequence: NativeKVCache
    sampler: Sampler | None = None
    matcher: Matcher | None = None
    last: int = 0
    """The token that was drawn last."""


class DecoderExecutor:
    """Computes plans in the pages that they name.

    A plug's cache may have pages of its own; then block tables only say how much room there is,
    and the scheduler must not share prefixes: see ``maps_pages``.
    """

    def __init__(self, decoder: NativeDecoder, grammars: Grammars | None = None) -> None:
        self._decoder = decoder
        self._grammars = grammars
        self._states: dict[str, _State] = {}

    @property
    def maps_pages(self) -> bool:
        """Whether sequences may share pages."""
        return isinstance(self._decoder.sequence(), MappedKVCache)

    def run(self, plan: StepPlan) -> StepResult:
        """As ``Executor``.

        Raises:
            InputError, OutOfPool: as ``NativeDecoder.step``; no sequence has changed.
        """
        start = time.monotonic()
        for name in plan.finished:
            self._states.pop(name, None)
        if not plan.parts:
            return StepResult({}, start_s=start, end_s=start)
        slices = [self._slice(part) for part in plan.parts]
        sampling = [part for part in plan.parts if part.samples]
        if all(part.request.plain for part in sampling):
            ids = self._decoder.step_greedy(slices)
            sampled = {
                part.request.id: self._kept(part.request, token)
                for part, token in zip(sampling, ids, strict=True)
            }
            return StepResult(sampled, start_s=start, end_s=time.monotonic())
        logits = self._decoder.step(slices)
        return self._drawn(sampling, logits, start)

    def _slice(self, part: Part) -> Slice:
        state = self._states.get(part.request.id)
        if state is None:
            state = self._states[part.request.id] = _State(self._decoder.sequence())
        if isinstance(state.sequence, MappedKVCache):
            state.sequence.map(part.blocks, part.start)
        elif state.sequence.length > part.start:  # computed again after a preemption
            state.sequence.truncate(part.start)
        ids = (state.last,) if part.ids == (PENDING,) else part.ids
        return Slice(state.sequence, ids, int(part.samples))

    def _kept(self, request: Request, token: int, logprobs: TokenLogprobs | None = None) -> Sampled:
        self._states[request.id].last = token
        return Sampled(token, logprobs)

    def _drawn(self, parts: list[Part], logits: NDArray[np.float32], start: float) -> StepResult:
        sampled, failed = dict[str, Sampled](), dict[str, str]()
        for part, row in zip(parts, logits, strict=True):
            try:
                sampled[part.request.id] = self._draw(part.request, row)
            except InputError as error:
                failed[part.request.id] = str(error)
        return StepResult(sampled, failed, start, time.monotonic())

    def _draw(self, request: Request, row: NDArray[np.float32]) -> Sampled:
        params, state = request.params, self._states[request.id]
        if state.sampler is None:
            state.sampler = Sampler(params, request.prompt_ids)
            if request.grammar is not None and self._grammars is not None:
                state.matcher = self._grammars.matcher(request.grammar)
        token = state.sampler.sample(state.matcher.mask(row) if state.matcher else row)
        if state.matcher is not None:
            state.matcher.take(token)
        count = params.logprobs
        found = None if count is None else token_logprobs(row, token, count)
        return self._kept(request, token, found)
