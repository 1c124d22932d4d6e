"""What a handler imports inside a microVM. Needs nothing but Python.

import tidemill_guest
tidemill_guest.serve(lambda request: request.upper())
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable

REQUEST_FD, ANSWER_FD, IDENTITY_FD = 1000, 1001, 1002
_IDENTITY_BYTES, _ENTROPY_BYTES = 16, 32


def _read_request() -> bytes:
    parts: list[bytes] = []
    while part := os.read(REQUEST_FD, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _write_answer(answer: bytes) -> None:
    left = memoryview(answer)
    while left:
        left = left[os.write(ANSWER_FD, left) :]


def _machine() -> tuple[bytes, bytes]:
    """Which virtual machine this is, and entropy that no other one was given."""
    both = os.read(IDENTITY_FD, _IDENTITY_BYTES + _ENTROPY_BYTES)
    return both[:_IDENTITY_BYTES], both[_IDENTITY_BYTES:]


def _reseed(entropy: bytes) -> None:
    random.seed(entropy)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        words = [int.from_bytes(entropy[i : i + 4], "little") for i in range(0, len(entropy), 4)]
        numpy_random.seed(words)  # the global generator; own ones are for `on_restore`
    if hasattr(time, "tzset"):
        time.tzset()


def serve(
    handler: Callable[[bytes], bytes], *, on_restore: Callable[[bytes], object] | None = None
) -> None:
    """Answer requests until the machine goes; the first wait is the point of the snapshot.

    Args:
        handler: bytes of a request in, bytes of its answer out.
        on_restore: called before the first request in a restored machine with 32 bytes of entropy;
            reseed generators of your own there. `random` and NumPy's global one are reseeded.
    """
    known, _ = _machine()
    while True:
        request = _read_request()
        machine, entropy = _machine()
        if machine != known:
            known = machine
            _reseed(entropy)
            if on_restore is not None:
                on_restore(entropy)
        _write_answer(handler(request))
