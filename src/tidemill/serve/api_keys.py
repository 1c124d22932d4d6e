"""API keys and what each of them may ask for.

A file of keys has one a line, with the limits of those that have any; ``#`` begins a comment::

    secret-of-anna
    secret-of-bot   requests_per_minute=60 tokens_per_minute=20000 concurrent_requests=4

A limit per minute is a bucket that holds a minute's worth and fills steadily: a client that was
quiet may be quick for a while. Tokens of prompts and answers are counted when they are known, so
a request is let in while anything is left, and what it overdraws must fill up again first.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields

from tidemill.errors import ConfigError, ResourceError

MAX_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, and its limits; None for none."""

    key: str = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None

    def __post_init__(self) -> None:
        for limit in LIMITS:
            value = getattr(self, limit)
            if value is not None and not 1 <= value <= MAX_LIMIT:
                raise ConfigError.of(limit, value, f"from 1 to {MAX_LIMIT}")


LIMITS = tuple(item.name for item in fields(ApiKey) if item.name != "key")


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        ConfigError: a line is none; the text names its number, not the key.
    """
    found: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = ApiKey(words[0], **_limits(words[1:], number))
        if key.key in found:
            raise ConfigError(f"key of line {number} — stands in the file already; leave one.")
        found[key.key] = key
    return tuple(found.values())


def _limits(words: Sequence[str], number: int) -> dict[str, int]:
    limits: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in LIMITS or not value.isdecimal() or len(value) > 10:
            raise ConfigError(
                f"line {number} — holds {word!r} after its key; must be {'=N, '.join(LIMITS)}=N."
            )
        limits[name] = int(value)
    return limits


class OverLimit(ResourceError):
    """A key has asked for more than it may."""

    limit: str
    retry_after_s: float

    @classmethod
    def of(cls, limit: str, value: int, wait_s: float) -> OverLimit:
        """Which limit, and when it is worth trying again."""
        error = cls(f"{limit}={value} — this key has used it up; try again in {wait_s:.1f} s.")
        error.limit, error.retry_after_s = limit, wait_s
        return error


@dataclass(slots=True)
class _Bucket:
    """What is left of a limit per minute."""

    per_minute: int
    level: float
    filled_s: float

    def wait_s(self, now: float) -> float:
        """Seconds until one can be taken."""
        gained = max(0.0, now - self.filled_s) * self.per_minute / 60
        self.level, self.filled_s = min(self.level + gained, float(self.per_minute)), now
        return max(0.0, (1 - self.level) * 60 / self.per_minute)


class Account:
    """A key's use of the server; for one event loop."""

    def __init__(self, key: ApiKey, now: Callable[[], float] = time.monotonic) -> None:
        self.key, self._now = key, now
        self._running = 0
        self._requests = self._bucket(key.requests_per_minute)
        self._tokens = self._bucket(key.tokens_per_minute)

    def enter(self) -> None:
        """A request of this key comes.

        Raises:
            OverLimit: it may not, for now.
        """
        key, now = self.key, self._now()
        if key.concurrent_requests is not None and self._running >= key.concurrent_requests:
            raise OverLimit.of("concurrent_requests", key.concurrent_requests, 1.0)
        for name, bucket in (
            ("requests_per_minute", self._requests),
            ("tokens_per_minute", self._tokens),
        ):
            if bucket is not None and (wait_s := bucket.wait_s(now)) > 1e-6:
                raise OverLimit.of(name, bucket.per_minute, wait_s)
        if self._requests is not None:
            self._requests.level -= 1
        self._running += 1

    def leave(self) -> None:
        """One that came has been answered."""
        self._running -= 1

    def spend(self, tokens: int) -> None:
        """Count tokens of a prompt or an answer."""
        if self._tokens is not None:
            self._tokens.wait_s(self._now())
            self._tokens.level -= tokens

    def _bucket(self, per_minute: int | None) -> _Bucket | None:
        return _Bucket(per_minute, float(per_minute), self._now()) if per_minute else None


class Accounts:
    """All keys of a server."""

    def __init__(self, keys: Collection[ApiKey]) -> None:
        self._accounts = [(key.key.encode(), Account(key)) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def find(self, sent: str) -> Account | None:
        """The account of a key; the time it takes tells nothing of other keys."""
        given = sent.encode("utf-8", "surrogateescape")
        found = [account for key, account in self._accounts if hmac.compare_digest(given, key)]
        return found[0] if found else None
