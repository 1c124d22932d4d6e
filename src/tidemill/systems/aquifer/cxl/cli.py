"""``check-protocol`` and ``stress``: the ownership protocol in every order, and under SIGKILL."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tidemill.systems.aquifer.cxl.protocol_check import (
    MUTANTS,
    SCENARIOS,
    Checked,
    catch,
    check,
)
from tidemill.systems.aquifer.cxl.stress import stress

app = typer.Typer(help="The ownership protocol of the CXL pool.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("check-protocol")
def check_protocol(
    *,
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"Some of {', '.join(SCENARIOS)}; by default all.")
    ] = None,
    mutant: Annotated[
        str | None, typer.Option(help="The protocol without a step; `all` for each of them.")
    ] = None,
    most_states: Annotated[int, typer.Option(min=1, help="Where a search gives up.")] = 50_000_000,
    as_json: AsJson = False,
) -> None:
    """Try every order of the protocol's steps; with --mutant, show the shortest that goes wrong."""
    if mutant is None:
        found = {name: check(name, most_states=most_states) for name in scenario or SCENARIOS}
        is_good = all(result.is_complete for result in found.values())
    else:
        names = MUTANTS if mutant == "all" else [mutant]
        found = {name: catch(name, most_states=most_states) for name in names}
        is_good = all(result.violation for result in found.values())
    if as_json:
        typer.echo(json.dumps({name: asdict(result) for name, result in found.items()}, indent=2))
    else:
        for name, result in found.items():
            _show(name, result, with_trace=mutant != "all")
    if not is_good:
        raise typer.Exit(1)


def _show(name: str, found: Checked, *, with_trace: bool) -> None:
    verdict = "complete" if found.is_complete else "given up"
    if found.violation:
        verdict = f"{found.violation}, after {len(found.trace)} steps"
    typer.echo(
        f"{name}: {found.states:,} states, {found.transitions:,} steps between them, "
        f"{found.seconds:.1f} s: {verdict}"
    )
    if with_trace:
        for at, step in enumerate(found.trace, 1):
            typer.echo(f"  {at:3} {step}")


@app.command("stress")
def stress_processes(
    *,
    minutes: Annotated[float, typer.Option(min=0.05, help="How long.")] = 10.0,
    hosts: Annotated[int, typer.Option(min=2, max=16, help="Processes.")] = 4,
    seed: Annotated[int, typer.Option(help="Of what they do.")] = 0,
    coherent: Annotated[
        bool, typer.Option(help="Through the processor's caches, not emulated ones.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the pool is made.")] = Path("/dev/shm"),
    as_json: AsJson = False,
) -> None:
    """Let processes publish, borrow and hand over at random, and kill one now and then."""
    found = stress(60 * minutes, hosts=hosts, seed=seed, incoherent=not coherent, folder=folder)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        typer.echo(
            f"{found.seconds:g} s, {found.kills} killed, {found.published:,} published, "
            f"{found.borrowed:,} read whole, all space {'' if found.reclaimed else 'not '}free at "
            f"the end, {len(found.violations)} violations"
        )
        for violation in found.violations[:20]:
            typer.echo(f"  {violation}")
    if found.violations or not found.reclaimed:
        raise typer.Exit(1)
