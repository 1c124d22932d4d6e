"""What was measured, as one JSON document and as a table: from the results of sessions."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.markup import escape
from rich.table import Table

import tidemill
from tidemill.bench.claim import Claim, Json, Measurement, Status, Verdict
from tidemill.bench.records import TrialOutcome
from tidemill.bench.session import SessionResult
from tidemill.bench.trial import Budget
from tidemill.bench.wire import measurement_json
from tidemill.bench.wording import figure, unit_sign, with_interval
from tidemill.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


def claims_document(
    results: Collection[SessionResult],
    *,
    command: str,
    budget: Budget,
    only: Collection[str] | None = None,
) -> dict[str, Json]:
    """Everything that was measured, for machines and for the documents that print figures."""
    from tidemill.bench.environment import Environment

    outcomes = [outcome for result in results for outcome in result.outcomes]
    environment = outcomes[0].environment if outcomes else Environment.here()
    return {
        "tidemill": tidemill.__version__,
        "command": command,
        "budget": str(budget),
        "written": datetime.now(UTC).isoformat(),
        "machine_id": environment.machine_id,
        "environment": environment.to_json(),
        "systems": [_system(result, budget, only) for result in results],
    }


def kept_figures(path: Path, budget: Budget) -> dict[str, Any]:
    """What the document in ``path`` holds; read before measuring, so that nothing is lost after.

    Raises:
        InputError: There is something else in the file, or figures of another budget or machine.
    """
    from tidemill.bench.environment import Environment

    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        theirs = {"budget": before["budget"], "machine": before["machine_id"]}
        for part in before["systems"]:
            _ = part["system"], [each["trial"] for each in (*part["claims"], *part["trials"])]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--save {path} — holds no measured claims ({error}); name another file."
        ) from error
    ours = {"budget": str(budget), "machine": Environment.here().machine_id}
    for name, value in ours.items():
        if theirs[name] != value:
            raise InputError(
                f"--save {path} — its {name} is {theirs[name]!r}, and now it is {value!r}: figures "
                f"of both do not go together; name another file."
            )
    return before


def joined(before: Mapping[str, Any], found: dict[str, Json]) -> dict[str, Json]:
    """``found`` with what was kept of the trials that were not measured now.

    Every trial says itself at which commit and with which command it was measured.
    """
    kept = {part["system"]: (part["claims"], part["trials"]) for part in before["systems"]}
    for part in cast("list[dict[str, Any]]", found["systems"]):
        claims, trials = kept.get(part["system"], ([], []))
        done = {trial["trial"] for trial in part["trials"]}
        part["claims"] = [c for c in claims if c["trial"] not in done] + part["claims"]
        part["trials"] = [t for t in trials if t["trial"] not in done] + part["trials"]
    return found


def run_document(
    result: SessionResult, config: Mapping[str, Json], *, budget: Budget, command: str
) -> dict[str, Json]:
    """A run with its report, and the claims if they were measured as well."""
    from tidemill.bench.environment import Environment

    environment = Environment.here()
    return {
        "tidemill": tidemill.__version__,
        "command": command,
        "written": datetime.now(UTC).isoformat(),
        "machine_id": environment.machine_id,
        "environment": environment.to_json(),
        "config": dict(config),
        "report": result.report,
        **_system(result, budget, None),
    }


def shown_claims(result: SessionResult, only: Collection[str] | None = None) -> list[Claim]:
    """The claims of the system, or those whose trial a claim in ``only`` needs."""
    system = result.system
    if not only:
        return list(system.claims)
    trials = {system.claim(claim_id).trial.name for claim_id in only}
    return [claim for claim in system.claims if claim.trial.name in trials]


def holds(result: SessionResult) -> bool:
    """Whether no verdict is "no"; a claim without a figure does not count."""
    return all(
        result.system.claim(measurement.claim).verdict(measurement) is not Verdict.NO
        for outcome in result.outcomes
        for measurement in outcome.measurements
    )


def claims_table(
    result: SessionResult, budget: Budget, only: Collection[str] | None = None
) -> Table:
    """One line per claim: what the paper says, what came out here, whether it holds."""
    title = f"{result.system.name}: {result.system.paper.title}"
    table = Table(title=escape(title), title_justify="left")
    for column in ("claim", "paper says", "here", "baseline", "status", "holds"):
        table.add_column(column, overflow="fold")
    for claim in shown_claims(result, only):
        outcome, m = _found(result, claim)
        statement = in_language({"en": claim.statement.en, "zh": claim.statement.zh})
        paper_value = in_language({name: claim.paper_value_in(name) for name in ("en", "zh")})
        name = f"[bold]{claim.id}[/bold]\n{escape(statement)}"
        if m is None:
            reason = _reason(outcome, claim, budget)
            table.add_row(name, escape(paper_value), escape(reason), "", Status.NOT_RUN, "")
            continue
        verdict = claim.verdict(m)
        colour = {"yes": "green", "no": "red"}.get(verdict, "yellow")
        target = f"{claim.direction} {figure(claim.target)} {unit_sign(claim.unit)}"
        table.add_row(
            name,
            escape(paper_value),
            escape(with_interval(m.value, m.low, m.high, claim.unit)),
            escape(m.baseline),
            m.status + ("\ndisturbed" if outcome and outcome.disturbed else ""),
            f"[{colour}]{verdict}[/{colour}]\n({target})",
        )
    return table


def in_language(sentence: Mapping[str, str]) -> str:
    """The sentence ("en" and "zh") in the reader's language, as the locale's variables tell it."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((value for name in names if (value := os.environ.get(name))), "en")
    return sentence["zh" if locale.startswith("zh") else "en"]


