"""Every order of the shipped protocol's steps, on caches that do as they like; and its mutants.

A host may crash where a scenario says so: what it had not written back is lost. A mutant is the
shipped code without one of its steps; each must be caught, or the search would prove nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

from tidemill import native
from tidemill.errors import ConfigError
from tidemill.systems.aquifer.cxl.automaton import Automata, NewLine, Steps, Violation
from tidemill.systems.aquifer.cxl.layout import DirectoryEntry, Layout, OwnerWord, SlotState
from tidemill.systems.aquifer.cxl.operations import (
    LINE,
    Fence,
    Get,
    Invalidate,
    IsDead,
    Pause,
    WriteBack,
)
from tidemill.systems.aquifer.cxl.ownership import MANAGER, Ownership

DATA_LINES = 2
_STAMP = struct.Struct("<QQQ40x")


def stamped(epoch: int, writer: int) -> bytes:
    """Data of which every line says who published it and when."""
    return b"".join(_STAMP.pack(epoch, writer, line) for line in range(DATA_LINES))


def read_once(host: Ownership) -> Steps:
    """Borrow, read, and see that all of it is of the epoch borrowed; then release."""
    lease = yield from host.borrow(0)
    if lease is None:
        return
    extent = lease.entry.extent
    data = yield Get(extent.at, extent.size, "read-data")
    wrong = _wrong(data, lease.entry.word.epoch)
    if wrong:
        yield Violation(wrong)
    yield from host.release(0)


def _wrong(data: bytes, epoch: int) -> str:
    stamps = [_STAMP.unpack_from(data, at)[:2] for at in range(0, len(data), LINE)]
    if {stamp[0] for stamp in stamps} == {epoch} and len(set(stamps)) == 1:
        return ""
    seen = ", ".join(f"epoch {stamp} of host {writer}" for stamp, writer in stamps)
    return f"borrowed epoch {epoch}, read lines of {seen}"


def write_once(host: Ownership, epoch: int) -> Steps:
    """Publish one epoch, in the same place as every other."""
    extent = host.layout.chunk(0)
    yield from host.publish(0, extent, stamped(epoch, host.host), "s")


def readers_owner(host: Ownership) -> Steps:
    """Three epochs, each read by others while it is replaced."""
    for epoch in (1, 2, 3):
        yield from write_once(host, epoch)
        if epoch < 3:
            yield from host.revoke(0)


def brief_owner(host: Ownership) -> Steps:
    """Two epochs."""
    yield from write_once(host, 1)
    yield from host.revoke(0)
    yield from write_once(host, 2)


def reader(host: Ownership) -> Steps:
    """Reads for ever."""
    while True:
        yield from read_once(host)


def ping(host: Ownership) -> Steps:
    """Publishes, gives the slot away, takes it back, and again; reads meanwhile."""
    at = host.layout.slot_at(0)
    yield from write_once(host, 1)
    yield from host.offer(at, 1)
    yield from _accept_while_reading(host)
    yield from host.revoke(0)
    yield from write_once(host, 3)
    yield from host.offer(at, 1)
    yield from reader(host)


def pong(host: Ownership) -> Steps:
    """Takes the slot, publishes, gives it back, and takes it once more; reads meanwhile."""
    yield from _accept_while_reading(host)
    yield from host.revoke(0)
    yield from write_once(host, 2)
    yield from host.offer(host.layout.slot_at(0), 0)
    yield from _accept_while_reading(host)
    yield from read_once(host)


def _accept_while_reading(host: Ownership) -> Steps:
    while True:
        is_mine = yield from host.accept(host.layout.slot_at(0))
        if is_mine:
            return
        yield from read_once(host)


def doomed_owner(host: Ownership) -> Steps:
    """Publishes three epochs and may die at any step."""
    yield from readers_owner(host)


def heir(host: Ownership) -> Steps:
    """The manager: reads, fences the owner once it is dead, and publishes in its stead."""
    while True:
        is_done = yield from host.fence(1)
        if is_done:
            break
        yield from read_once(host)
    yield from read_once(host)
    yield from _publish_next(host)
    yield from read_once(host)


def giver(host: Ownership) -> Steps:
    """The manager: gives the slot away, and gets it back by an offer or by the taker's death."""
    yield from write_once(host, 1)
    yield from host.offer(host.layout.slot_at(0), 1)
    while True:
        is_mine = yield from host.accept(host.layout.slot_at(0))
        if is_mine:
            break
        is_mine = yield from host.fence(1)
        if is_mine:
            break
        yield from read_once(host)
    yield from read_once(host)
    yield from _publish_next(host)
    yield from read_once(host)


