"""``tidemill list``, ``run`` and ``claims``: what systems there are, running and measuring them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from tidemill.bench.atomic import check_writable, write_document
from tidemill.errors import ConfigError, TidemillError

if TYPE_CHECKING:
    from tidemill.bench import Budget, System
    from tidemill.bench.claim import Json
    from tidemill.bench.session import SessionResult
    from tidemill.bench.store import Store

_SYSTEM_HELP = "A system's name, or package.module:ATTRIBUTE."
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
ThreadsOption = Annotated[
    int, typer.Option(min=0, help="Threads each child may use; 0: all this process may use.")
]


def list_systems(as_json: JsonOption = False) -> None:
    """The installed systems: what they need, and how their claims stand on this machine."""
    from tidemill.bench.system import installed

    store = _open_store()
    rows = [_listed(name, store) for name in installed()]
    store.close()
    if as_json:
        _print_json({"systems": rows})
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tidemill.cli.results import in_language

    table = Table("system", "what you get", "needs", "claims here")
    for row in rows:
        if row["error"]:
            table.add_row(row["name"], escape(row["error"]))
            continue
        verdicts = ", ".join(f"{count} {name}" for name, count in row["verdicts"].items())
        needs = escape("\n".join(row["missing"])) or "nothing more"
        name = f"{row['name']}\n{row['source']}"
        table.add_row(name, escape(in_language(row["summary"])), needs, verdicts)
    Console().print(table)


def run(  # noqa: PLR0913 - one parameter per option
    name: Annotated[str, typer.Argument(help=_SYSTEM_HELP)],
    *,
    config: Annotated[str, typer.Option(metavar="JSON", help="Settings as a JSON object.")] = "{}",
    pairs: SetOption = None,
    events: Annotated[Path | None, typer.Option(help="Write the events to this file.")] = None,
    as_json: JsonOption = False,
    claims: Annotated[
        str | None, typer.Option(metavar="quick|full", help="Measure the claims as well.")
    ] = None,
    threads: ThreadsOption = 0,
    run_id: Annotated[str, typer.Option(hidden=True)] = "",
    nice: Annotated[int, typer.Option(hidden=True)] = 0,
    no_run: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a system on its default real input and print its report."""
    from tidemill.bench import find
    from tidemill.bench.events import EventLog
    from tidemill.bench.process import Terms
    from tidemill.bench.session import cancelled_by_signals, run_session
    from tidemill.cli.live import live_view

    settings = _settings(find(name), config, pairs or [])
    budget = _budget(claims or "quick")
    store = _open_store() if claims or run_id else None
    log = EventLog(events) if events else None
    terms = Terms(threads=threads, nice=nice, run_id=run_id)
    with cancelled_by_signals(terms.cancel) as signals, live_view(name, quiet=bool(run_id)) as tell:
        result = run_session(
            name,
            kind="claims" if no_run else "run+claims" if claims else "run",
            config=settings,
            budget=budget,
            store=store,
            events=log,
            progress=tell,
            terms=terms,
        )
    for opened in (log, store):
        if opened is not None:
            opened.close()
    if as_json:
        from tidemill.cli.results import run_document

        _print_json(run_document(result, settings, budget=budget, command=_command()))
    elif not run_id:
        _print_run(result, budget)
    _leave([result], signals)


def claims(
    name: Annotated[str | None, typer.Argument(help=f"{_SYSTEM_HELP} Default: all.")] = None,
    *,
    budget: Annotated[str, typer.Option(metavar="quick|full", help="How long to take.")] = "quick",
    as_json: JsonOption = False,
    pairs: SetOption = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CLAIM", help="Only this claim; may be repeated.")
    ] = None,
    ray: Annotated[
        str, typer.Option(metavar="ADDRESS|local", help="Send the trials to a Ray cluster.")
    ] = "",
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the JSON to this file too; with --only what it holds of other trials stays."
        ),
    ] = None,
    threads: ThreadsOption = 0,
) -> None:
    """Measure what papers claim, here and now, and keep the figures.

    Exit code 1 if a claim does not hold or a trial fails, 3 if this machine lacks something.
    """
    from tidemill.bench import discover, find
    from tidemill.bench.process import Terms
    from tidemill.bench.session import cancelled_by_signals
    from tidemill.cli.results import claims_document, claims_table, joined, kept_figures

    if only and name is None:
        raise ConfigError.of("--only", only[0], "given with the name of a system")
    systems = {s.name: s for s in discover()} if name is None else {name: find(name)}
    todo = {reference: _todo(s, pairs or [], only or []) for reference, s in systems.items()}
    chosen = _budget(budget)
    check_writable(save)
    before = kept_figures(save, chosen) if save and only and save.exists() else None
    terms = Terms(threads=threads, ray=ray)
    store = _open_store()
    with cancelled_by_signals(terms.cancel) as signals:
        found = _measured(todo, chosen, store, terms)
    store.close()
    document = claims_document(found, command=_command(), budget=chosen, only=only)
    if save is not None:
        write_document(save, joined(before, document) if before else document)
    if as_json:
        _print_json(document)
    else:
        from rich.console import Console

        for result in found:
            Console().print(claims_table(result, chosen, only))
    _leave(found, signals)


