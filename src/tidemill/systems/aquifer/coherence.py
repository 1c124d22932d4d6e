"""The ownership protocol in every order of its steps, and without each of them in turn."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.systems.aquifer.cxl.protocol_check import (
    MUTANTS,
    QUICK,
    SCENARIOS,
    Checked,
    catch,
    check,
)


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