def taker(host: Ownership) -> Steps:
    """Takes the slot, publishes twice, gives it back; may die at any step."""
    yield from _accept_while_reading(host)
    for epoch in (2, 3):
        yield from host.revoke(0)
        yield from write_once(host, epoch)
    yield from host.offer(host.layout.slot_at(0), 0)
    yield from reader(host)


def _publish_next(host: Ownership) -> Steps:
    yield from host.accept(host.layout.slot_at(0))
    line = yield Get(host.layout.slot_at(0), LINE, "look")
    word = DirectoryEntry.of(line).word
    if word.owner != host.host:
        return
    if word.state in (SlotState.PUBLISHED, SlotState.REVOKING):
        yield from host.revoke(0)
    yield from write_once(host, word.epoch + 1)


def successor(host: Ownership) -> Steps:
    """A new process of the host that died: takes its place, ends what it began, publishes."""
    while True:
        is_dead = yield IsDead(1, 1)
        if is_dead:
            break
    attached = yield from host.attach()
    yield from attached.recover()
    yield from _publish_next(attached)
    yield from read_once(attached)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Programs of hosts, and which of them may crash.

    Attributes:
        programs: for each actor its program and the host that it is.
        may_crash: actors that may.
        owner: of the slot at first.
    """

    programs: tuple[tuple[Callable[[Ownership], Steps], int], ...]
    may_crash: tuple[int, ...] = ()
    owner: int = 0


SCENARIOS: Mapping[str, Scenario] = {
    "readers": Scenario(((readers_owner, 0), (reader, 1))),
    "transfer": Scenario(((ping, 0), (pong, 1))),
    "reader-crash": Scenario(((readers_owner, 0), (reader, 1)), (1,)),
    "owner-crash": Scenario(((heir, 0), (doomed_owner, 1)), (1,), 1),
    "transfer-crash": Scenario(((giver, 0), (taker, 1)), (1,)),
    "restart": Scenario(((heir, 0), (doomed_owner, 1), (successor, 1)), (1,), 1),
    "three-hosts": Scenario(((brief_owner, 0), (reader, 1), (reader, 2))),
}
QUICK = ("readers", "transfer", "reader-crash", "owner-crash", "transfer-crash")
"""Scenarios that take seconds together."""


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """The shipped protocol without a step.

    Attributes:
        scenario: in which it is caught.
        without: kind and label of the operations left out.
        answers: what operations of a label are answered with, instead of being done; "look" for
            the answer of the last operation of that label.
    """

    scenario: str
    without: tuple[type, str] | None = None
    answers: Mapping[str, object] = field(default_factory=dict[str, object])


_OFFERED = DirectoryEntry(OwnerWord(1, 1, SlotState.OFFERED)).pack()
MUTANTS: Mapping[str, Mutant] = {
    "no-flush-data": Mutant("readers", (WriteBack, "flush-data")),
    "no-fence-data": Mutant("readers", (Fence, "flush-data")),
    "no-invalidate-data": Mutant("readers", (Invalidate, "invalidate-data")),
    "no-fence-invalidate": Mutant("readers", (Fence, "invalidate-data")),
    "no-recheck": Mutant("readers", answers={"look-again": "look"}),
    "no-invalidate-D2": Mutant("readers", (Invalidate, "invalidate-D2")),
    "no-lease-flush": Mutant("readers", (WriteBack, "flush-lease")),
    "no-revoke-flush": Mutant("readers", (WriteBack, "flush-revoking")),
    "no-wait": Mutant("readers", answers={"read-lease": 0}),
    "no-invalidate-L": Mutant("readers", (Invalidate, "invalidate-L")),
    "no-offer": Mutant("transfer", answers={"look-offer": _OFFERED}),
    "no-fencing": Mutant("owner-crash", answers={"is-dead": True}),
    "no-lease-fencing": Mutant("reader-crash", answers={"is-dead": True}),
    "no-invalidate-dead": Mutant("owner-crash", (Invalidate, "invalidate-dead")),
    "no-flush-taking": Mutant("restart", (WriteBack, "flush-taking")),
    "no-flush-H": Mutant("restart", (WriteBack, "flush-H")),
    "no-invalidate-H2": Mutant("restart", (Invalidate, "invalidate-H2")),
    "no-invalidate-F": Mutant("restart", (Invalidate, "invalidate-F")),
    "no-attach-wait": Mutant("restart", answers={"read-phase": 0}),
    "no-second-look": Mutant("restart", answers={"read-generation-again": "read-generation"}),
}


SHIPPED = Mutant("")
"""Nothing left out."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a search found.

    Attributes:
        states: distinct states of all hosts, caches and memory.
        transitions: steps between them.
        local_states: places that the programs reached.
        is_complete: whether every order was tried.
        violation: what went wrong, or empty.
        trace: the shortest way there, one line a step.
        seconds: how long it took.
    """

    scenario: str
    states: int
    transitions: int
    local_states: int
    is_complete: bool
    violation: str
    trace: tuple[str, ...]
    seconds: float


def check(scenario: str, mutant: str | None = None, *, most_states: int = 200_000_000) -> Checked:
    """Try every order of a scenario's steps, or find the shortest one that goes wrong.

    Raises:
        ConfigError: there is no such scenario or mutant.
    """
    if scenario not in SCENARIOS:
        raise ConfigError.of("scenario", scenario, f"one of {', '.join(SCENARIOS)}")
    if mutant is not None and mutant not in MUTANTS:
        raise ConfigError.of("mutant", mutant, f"one of {', '.join(MUTANTS)}")
    what, change = SCENARIOS[scenario], MUTANTS[mutant] if mutant else None
    layout = Layout(1 + max(host for _, host in what.programs), 1, 4096)
    first = DirectoryEntry(OwnerWord(0, what.owner, SlotState.FREE)).pack()
    alive = struct.pack("<Q56x", 1)
    memory = {layout.slot_at(0): first}
    memory |= {layout.host_at(host): alive for _, host in what.programs}
    automata = Automata(
        [_made(program, Ownership(layout, host), change) for program, host in what.programs],
        memory,
        _processes([host for _, host in what.programs]),
    )
    begin = perf_counter()
    crashes = [int(actor in what.may_crash) for actor in range(len(what.programs))]
    while True:
        try:
            found = native.kernels("cxl").explore(
                *(automata, len(what.programs), automata.memory, automata.first),
                *(crashes, most_states),
            )
            break
        except NewLine:
            continue
    states, transitions, _, is_complete, violation, steps = found
    trace = tuple(_told(automata, step) for step in steps)
    if violation == "program":
        violation = getattr(automata.described(steps[-1][3]), "text", violation)
    return Checked(
        *(scenario, states, transitions, automata.local_states, is_complete, violation, trace),
        perf_counter() - begin,
    )


def catch(mutant: str, *, most_states: int = 200_000_000) -> Checked:
    """The shortest counter-example of a mutant."""
    if mutant not in MUTANTS:
        raise ConfigError.of("mutant", mutant, f"one of {', '.join(MUTANTS)}")
    return check(MUTANTS[mutant].scenario, mutant, most_states=most_states)


def _processes(hosts: list[int]) -> dict[tuple[int, int], int]:
    """The actor that is a host's first process, its second, and so on."""
    return {(host, hosts[: at + 1].count(host)): at for at, host in enumerate(hosts)}


