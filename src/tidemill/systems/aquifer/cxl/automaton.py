"""A protocol's own generators as automata, so that every order of their steps can be tried.

A suspended generator is its position and its local variables, and those of the generators that it
waits for. Two that agree in both behave alike from then on, so each is run once from its start to
every place that it can reach, with the answers that led there, and the search itself, in C++, looks
transitions up.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

from tidemill.errors import ProtocolError
from tidemill.systems.aquifer.cxl.operations import (
    LINE,
    WORD,
    Fence,
    Get,
    Invalidate,
    IsDead,
    Load,
    Operation,
    Put,
    Store,
    WriteBack,
)

Steps = Generator[Any, Any, None]
READ, WRITE, WRITE_BACK, INVALIDATE, FENCE, DEAD, DONE, VIOLATION = range(8)


class Violation(NamedTuple):
    """What a program yields when it sees what must never be."""

    text: str
    label: str = ""


class Ended(NamedTuple):
    """A program has nothing more to do."""

    label: str = ""


_KINDS: Mapping[type, int] = {
    **{Load: READ, Get: READ, Store: WRITE, Put: WRITE, WriteBack: WRITE_BACK},
    **{Invalidate: INVALIDATE, Fence: FENCE, Violation: VIOLATION, Ended: DONE},
}


class NewLine(Exception):
    """A program touches a line that the search did not know of: it starts again."""


class Automata:
    """Programs of several hosts over one memory; what `explore` in C++ asks.

    Args:
        programs: makes a new generator for each host.
        memory: content of the lines that are not zero at first, by offset.
        processes: which program is a host's process of a generation.
    """

    def __init__(
        self,
        programs: Sequence[Callable[[], Steps]],
        memory: Mapping[int, bytes],
        processes: Mapping[tuple[int, int], int],
    ) -> None:
        self._programs = programs
        self._processes = processes
        self._memory = memory
        self._lines: dict[int, int] = {}
        self._contents: list[dict[bytes, int]] = []
        self._bytes: list[list[bytes]] = []
        self._ids: dict[object, int] = {}
        self._histories: list[tuple[int, tuple[object, ...]]] = []
        self._operations: list[Operation | Violation | Ended] = []
        self.answers: dict[tuple[int, int], object] = {}
        self.first = [self._reach(host, ()) for host in range(len(programs))]

    @property
    def memory(self) -> list[int]:
        """The first content of each line known so far."""
        return [
            self._content(index, self._memory.get(line * LINE, bytes(LINE)))
            for line, index in self._lines.items()
        ]

    @property
    def local_states(self) -> int:
        """Places that the programs reached."""
        return len(self._operations)

    def operation(self, local: int) -> tuple[int, list[int]]:
        """Kind and lines of what a local state does next."""
        operation = self._operations[local]
        if isinstance(operation, IsDead):
            return DEAD, [self._processes[operation.host, operation.generation]]
        return _KINDS[type(operation)], self._touched(operation)

    def next(self, local: int, contents: list[int]) -> int:
        """The local state after an operation that found these contents."""
        answer = self._answer(self._operations[local], contents)
        host, history = self._histories[local]
        after = self._reach(host, (*history, answer))
        self.answers[local, after] = answer
        return after

    def written(self, local: int, position: int, base: int) -> int:
        """The content of a line after a store to one that held ``base``."""
        operation = self._operations[local]
        assert isinstance(operation, Store | Put), "only stores write"
        data = (
            operation.value.to_bytes(WORD, "little")
            if isinstance(operation, Store)
            else bytes(operation.data)
        )
        line = operation.at // LINE + position
        index = self._lines[line]
        content = bytearray(self._bytes[index][base])
        start = operation.at - line * LINE
        cut = data[max(0, -start) :][: LINE - max(0, start)]
        content[max(0, start) : max(0, start) + len(cut)] = cut
        return self._content(index, bytes(content))

    def described(self, local: int) -> Operation | Violation | Ended:
        """The operation of a local state."""
        return self._operations[local]

    def line(self, index: int) -> int:
        """The offset of a line."""
        return next(line for line, known in self._lines.items() if known == index) * LINE

    def _touched(self, operation: object) -> list[int]:
        match operation:
            case Load(at) | Store(at):
                return self._touch(at, WORD)
            case Put(at, data):
                return self._touch(at, len(data))
            case Get(at, size) | WriteBack(at, size) | Invalidate(at, size):
                return self._touch(at, size)
            case _:
                return []

    def _touch(self, at: int, size: int) -> list[int]:
        wanted = range(at // LINE, (at + size - 1) // LINE + 1)
        if new := [line for line in wanted if line not in self._lines]:
            for line in new:
                self._lines[line] = len(self._lines)
                self._contents.append({})
                self._bytes.append([])
            raise NewLine
        return [self._lines[line] for line in wanted]

    def _content(self, index: int, content: bytes) -> int:
        known = self._contents[index]
        if content not in known:
            known[content] = len(known)
            self._bytes[index].append(content)
        return known[content]

    def _answer(self, operation: object, contents: list[int]) -> object:
        match operation:
            case Load(at) | Get(at):
                pairs = zip(self._touched(operation), contents, strict=True)
                found = b"".join(self._bytes[index][content] for index, content in pairs)
                start = at % LINE
                if isinstance(operation, Load):
                    return int.from_bytes(found[start : start + WORD], "little")
                return found[start : start + operation.size]
            case IsDead():
                return bool(contents[0])
            case _:
                return None

    def _reach(self, host: int, history: tuple[object, ...]) -> int:
        program = self._programs[host]()
        operation: Any = None
        try:
            operation = next(program)
            for answer in history:
                operation = program.send(answer)
            key: object = (host, suspended(program))
        except StopIteration:
            operation, key = Ended(), (host, "ended")
        except ProtocolError as error:
            operation, key = Violation(str(error)), (host, str(error))
        if key not in self._ids:
            self._ids[key] = len(self._operations)
            self._operations.append(operation)
            self._histories.append((host, history))
        local = self._ids[key]
        assert operation == self._operations[local], "a program keeps state outside its variables"
        return local


def suspended(program: Any) -> tuple[object, ...]:
    """Where a generator stands and what it knows: equal ones go on alike."""
    frame = program.gi_frame
    if frame is None:
        return (program.gi_code,)
    known = tuple(
        (name, suspended(value) if hasattr(value, "gi_frame") else value)
        for name, value in sorted(frame.f_locals.items())
    )
    inner = program.gi_yieldfrom
    if inner is not None and not hasattr(inner, "gi_frame"):
        raise TypeError(f"{program.gi_code.co_name} waits for no generator, which cannot be told")
    waits = suspended(inner) if inner is not None else ()
    return program.gi_code, frame.f_lasti, known, waits
