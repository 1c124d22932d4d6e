"""Blocks of the KV cache: which are free, who holds them, and which hold a known prefix.

Law: a block is in exactly one state: free, held (by one request or more), kept (free, but its
contents are known and may be asked for again), or retired (beyond the capacity). It knows numbers
of blocks only, neither what is in them nor where they are.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import xxhash

from tidemill.errors import ConfigError, OutOfPool

MAX_BLOCKS = 1 << 31


class BlockPool:
    """Blocks numbered from 0, for one thread; every operation is O(blocks named)."""

    def __init__(self, capacity: int, block_tokens: int = 32) -> None:
        """A pool of ``capacity`` blocks of ``block_tokens`` tokens each.

        Raises:
            ConfigError: a size is not positive, or ``block_tokens`` not a power of two.
        """
        _check_capacity(capacity)
        if block_tokens < 1 or block_tokens & (block_tokens - 1):
            raise ConfigError.of("block_tokens", block_tokens, "a power of two")
        self.block_tokens = block_tokens
        self.evictions = 0
        """Kept blocks that were given away so far."""
        self._capacity = capacity
        self._made = 0
        """Blocks from here on were never used."""
        self._free: list[int] = []
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently released first
        self._holders: dict[int, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def capacity(self) -> int:
        """Blocks that may be held; after shrinking, more may be held for a while."""
        return self._capacity

    @property
    def available(self) -> int:
        """Blocks that ``take`` could give now, kept ones included."""
        return max(0, self._capacity - self._made) + len(self._free) + len(self._kept)

    @property
    def held(self) -> int:
        """Blocks that somebody holds."""
        return len(self._holders)

    @property
    def kept(self) -> int:
        """Blocks that nobody holds but whose prefix is known."""
        return len(self._kept)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def keys(self, ids: Sequence[int], salt: str = "") -> Iterator[bytes]:
        """The keys of the full blocks of ``ids``: each depends on all that comes before it."""
        return chain_keys(salt_key(salt), ids, self.block_tokens)

    def take(self, count: int) -> list[int]:
        """Blocks nobody holds; those whose prefix is known last, the longest unused first.

        Raises:
            OutOfPool: there are not so many; nothing was taken.
        """
        if count > self.available:
            raise OutOfPool(
                f"kv blocks — {count} asked, {self.available} of {self._capacity} are free; end "
                "a request, or give the cache more room."
            )
        taken = [self._next() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """Hold the blocks of the longest known prefix, in order; often none."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._kept.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1
            found.append(block)
        return found

    def known(self, keys: Iterable[bytes]) -> int:
        """How many blocks ``match`` would find."""
        count = 0
        for key in keys:
            if key not in self._block_of:
                break
            count += 1
        return count

    def register(self, block: int, key: bytes) -> None:
        """Say what a held block contains, now that it is full; the first keeps the key."""
        if key not in self._block_of and block not in self._key_of and block < self._capacity:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a request's blocks; the ends of prefixes are forgotten before beginnings."""
        for block in reversed(blocks):
            holders = self._holders[block] - 1
            if holders:
                self._holders[block] = holders
                continue
            del self._holders[block]
            if block >= self._capacity:
                self._forget(block)
            elif block in self._key_of:
                self._kept[block] = None
            else:
                self._free.append(block)

    def set_capacity(self, capacity: int) -> None:
        """Grow at once, or shrink: free blocks go at once, held ones when they are released.

        Raises:
            ConfigError: it is not positive.
        """
        _check_capacity(capacity)
        before, self._capacity = self._capacity, capacity
        for block in [block for block in self._kept if block >= capacity]:
            del self._kept[block]
            self._forget(block)
        self._free = [block for block in self._free if block < capacity]
        if capacity > before:
            back = range(before, min(capacity, self._made))
            self._free.extend(block for block in back if block not in self._holders)
        for block in [block for block in self._key_of if block >= capacity]:
            self._forget(block)

    def clear(self) -> int:
        """Forget all prefixes that nobody holds; how many blocks that were."""
        count = len(self._kept)
        for block in self._kept:
            self._forget(block)
            self._free.append(block)
        self._kept.clear()
        return count

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert the law, given the block tables of all requests. O(capacity)."""
        held = Counter(block for table in tables for block in table)
        assert held == self._holders, "a block is held more or less often than it stands in tables"
        free, kept = set(self._free), set(self._kept)
        assert len(free) == len(self._free), "a block is free twice"
        assert free.isdisjoint(kept), "a block is free and kept"
        assert (free | kept).isdisjoint(held), "a held block is offered"
        assert all(block < self._capacity for block in free | kept), "a retired block is offered"
        below = {block for block in held if block < self._capacity}
        made = min(self._made, self._capacity)
        assert len(below) + len(free) + len(kept) == made, "a block is lost"
        assert {self._block_of[key]: key for key in self._block_of} == self._key_of, "keys"
        assert kept <= self._key_of.keys(), "a kept block has no key"

    def _next(self) -> int:
        if self._free:
            return self._free.pop()
        if self._made < self._capacity:
            self._made += 1
            return self._made - 1
        block, _ = self._kept.popitem(last=False)
        self._forget(block)
        self.evictions += 1
        return block

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]


def salt_key(salt: str) -> bytes:
    """What a chain of keys begins with."""
    return xxhash.xxh3_128_digest(salt.encode())


def chain_keys(parent: bytes, ids: Sequence[int], block_tokens: int) -> Iterator[bytes]:
    """The keys of the full blocks of ``ids`` that follow on the block of ``parent``.

    128 bits of xxh3: two prefixes meet by accident once in 10¹⁹ blocks or so. It is no defence
    against who makes them meet on purpose; requests that must not share have salts.
    """
    for end in range(block_tokens, len(ids) + 1, block_tokens):
        parent = xxhash.xxh3_128_digest(
            parent + array("q", ids[end - block_tokens : end]).tobytes()
        )
        yield parent


def _check_capacity(capacity: int) -> None:
    if not 1 <= capacity <= MAX_BLOCKS:
        raise ConfigError.of("capacity", capacity, f"from 1 to {MAX_BLOCKS} blocks")
