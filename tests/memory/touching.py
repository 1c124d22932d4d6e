"""What fixtures give; touching memory without Python's lock, which the fault's answer may need."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidemill.memory import PageServer

U8 = NDArray[np.uint8]
Watch = Callable[[int], U8]
Serve = Callable[..., PageServer]
_LIBC = ctypes.CDLL(None)
_LIBC.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_LIBC.memcpy.restype = ctypes.c_void_p
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def read(memory: U8, start: int, size: int) -> U8:
    """A copy of bytes of memory."""
    into = np.empty(size, np.uint8)
    _LIBC.memcpy(into.ctypes.data, memory.ctypes.data + start, size)
    return into


def write(memory: U8, start: int, value: int) -> None:
    """Store one byte."""
    data = np.array([value], np.uint8)
    _LIBC.memcpy(memory.ctypes.data + start, data.ctypes.data, 1)


def give_back(memory: U8, start: int, size: int) -> None:
    """``MADV_DONTNEED``, as a balloon does."""
    assert _LIBC.madvise(memory.ctypes.data + start, size, mmap.MADV_DONTNEED) == 0


def freeze(pid: int) -> None:
    """``SIGSTOP``, and wait until no thread runs any more: one could still answer until then."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while any(_state(thread) != "T" for thread in threads.iterdir()):
        time.sleep(0.001)


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]
