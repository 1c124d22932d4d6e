"""The shipped ownership protocol, in every order of its steps; and mutants, all of them caught."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

from tidemill import native
from tidemill.errors import ConfigError, ProtocolError
from tidemill.systems.aquifer.cxl.automaton import DEAD, READ, Automata, Ended, NewLine, Violation
from tidemill.systems.aquifer.cxl.layout import DirectoryEntry, Layout, OwnerWord, SlotState
from tidemill.systems.aquifer.cxl.operations import (
    Fence,
    Get,
    Invalidate,
    IsDead,
    Load,
    Store,
    WriteBack,
    perform,
)
from tidemill.systems.aquifer.cxl.ownership import Ownership
from tidemill.systems.aquifer.cxl.protocol_check import (
    MUTANTS,
    QUICK,
    SCENARIOS,
    SHIPPED,
    Mutant,
    catch,
    check,
    mutated,
)
from tidemill.systems.aquifer.cxl.views import DirectView, IncoherentView


@pytest.mark.parametrize("scenario", QUICK)
def test_no_order_of_steps_lets_a_host_read_another_epoch(scenario: str) -> None:
    found = check(scenario)
    assert (found.violation, found.trace) == ("", ())
    assert found.is_complete
    assert found.states > 20_000


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_protocol_without_one_of_its_steps_is_caught(mutant: str) -> None:
    found = catch(mutant)
    assert found.violation.startswith(("borrowed epoch", "two hosts hold", "slot 0"))
    assert len(found.trace) >= 8
    assert not found.is_complete


def test_a_counter_example_can_be_read_from_its_start_to_the_stale_line() -> None:
    found = catch("no-invalidate-L")
    told = "\n".join(found.trace)
    assert "Get look -> epoch 1, host 0, PUBLISHED" in told
    assert "Store revoking" in told
    assert found.trace[-1].startswith("host 1: Get read-data -> line of epoch 2")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="scenario='x' — must be one of readers"):
        check("x")
    with pytest.raises(ConfigError, match="mutant='x' — must be one of no-flush-data"):
        catch("x")
    with pytest.raises(ConfigError, match="mutant='x'"):
        check("readers", "x")


def explore(*programs, crashes: tuple[int, ...] = (), most: int = 10**6):
    """States, whether all were tried, and the violation, of programs over zeroed memory."""
    alive = {(host, 1): host for host in range(len(programs))}
    automata = Automata(programs, {}, alive)
    while True:
        try:
            found = native.kernels("cxl").explore(
                *(automata, len(programs), automata.memory, automata.first),
                *([int(host in crashes) for host in range(len(programs))], most),
            )
        except NewLine:
            continue
        states, _, _, is_complete, violation, _ = found
        return states, is_complete, violation


def expects(at: int, allowed: tuple[int, ...], *first: object):
    def program():
        yield from stores(*first)()
        found = yield Load(at)
        if found not in allowed:
            yield Violation(f"read {found}")

    return program


def stores(*operations):
    def program():
        for at in range(len(operations)):
            yield operations[at]

    return program


FLUSHED = (Store(0, 1), WriteBack(0, 8), Fence(), Store(64, 1), WriteBack(64, 8), Fence())


@pytest.mark.parametrize(
    ("writer", "is_ordered"),
    [
        (FLUSHED, True),
        (FLUSHED[:1] + FLUSHED[3:], False),  # the first line is not written back
        (FLUSHED[:2] + FLUSHED[3:], False),  # nothing orders the two
    ],
)
def test_the_search_knows_that_only_flush_and_fence_order_lines(
    writer: tuple[object, ...], is_ordered: bool
) -> None:
    def reader():
        second = yield Load(64)
        if second:
            yield Invalidate(0, 8)
            yield Fence()
            first = yield Load(0)
            if not first:
                yield Violation("second without first")

    _, is_complete, violation = explore(stores(*writer), reader)
    assert (is_complete, violation) == (is_ordered, "" if is_ordered else "program")


def test_the_search_knows_stale_lines_lost_lines_and_the_dead() -> None:
    published = (Store(0, 1), WriteBack(0, 8), Fence())
    _, _, violation = explore(stores(*published), expects(0, (1,), Invalidate(0, 8), Fence()))
    assert violation == "program"  # it may come first
    _, is_complete, violation = explore(stores(*published), expects(0, (0, 1)))
    assert (is_complete, violation) == (True, "")

    def heir():
        is_dead = yield IsDead(1, 1)
        if not is_dead:
            return
        yield Invalidate(0, 8)
        yield Fence()
        first = yield Load(0)
        yield Invalidate(0, 8)
        yield Fence()
        again = yield Load(0)
        if first != again:
            yield Violation("the dead write")

    _, is_complete, violation = explore(heir, stores(*published), crashes=(1,))
    assert (is_complete, violation) == (True, "")
    _, _, violation = explore(stores(Store(0, 1)), stores(Store(8, 1)))
    assert violation == "two hosts hold the same line dirty"


def test_a_search_that_is_cut_short_says_so() -> None:
    assert not check("readers", most_states=1000).is_complete


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("actor", [0, 1])
def test_an_automaton_does_what_its_program_does_whatever_it_is_answered(
    seed: int, actor: int
) -> None:
    generator = random.Random(seed)
    layout = Layout(2, 1, 4096)
    program, host = SCENARIOS["owner-crash"].programs[actor]
    made = partial(program, Ownership(layout, host))
    entry = DirectoryEntry(OwnerWord(0, 1, SlotState.FREE)).pack()
    memory = {layout.slot_at(0): entry, layout.host_at(1): struct.pack("<Q56x", 1)}
    automata = Automata([made], memory, {(1, 1): 0})
    real, local = made(), automata.first[0]
    operation = next(real)
    for _ in range(60):
        assert automata.described(local) == operation
        with suppress(NewLine):
            automata.operation(local)
        kind, lines = automata.operation(local)
        contents = [automata.memory[line] for line in lines] if kind == READ else []
        after = automata.next(local, [generator.randrange(2)] if kind == DEAD else contents)
        try:
            operation = real.send(automata.answers[local, after])
        except StopIteration:
            assert automata.described(after) == Ended()
            return
        except ProtocolError as error:
            refusal = str(error)
            break
        local = after
    else:
        return
    assert automata.described(after) == Violation(refusal)


def interleaved(scenario: str, seed: int, mutant: Mutant = SHIPPED, *, steps: int = 4000) -> str:
    """What goes wrong when hosts with adversarial caches take random turns, step by step."""
    generator = random.Random(seed)
    what = SCENARIOS[scenario]
    layout = Layout(2, 1, 4096)
    segment = np.zeros(layout.size, np.uint8)
    direct = DirectView(segment, lambda: layout.size, "a segment")
    direct.put(layout.slot_at(0), DirectoryEntry(OwnerWord(0, 0, SlotState.FREE)).pack())
    views = [IncoherentView(direct, layout.size, seed=seed + host) for host in range(2)]
    programs = [
        mutated(program(Ownership(layout, host)), mutant) for program, host in what.programs
    ]
    answers: list[object] = [None, None]
    for _ in range(steps):
        host = generator.randrange(2)
        try:
            operation = programs[host].send(answers[host])
        except StopIteration:
            break
        if isinstance(operation, Violation):
            return operation.text
        answers[host] = perform(operation, views[host], lambda *_: False, lambda _: None)
        if isinstance(operation, Get):
            answers[host] = bytes(answers[host])  # type: ignore[call-overload]
    return ""


@pytest.mark.parametrize("scenario", ["readers", "transfer"])
def test_the_emulated_caches_agree_with_the_search(scenario: str) -> None:
    assert [interleaved(scenario, seed) for seed in range(12)] == [""] * 12


@pytest.mark.parametrize("mutant", ["no-flush-data", "no-invalidate-data"])
def test_the_emulated_caches_show_what_a_forgotten_step_does(mutant: str) -> None:
    found = [interleaved("readers", seed, MUTANTS[mutant]) for seed in range(40)]
    assert any(text.startswith("borrowed epoch") for text in found)
