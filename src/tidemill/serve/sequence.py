"""A request on its way through the scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tidemill.models.generation import FinishReason
from tidemill.serve.block_pool import BlockPool, chain_keys, salt_key
from tidemill.serve.types import PENDING, Request, Usage


@dataclass(slots=True, eq=False)
class Tracked:
    """A request, its tokens so far, and where their keys and values are."""

    request: Request
    arrival_s: float
    order: int
    most_outputs: int
    """Tokens after which its text ends."""
    tokens: list[int] = field(init=False)
    """The last ``pending`` of them are ``PENDING``."""
    pending: int = 0
    """Tokens that plans under way will draw."""
    computed: int = 0
    """Tokens whose keys and values are there, or will be when the plans under way are done."""
    blocks: list[int] = field(default_factory=list[int])
    running: bool = False
    in_flight: int = 0
    """Plans that name it and have not been committed yet."""
    life: int = 0
    """Changes when it loses its blocks: what was under way then is not kept."""
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    was_scheduled: bool = False
    _keys: list[bytes] = field(default_factory=list[bytes])
    _registered: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)

    @property
    def total(self) -> int:
        """Tokens of prompt and output so far."""
        return len(self.tokens)

    @property
    def outputs(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.pending - len(self.request.prompt_ids)

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be drawn; none if there will be no next one."""
        if self.outputs + self.pending >= self.most_outputs:
            return 0
        return len(self.tokens) - self.computed

    def plan(self, count: int, samples: bool) -> None:
        """A plan computes the next ``count`` tokens, and draws one after them."""
        self.computed += count
        self.in_flight += 1
        if samples:
            self.tokens.append(PENDING)
            self.pending += 1

    def drawn(self, token: int) -> None:
        """The first of the pending tokens is known."""
        self.tokens[len(self.tokens) - self.pending] = token
        self.pending -= 1

    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self.request.prompt_ids), self.outputs, self.cached_tokens)

    def keys(self, pool: BlockPool) -> Sequence[bytes]:
        """The keys of all full blocks; each is computed once."""
        size = pool.block_tokens
        rest = self.tokens[len(self._keys) * size : len(self.tokens) - self.pending]
        if len(rest) >= size:
            parent = self._keys[-1] if self._keys else salt_key(self.request.cache_salt)
            self._keys += chain_keys(parent, rest, size)
        return self._keys

    def reusable(self, pool: BlockPool) -> Iterator[bytes]:
        """The keys of blocks it may share: at least one token is left, for its logits."""
        return iter(self.keys(pool)[: (len(self.tokens) - 1) // pool.block_tokens])

    def register(self, pool: BlockPool, computed: int) -> None:
        """Let others find the blocks that are full and hold what was ``computed``."""
        full = computed // pool.block_tokens
        keys = self.keys(pool)
        for index in range(self._registered, full):
            pool.register(self.blocks[index], keys[index])
        self._registered = max(self._registered, full)

    def adopt(self, pool: BlockPool) -> None:
        """Begin with what is in the cache."""
        self.blocks = pool.match(self.reusable(pool))
        self.computed = len(self.blocks) * pool.block_tokens
        self._registered = len(self.blocks)
        if not self.was_scheduled:
            self.cached_tokens = min(self.computed, len(self.request.prompt_ids))

    def let_go(self, pool: BlockPool) -> None:
        """Give all blocks back; what they held must be computed, or found, again."""
        pool.release(self.blocks)
        self.blocks, self.computed, self._registered = [], 0, 0
        self.running = False
        self.life += 1
