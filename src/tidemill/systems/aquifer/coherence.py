"""The ownership protocol in every order of its steps, under SIGKILL, and parsers under fuzzing."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.systems.aquifer.aqs.fuzzing import fuzz
from tidemill.systems.aquifer.cxl.protocol_check import (
    MUTANTS,
    QUICK,
    SCENARIOS,
    Checked,
    catch,
    check,
)
from tidemill.systems.aquifer.cxl.stress import stress

STRESS_S = {Budget.QUICK: 15.0, Budget.FULL: 600.0}
FUZZ_S = {Budget.QUICK: 10.0, Budget.FULL: 600.0}


def protocol(context: Context) -> Iterator[Measurement]:
    """Searches the shipped protocol, then that it notices what is left out of it."""
    context.progress.stage("try every order of the protocol's steps")
    scenarios = QUICK if context.budget is Budget.QUICK else tuple(SCENARIOS)
    searched: list[Checked] = []
    for name in scenarios:
        searched.append(check(name))
        context.progress.advance(len(searched), len(scenarios), "scenarios")
    wrong = [found.scenario for found in searched if found.violation or not found.is_complete]
    yield _counted("protocol-orders", len(wrong), searched, f"{len(searched)} scenarios")
    context.progress.stage("leave one step out")
    caught: list[Checked] = []
    for name in MUTANTS:
        caught.append(catch(name))
        context.progress.advance(len(caught), len(MUTANTS), "mutants")
    missed = sum(not found.violation for found in caught)
    yield _counted("protocol-mutants", missed, caught, f"{len(caught)} mutants")


def stressed(context: Context, seconds: float | None = None) -> Iterator[Measurement]:
    """Four processes over caches that nobody keeps coherent, one killed now and then."""
    context.progress.stage("publish, borrow, hand over, kill")
    found = stress(STRESS_S[context.budget] if seconds is None else seconds)
    wrong = len(found.violations) + (not found.reclaimed)
    yield Measurement(
        claim="stress",
        value=wrong,
        low=wrong,
        high=wrong,
        repeats=found.kills,
        subject=f"{found.seconds:g} s, {found.kills} processes killed, {found.published:,} "
        f"publications, {found.borrowed:,} read whole",
        detail={"violations": list(found.violations[:20]), "refused": dict(found.refused)},
    )


def fuzzed(context: Context, seconds: float | None = None) -> Iterator[Measurement]:
    """Snapshots and handshakes that are almost right."""
    context.progress.stage("parse what is almost right")
    found = fuzz(FUZZ_S[context.budget] if seconds is None else seconds)
    yield Measurement(
        claim="fuzz",
        value=len(found.crashes),
        low=len(found.crashes),
        high=len(found.crashes),
        repeats=found.snapshots + found.handshakes,
        subject=f"{found.seconds:g} s, {found.snapshots:,} snapshots ({found.accepted:,} of them "
        f"accepted), {found.handshakes:,} handshakes",
        detail={"crashes": list(found.crashes[:20])},
    )


def _counted(claim: str, value: int, found: list[Checked], what: str) -> Measurement:
    rows: list[Json] = [
        {
            "scenario": one.scenario,
            "states": one.states,
            "steps": one.transitions,
            "violation": one.violation,
            "shortest": len(one.trace),
        }
        for one in found
    ]
    states = sum(one.states for one in found)
    return Measurement(
        claim=claim,
        value=value,
        low=value,
        high=value,
        repeats=len(found),
        subject=f"{what}, {states:,} states",
        detail={"searches": rows},
    )
