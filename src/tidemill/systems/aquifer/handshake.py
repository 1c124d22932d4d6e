"""How a virtual machine monitor hands its page faults over: Firecracker's message, both ways."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tidemill.errors import MissingCapability, ProtocolError
from tidemill.memory import GuestRange, Userfaultfd
from tidemill.memory.userfaultfd import Feature, receive
from tidemill.systems.aquifer.snapshot import PAGE, GuestRegion

_TRIES = 5
_WAIT_S = 2.0
_HUGE = (PAGE, 2 << 20, 1 << 30)
_MOST_REGIONS = 64
GOODBYE = b"\0"
"""What our monitor sends before it gives its memory back; Firecracker just exits."""


def receive_handshake(
    peer: socket.socket, memory_bytes: int
) -> tuple[Userfaultfd, list[GuestRange]]:
    """Firecracker's one message: where its guest's memory lies, and the userfaultfd of it.

    The descriptor may come late; it is waited for up to five times.

    Raises:
        ProtocolError: no descriptor, no such JSON, or regions that are not those of a snapshot of
            ``memory_bytes``; says which.
    """
    peer.settimeout(_WAIT_S)
    text, faults = b"", None
    try:
        for _ in range(_TRIES):
            message, came = receive(peer)
            if came is not None:
                if faults is not None:
                    faults.close()
                faults = came
            text += message
            if faults is not None and _is_complete(text):
                return faults, parse_regions(text, memory_bytes)
            if not message and came is None:
                break
        what = "no userfaultfd came with it" if faults is None else "it is cut short"
        raise ProtocolError(f"handshake of {len(text)} bytes: {what}; send both in one message")
    except TimeoutError as error:
        _close(faults)
        raise ProtocolError(f"handshake: nothing more came within {_WAIT_S:g} s") from error
    except BaseException:
        _close(faults)
        raise


def _close(faults: Userfaultfd | None) -> None:
    if faults is not None:
        faults.close()


def _is_complete(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return not text.lstrip().startswith(b"[")  # it will never be: let the parser say so
    return True


def parse_regions(text: bytes, memory_bytes: int) -> list[GuestRange]:
    """The regions of a handshake.

    Raises:
        ProtocolError: as `receive_handshake`.
    """
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"handshake: not JSON ({error}); must be a list of regions") from error
    if not isinstance(found, list) or not 1 <= len(cast("list[Any]", found)) <= _MOST_REGIONS:
        raise ProtocolError(f"handshake: must be a list of 1 to {_MOST_REGIONS} regions")
    ranges = [_range(entry) for entry in cast("list[object]", found)]
    _check_cover(ranges, memory_bytes)
    return ranges


def _range(entry: object) -> GuestRange:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    page = fields.get("page_size", fields.get("page_size_kib"))  # the old name, bytes as well
    values = [fields.get("base_host_virt_addr"), fields.get("size"), fields.get("offset"), page]
    if not all(type(value) is int and 0 <= value < 1 << 63 for value in values):
        raise ProtocolError(
            f"handshake: region {json.dumps(entry)[:200]} - must have base_host_virt_addr, size, "
            "offset and page_size, all of them numbers of bytes"
        )
    address, size, offset, page_bytes = cast("list[int]", values)
    if page_bytes not in _HUGE:
        raise ProtocolError(f"handshake: page_size={page_bytes} - must be one of {_HUGE}")
    if size == 0 or any(value % page_bytes for value in (address, size, offset)):
        raise ProtocolError(
            f"handshake: region of {size} bytes at {address:#x}, offset {offset} - must be whole "
            f"pages of {page_bytes} bytes"
        )
    return GuestRange(address, size, offset // PAGE, page_bytes)


def _check_cover(ranges: list[GuestRange], memory_bytes: int) -> None:
    end = 0
    for part in sorted(ranges, key=lambda part: part.first_page):
        if part.first_page * PAGE != end:
            raise ProtocolError(
                f"handshake: a region begins at offset {part.first_page * PAGE}, must be {end}; "
                "regions may neither overlap nor leave a gap"
            )
        end += part.size
    if end != memory_bytes:
        raise ProtocolError(f"handshake: {end} bytes of memory, the snapshot has {memory_bytes}")


def announce(path: str | Path) -> tuple[Callable[[GuestRegion], None], Callable[[], None]]:
    """Have another process answer a clone's page faults, as Firecracker does.

    Returns:
        What `MicroVM.restore` takes as ``supply``, and what to call when the clone is closed.
    """
    peer = socket.socket(socket.AF_UNIX)

    def supply(region: GuestRegion) -> None:
        with Userfaultfd(Feature.EVENT_REMOVE) as faults:
            faults.register(region.address, region.size)
            message = [
                {
                    "base_host_virt_addr": region.address,
                    "size": region.size,
                    "offset": 0,
                    "page_size": PAGE,
                    "page_size_kib": PAGE,
                }
            ]
            try:
                peer.connect(str(path))
                faults.send(peer, json.dumps(message).encode())
            except OSError as error:
                peer.close()
                raise MissingCapability(
                    f"{path}: {error.strerror}; start `tidemill aquifer uffd` first"
                ) from error

    def goodbye() -> None:
        with peer:
            peer.sendall(GOODBYE)

    return supply, goodbye
