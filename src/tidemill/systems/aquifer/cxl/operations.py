"""What a host may do to shared memory that no hardware keeps coherent, as values.

A protocol is a generator that yields these and is sent their answers. Who runs it performs them on
a view of the segment; who checks it tries every order of them. A generator that is to be checked
keeps all its state in plain local variables (no answer on the stack while it yields).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

LINE = 64
"""Bytes of a cache line."""
WORD = 8
T = TypeVar("T")


class Load(NamedTuple):
    """An aligned 8-byte word; answered with an int."""

    at: int
    label: str = ""


class Store(NamedTuple):
    """A plain store of an aligned 8-byte word."""

    at: int
    value: int
    label: str = ""


class Get(NamedTuple):
    """Bytes; answered with a buffer."""

    at: int
    size: int
    label: str = ""


class Put(NamedTuple):
    """Stores of bytes."""

    at: int
    data: bytes | memoryview
    label: str = ""


class WriteBack(NamedTuple):
    """`clwb` of all lines of a range; done at the next fence."""

    at: int
    size: int
    label: str = ""


class Invalidate(NamedTuple):
    """`clflushopt` of all lines of a range; done at the next fence."""

    at: int
    size: int
    label: str = ""


class Fence(NamedTuple):
    """`mfence`."""

    label: str = ""


class IsDead(NamedTuple):
    """Whether this generation of a host is fenced: gone, or cut off from the pool for good."""

    host: int
    generation: int
    label: str = ""


class Pause(NamedTuple):
    """Nothing to do until another host does something."""

    label: str = ""


Operation: TypeAlias = Load | Store | Get | Put | WriteBack | Invalidate | Fence | IsDead | Pause
Program: TypeAlias = Generator[Operation, Any, T]


class View(Protocol):
    """One host's access to the segment, through caches of its own."""

    def load(self, at: int) -> int:
        """An aligned word."""
        ...

    def store(self, at: int, value: int) -> None:
        """Store an aligned word."""
        ...

    def get(self, at: int, size: int) -> memoryview:
        """A copy of some bytes."""
        ...

    def put(self, at: int, data: bytes | memoryview) -> None:
        """Store bytes."""
        ...

    def write_back(self, at: int, size: int) -> None:
        """Write lines back, at the latest with the next fence."""
        ...

    def invalidate(self, at: int, size: int) -> None:
        """Drop lines, at the latest with the next fence."""
        ...

    def fence(self) -> None:
        """Order what came before with what comes after."""
        ...


def run(
    program: Program[T],
    view: View,
    is_dead: Callable[[int, int], bool],
    pause: Callable[[str], None],
) -> T:
    """Perform a program on a view.

    Args:
        program: a generator of operations.
        view: where to.
        is_dead: answers `IsDead`.
        pause: waits a little, or raises when it has been too long.
    """
    answer: object = None
    while True:
        try:
            operation = program.send(answer)
        except StopIteration as end:
            return end.value
        answer = perform(operation, view, is_dead, pause)


def perform(
    operation: Operation,
    view: View,
    is_dead: Callable[[int, int], bool],
    pause: Callable[[str], None],
) -> object:
    """Perform one operation; its answer."""
    answer: object = None
    match operation:
        case Load(at):
            answer = view.load(at)
        case Store(at, value):
            view.store(at, value)
        case Get(at, size):
            answer = view.get(at, size)
        case Put(at, data):
            view.put(at, data)
        case WriteBack(at, size):
            view.write_back(at, size)
        case Invalidate(at, size):
            view.invalidate(at, size)
        case Fence():
            view.fence()
        case IsDead(host, generation):
            answer = is_dead(host, generation)
        case Pause(label):
            pause(label)
    return answer