def _measured(
    todo: Mapping[str, tuple[dict[str, Json], list[str] | None]],
    budget: Budget,
    store: Store,
    terms: Any,
) -> list[SessionResult]:
    """One session per system, until one is cancelled or cannot keep its results."""
    from tidemill.bench.session import run_session
    from tidemill.cli.live import live_view

    found: list[SessionResult] = []
    for reference, (settings, trials) in todo.items():
        with live_view(reference) as tell:
            result = run_session(
                reference,
                kind="claims",
                config=settings,
                budget=budget,
                store=store,
                trials=trials,
                progress=tell,
                terms=terms,
            )
        found.append(result)
        if terms.cancel.is_set() or result.exit_code == TidemillError.exit_code:
            break
    return found


def _todo(
    system: System, pairs: Sequence[str], only: Collection[str]
) -> tuple[dict[str, Json], list[str] | None]:
    trials = [system.claim(claim_id).trial.name for claim_id in only]
    return _settings(system, "{}", pairs), trials or None


def _settings(system: System, config: str, pairs: Sequence[str]) -> dict[str, Json]:
    """All settings of the system from ``--config`` and ``--set``, the latter winning."""
    from tidemill.bench.settings import from_json, to_json

    try:
        given: object = json.loads(config)
    except ValueError as error:
        raise ConfigError.of("--config", config, "a JSON object", str(error)) from error
    if not isinstance(given, dict):
        raise ConfigError.of("--config", config, "a JSON object")
    values = cast(dict[str, object], given)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError.of("--set", pair, "of the form key=value")
        values[key.strip()] = value.strip()
    return to_json(from_json(system.config, values))


def _budget(name: str) -> Budget:
    from tidemill.bench import Budget

    try:
        return Budget(name)
    except ValueError as error:
        raise ConfigError.of("budget", name, " or ".join(Budget)) from error


def _open_store() -> Store:
    from tidemill.bench.store import Store

    store = Store()
    store.migrate()
    return store


def _listed(name: str, store: Store) -> dict[str, Any]:
    from tidemill.bench import find
    from tidemill.bench.environment import Environment
    from tidemill.bench.settings import defaults_of

    try:
        system = find(name)
    except TidemillError as error:  # one broken package does not hide the others
        return {"name": name, "error": str(error)}
    latest = store.latest(
        system.name,
        machine=Environment.here().machine_id,
        settings=defaults_of(system.config),
    )
    verdicts = Counter(
        str(claim.verdict(latest[claim.id].measurement)) if claim.id in latest else "not run"
        for claim in system.claims
    )
    return {
        "name": name,
        "error": "",
        "arxiv_id": system.paper.arxiv_id,
        "source": system.paper.source,
        "title": system.paper.title,
        "summary": {"en": system.summary.en, "zh": system.summary.zh},
        "missing": system.missing(),
        "claims": len(system.claims),
        "verdicts": dict(verdicts),
    }


def _print_run(result: SessionResult, budget: Budget) -> None:
    from rich.console import Console

    from tidemill.cli.results import claims_table, print_report

    console = Console()
    if result.report is not None:
        print_report(console, result.report)
    if result.outcomes:
        console.print(claims_table(result, budget))


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def _command() -> str:
    return shlex.join(["tidemill", *sys.argv[1:]])


def _leave(results: Sequence[SessionResult], signals: Sequence[int]) -> NoReturn:
    """Say what went wrong, one line per system, and exit with the code of the worst.

    With ``-v`` a trial's last words come too.
    """
    from tidemill.cli import VERBOSE
    from tidemill.cli.results import holds

    for result in results:
        if os.environ.get(VERBOSE):
            for outcome in result.outcomes:
                typer.echo(outcome.error, err=True, nl=bool(outcome.error))
        if result.error:
            typer.echo(f"{result.system.name}: {result.error.splitlines()[0]}", err=True)
    if signals:
        raise typer.Exit(128 + signals[0])
    codes = {result.exit_code for result in results}
    codes |= {1 for result in results if not holds(result)}
    raise typer.Exit(next((code for code in (2, 130, 1, 3) if code in codes), 0))
