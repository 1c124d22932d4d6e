"""What goes into the scheduler and what comes out of it: requests, plans, results, outputs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tidemill.models.generation import FinishReason
from tidemill.models.sampling import SamplingParams, TokenLogprobs

PENDING = -1
"""In a part's ``ids``: the token that the plan before it draws for the same request."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be continued."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    eos_ids: frozenset[int] = frozenset()
    """Ids that end the text, unless ``params.ignore_eos``."""
    priority: int = 0
    """Lower goes first, for policies that look at it."""
    deadline_s: float | None = None
    """On the engine's clock, for policies that look at it."""
    session: str | None = None
    """A conversation it belongs to, for policies that look at it."""
    grammar: str | None = None
    """What the text must follow, as ``Grammars`` makes it."""
    cache_salt: str = ""
    """Requests share cached prefixes only with those of the same salt."""

    @property
    def plain(self) -> bool:
        """Whether each token is just the likeliest one."""
        return self.grammar is None and self.params.plain


@dataclass(frozen=True, slots=True)
class Part:
    """What a step does for one request: compute ``ids``, which stand at ``start`` and after.

    A piece of a prompt, a next token, and what is computed again after a preemption are the same.
    """

    request: Request
    ids: tuple[int, ...]
    """The one id of a next token is ``PENDING`` while a plan under way draws it."""
    start: int
    """Tokens before them, whose keys and values are in ``blocks``."""
    blocks: tuple[int, ...]
    """The request's block table, with room for ``ids``."""
    samples: bool
    """Whether the token after the last id is wanted."""
    outputs: int
    """Tokens that have been generated so far, or will be by the plans under way."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: the parts it computes, and the requests that ended since the last plan."""

    number: int
    parts: tuple[Part, ...]
    finished: tuple[str, ...] = ()
    """Ids whose state an executor may drop."""

    @property
    def tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(len(part.ids) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token that a step drew."""

    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a plan; every part that samples has an entry in one of the two."""

    sampled: dict[str, Sampled]
    """By request id."""
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Requests that failed on their own, as with NaN logits, and why."""
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt, that were in the cache when it was first scheduled."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought for one request."""

    request_id: str
    token_ids: tuple[int, ...]
    """New ones; an ending token included."""
    usage: Usage
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None
    """Why, when ``finish_reason`` is ``error``."""