def _made(
    program: Callable[[Ownership], Steps], host: Ownership, mutant: Mutant | None
) -> Callable[[], Steps]:
    return lambda: mutated(program(host), mutant or SHIPPED)


def mutated(program: Steps, mutant: Mutant) -> Steps:
    """A program that is done without some of its operations; pauses are nothing to a search."""
    answer = last = None
    kept = tuple(mutant.answers.values())
    while True:
        try:
            operation = program.send(answer)
        except StopIteration:
            return
        answer = None
        label = operation.label
        if isinstance(operation, Pause) or (type(operation), label) == mutant.without:
            continue
        if label in mutant.answers:
            instead = mutant.answers[label]
            answer = last if isinstance(instead, str) else instead
            continue
        answer = yield operation
        if label in kept:
            last = answer


def _told(automata: Automata, step: tuple[int, int, int, int]) -> str:
    actor, what, which, after = step
    if what == 1:
        return f"host {actor}: its cache writes line {automata.line(which)} back"
    if what == 2:
        return f"host {actor}: crashes"
    operation = automata.described(which)
    text = f"host {actor}: {type(operation).__name__} {operation.label}"
    if (answer := automata.answers.get((which, after))) is None:
        return text
    return f"{text} -> {_shown(operation, answer)}"


def _shown(operation: object, answer: object) -> str:
    if isinstance(answer, bytes) and len(answer) == LINE:
        word = DirectoryEntry.of(answer).word
        return f"epoch {word.epoch}, host {word.owner}, {word.state.name}"
    if isinstance(answer, bytes):
        stamps = [_STAMP.unpack_from(answer, at) for at in range(0, len(answer), LINE)]
        return ", ".join(f"line of epoch {epoch}" for epoch, _, _ in stamps)
    return str(answer)


assert MANAGER == 0, "the scenarios' manager is host 0"