def print_report(console: Console, report: Mapping[str, Json]) -> None:
    """Headline, facts, timings and tables of a run."""
    headline = in_language(cast(Mapping[str, str], report["headline"]))
    console.print(f"[bold]{escape(headline)}[/bold]")
    for title in ("facts", "timings"):
        values = cast(Mapping[str, Json], report[title])
        if values:
            table = Table(title=title, title_justify="left", show_header=False)
            for name, value in values.items():
                shown = figure(value) if isinstance(value, float) else str(value)
                table.add_row(escape(name), escape(shown))
            console.print(table)
    for item in cast(list[dict[str, list[str]]], report["tables"]):
        table = Table(title=escape(str(item["title"])), title_justify="left")
        for column in item["columns"]:
            table.add_column(escape(column))
        for row in item["rows"]:
            cells = [figure(cell) if isinstance(cell, float) else str(cell) for cell in row]
            table.add_row(*map(escape, cells))
        console.print(table)


def _found(result: SessionResult, claim: Claim) -> tuple[TrialOutcome | None, Measurement | None]:
    for outcome in result.outcomes:
        if outcome.trial == claim.trial.name:
            for measurement in outcome.measurements:
                if measurement.claim == claim.id:
                    return outcome, measurement
            return outcome, None
    return None, None


def _reason(outcome: TrialOutcome | None, claim: Claim, budget: Budget) -> str:
    if outcome is not None:
        return outcome.error.splitlines()[0] if outcome.error else outcome.outcome
    if claim.trial.limit_s(budget) is None:
        return "needs --budget full"
    return "the session ended before its trial"


def _system(result: SessionResult, budget: Budget, only: Collection[str] | None) -> dict[str, Json]:
    system = result.system
    return {
        "system": system.name,
        "paper": {"arxiv_id": system.paper.arxiv_id, "title": system.paper.title},
        "state": str(result.state),
        "error": result.error,
        "claims": [_claim(result, claim, budget) for claim in shown_claims(result, only)],
        "trials": [_trial(outcome) for outcome in result.outcomes],
    }


def _claim(result: SessionResult, claim: Claim, budget: Budget) -> dict[str, Json]:
    outcome, measurement = _found(result, claim)
    fields: dict[str, Json] = {
        "id": claim.id,
        "quote": claim.quote,
        "statement": {"en": claim.statement.en, "zh": claim.statement.zh},
        "paper_value": claim.paper_value_json,
        "unit": claim.unit,
        "direction": str(claim.direction),
        "target": claim.target,
        "trial": claim.trial.name,
        "status": str(measurement.status if measurement else Status.NOT_RUN),
        "verdict": str(claim.verdict(measurement)) if measurement else None,
        "reason": "" if measurement else _reason(outcome, claim, budget),
        "measurement": measurement_json(measurement) if measurement else None,
    }
    return fields


def _trial(outcome: TrialOutcome) -> dict[str, Json]:
    return {
        "trial": outcome.trial,
        "outcome": outcome.outcome,
        "error": outcome.error,
        "started": outcome.started.isoformat(),
        "seconds": outcome.seconds,
        "peak_rss_bytes": outcome.peak_rss_bytes,
        "disturbed": outcome.disturbed,
        "machine_id": outcome.environment.machine_id,
        "code": outcome.environment.code,
        "config": dict(outcome.config),
        "command": outcome.command,
    }
