"""Who goes first, how far, and who must give way: objects that a scheduler is given.

Each is asked with a ``View`` that it must not change. One that fails, or answers what cannot be,
is overruled for that decision by first come, first served, and counted (``PolicyError``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from tidemill.errors import ProtocolError
from tidemill.serve.types import Request

Key: TypeAlias = "tuple[float, ...]"


class PolicyError(ProtocolError):
    """A policy failed or answered what cannot be; the text names it."""


class RequestView(Protocol):
    """What a policy may see of a request."""

    @property
    def request(self) -> Request:
        """What was asked."""
        ...

    @property
    def arrival_s(self) -> float:
        """When it came, on the engine's clock."""
        ...

    @property
    def order(self) -> int:
        """Its number, counted from the first request."""
        ...

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are there."""
        ...

    @property
    def total(self) -> int:
        """Tokens of prompt and output so far."""
        ...

    @property
    def outputs(self) -> int:
        """Tokens generated so far."""
        ...

    @property
    def blocks(self) -> Sequence[int]:
        """Where its keys and values are."""
        ...

    @property
    def running(self) -> bool:
        """Whether it has a place in steps; else it waits."""
        ...


class View(Protocol):
    """What a policy may see of a scheduler."""

    @property
    def now(self) -> float:
        """On the engine's clock."""
        ...

    @property
    def running(self) -> Sequence[RequestView]:
        """Those that have blocks."""
        ...

    @property
    def waiting(self) -> Sequence[RequestView]:
        """Those that have none."""
        ...

    @property
    def free_blocks(self) -> int:
        """Blocks that could be taken now."""
        ...

    @property
    def capacity_blocks(self) -> int:
        """Blocks in all."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        ...

    def cached_tokens(self, item: RequestView) -> int:
        """Tokens of a waiting request that are in the cache."""
        ...


class AdmissionPolicy(Protocol):
    """Who may wait."""

    def admit(self, view: View, request: Request) -> bool:
        """Whether the request is taken; else its sender is told to come back later."""
        ...


class OrderPolicy(Protocol):
    """Who goes first."""

    def key(self, item: RequestView, view: View) -> Key:
        """Smaller goes first; among equals, who came first."""
        ...


class CapPolicy(Protocol):
    """How far a request may go in this step."""

    def allowed_tokens(self, item: RequestView, view: View) -> int | None:
        """At most so many tokens; None for no limit, 0 to pause it."""
        ...


class VictimPolicy(Protocol):
    """Who gives way when blocks run out."""

    def pick(self, view: View, candidates: Sequence[RequestView], need: int) -> str:
        """The id of one of ``candidates``, whose blocks are taken; ``need`` more are missing."""
        ...


class QueueLimit:
    """Take requests while fewer than ``limit`` wait."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def admit(self, view: View, request: Request) -> bool:  # noqa: D102
        return len(view.waiting) < self.limit


class FirstComeFirstServed:
    """By arrival."""

    def key(self, item: RequestView, view: View) -> Key:  # noqa: D102
        return (item.order,)


class ByPriority:
    """By ``Request.priority``, smaller first."""

    def key(self, item: RequestView, view: View) -> Key:  # noqa: D102
        return (item.request.priority, item.order)


class EarliestDeadlineFirst:
    """By ``Request.deadline_s``; those without one last."""

    def key(self, item: RequestView, view: View) -> Key:  # noqa: D102
        deadline = item.request.deadline_s
        return (math.inf if deadline is None else deadline, item.order)


class LongestPrefixFirst:
    """Who finds most of its prompt in the cache, before that is evicted."""

    def key(self, item: RequestView, view: View) -> Key:  # noqa: D102
        return (-(item.computed or view.cached_tokens(item)), item.order)


class NoCap:
    """No limit but the step's."""

    def allowed_tokens(self, item: RequestView, view: View) -> int | None:  # noqa: D102
        return None


class LastServed:
    """The candidate that the order puts last, so that whoever is first always gets on."""

    def pick(self, view: View, candidates: Sequence[RequestView], need: int) -> str:  # noqa: D102
        return candidates[-1].request.id


ORDERS: dict[str, type[OrderPolicy]] = {
    "fcfs": FirstComeFirstServed,
    "priority": ByPriority,
    "edf": EarliestDeadlineFirst,
    "longest-prefix": LongestPrefixFirst,
}
"""Orders that can be named on the command line."""
