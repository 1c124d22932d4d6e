"""Memory nodes behind a network card: one-sided reads and writes, emulated over sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile, InputError, OutOfPool, ProtocolError, ResourceError
from tidemill.memory.checksums import as_bytes, crc32c
from tidemill.memory.kernels import paging
from tidemill.memory.link import RDMA, Link
from tidemill.memory.tier import TierKind

_RESERVE, _SEAL, _FIND, _FREE, _ROOM = 3, 4, 5, 6, 7
_FINE, _NO_ROOM, _UNKNOWN, _SEALED = 0, 2, 3, 4
_NOWHERE = 1 << 63
_NO_KEY = bytes(16)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteExtent:
    """Where something lies on each of a tier's servers.

    Attributes:
        key: 16 bytes that name it.
        size: in bytes.
        bases: offset on each server; 2^63 for one that could not be asked.
    """

    key: bytes
    size: int
    bases: tuple[int, ...]


class RemoteHold:
    """An extent that its servers keep, whoever frees it, until this is closed or forgotten.

    Attributes:
        key: its name.
        size: its bytes, whole pages.
        bases: offset on each server; 2^63 for one that has it not.
    """

    def __init__(self, key: bytes, held: list[Any]) -> None:
        self.key = key
        self.bases = tuple(one.offset if _has(one) else _NOWHERE for one in held)
        self.size = next((one.bytes for one in held if _has(one)), 0)
        self._held = held

    def extent(self, size: int | None = None) -> RemoteExtent:
        """The extent, of ``size`` bytes if it is not whole pages."""
        return RemoteExtent(self.key, self.size if size is None else size, self.bases)

    def close(self) -> None:
        """Let the servers have it back."""
        for one in filter(None, self._held):
            one.close()


class RemoteTier:
    """One or more page servers that hold the same extents; for any number of threads.

    Args:
        addresses: of the servers; what the first does not give, the next is asked for.
        link: what a real network card would take; what is faster is delayed.
        timeout_s: how long one server may keep a request.

    Raises:
        ConfigError: a value out of range.
    """

    kind = TierKind.EMULATED

    def __init__(
        self, addresses: str | Sequence[str], *, link: Link = RDMA, timeout_s: float = 0.5
    ) -> None:
        self.addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        self.link = link
        self.native: Any = paging().RemotePool(
            self.addresses, link.latency_ns, link.bytes_per_ns, link.outstanding, timeout_s
        )

    def describe(self) -> str:
        """One line for a report."""
        count = len(self.addresses)
        return (
            f"RDMA memory nodes: {count} page server(s) over sockets, never faster than {self.link}"
        )

    def publish(self, key: bytes, data: bytes | memoryview | NDArray[np.uint8]) -> RemoteExtent:
        """Write an extent to every server that answers; nobody finds it before it is complete.

        Raises:
            OutOfPool: a server has no room; ResourceError: none can be reached.
            InputError: the key is taken by an extent of another size.
        """
        flat = as_bytes(data)
        bases: list[int] = []
        for replica in range(len(self.addresses)):
            try:
                bases.append(self._write(replica, key, flat))
            except OutOfPool:
                raise
            except ResourceError:  # the others have it; whoever reads asks them
                if replica == len(self.addresses) - 1 and not any(b < _NOWHERE for b in bases):
                    raise
                bases.append(_NOWHERE)
        return RemoteExtent(key, flat.size, tuple(bases))

    def _write(self, replica: int, key: bytes, data: NDArray[np.uint8]) -> int:
        answer, base, size = self._ask(replica, _RESERVE, key, data.size)
        address = self.addresses[replica]
        if answer == _NO_ROOM:
            room = self._ask(replica, _ROOM, _NO_KEY)[2]
            raise OutOfPool(
                f"{address}: {data.size:,} bytes wanted, {room:,} free; free extents or start a "
                "server with more memory"
            )
        if answer == _SEALED:
            if size != -(-data.size // 4096) * 4096:
                raise InputError(f"{address}: key {key.hex()} names an extent of {size:,} bytes")
            return base
        self._try(lambda: self.native.put(replica, base, data), replica)
        self._ask(replica, _SEAL, key)
        return base

    def find(self, key: bytes, size: int) -> RemoteExtent:
        """Where the extent lies; servers that do not answer are left out.

        Raises:
            ResourceError: no server that answers has it.
        """
        bases: list[int] = []
        for replica in range(len(self.addresses)):
            try:
                answer, base, _ = self._ask(replica, _FIND, key)
            except ResourceError:
                answer, base = _UNKNOWN, 0
            bases.append(base if answer == _FINE else _NOWHERE)
        if min(bases) == _NOWHERE:
            raise ResourceError(f"none of {', '.join(self.addresses)} has extent {key.hex()}")
        return RemoteExtent(key, size, tuple(bases))

    def hold(self, key: bytes) -> RemoteHold:
        """An extent, kept by its servers; those that do not answer are left out.

        Raises:
            ResourceError: no server that answers has it.
        """
        held: list[Any] = []
        for replica in range(len(self.addresses)):
            try:
                held.append(self._try(lambda r=replica: self.native.hold(r, key), replica))
            except ResourceError:
                held.append(None)
        made = RemoteHold(key, held)
        if min(made.bases) == _NOWHERE:
            raise ResourceError(f"none of {', '.join(self.addresses)} has extent {key.hex()}")
        return made

    def read(
        self, extent: RemoteExtent, offset: int, size: int, *, crc: int | None = None
    ) -> NDArray[np.uint8]:
        """Bytes of an extent, from the first server that gives them, checked if ``crc`` is given.

        Raises:
            InputError: outside the extent; ResourceError: no server answers.
            CorruptFile: what they give is not what was published.
        """
        if not (0 <= offset <= extent.size and 0 <= size <= extent.size - offset):
            raise InputError(f"bytes {offset}-{offset + size} of an extent of {extent.size}")
        into = np.empty(size, np.uint8)
        failure: Exception = ResourceError("no server has this extent")
        for replica, base in enumerate(extent.bases):
            if base == _NOWHERE:
                continue
            try:
                self._try(lambda r=replica, b=base: self.native.get(r, b + offset, into), replica)
            except ResourceError as error:
                failure = error
                continue
            if crc is None or crc32c(into) == crc:
                return into
            failure = CorruptFile(f"{self.addresses[replica]}: not the bytes that were published")
        raise failure

    def free(self, key: bytes) -> None:
        """Give the extent's room back on every server that answers."""
        for replica in range(len(self.addresses)):
            with suppress(ResourceError):
                self._ask(replica, _FREE, key)

    def room(self) -> list[int]:
        """Bytes free on each server."""
        return [self._ask(replica, _ROOM, _NO_KEY)[2] for replica in range(len(self.addresses))]

    def _ask(self, replica: int, verb: int, key: bytes, size: int = 0) -> tuple[int, int, int]:
        return self._try(lambda: self.native.ask(replica, verb, key, size), replica)

    def _try(self, call: Callable[[], T], replica: int) -> T:
        """Once more with a new connection: an idle one may be that of a server of before."""
        try:
            return call()
        except OSError:
            try:
                return call()
            except OSError as error:
                where = self.addresses[replica]
                raise ResourceError(f"page server {where}: {error}; is it running?") from error
        except ValueError as error:
            raise ProtocolError(str(error)) from error


def _has(held: Any) -> bool:
    return held is not None and held.answer == _FINE
