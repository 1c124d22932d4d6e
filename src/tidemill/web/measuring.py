"""Systems and their claims: the page of a system, the board of all claims, and their charts."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from tidemill.bench import Status, System, Verdict, plots
from tidemill.bench.claim import Json
from tidemill.bench.settings import defaults_of, settings_of
from tidemill.bench.store import Run
from tidemill.web import forms
from tidemill.web.board import Note, Standing, standings
from tidemill.web.charts import chart
from tidemill.web.figures import machine_line
from tidemill.web.formats import HTML, JSON, as_json, format_links, format_of, split_format
from tidemill.web.refusals import Refused
from tidemill.web.site import Reader, Site, page, site_of

router = APIRouter()
_READ = ["GET", "HEAD"]
_HISTORY = 30


def system_of(site: Site, name: str) -> System:
    """The installed system called ``name``.

    Raises:
        Refused: There is none.
    """
    system = site.systems.get(name)
    if system is None:
        known = ", ".join(site.systems) or "(none)"
        raise Refused(404, "not_found", f"system {name[:80]!r} — installed here: {known}.")
    return system


@router.api_route("/s/{name}", methods=_READ)
def show_system(
    request: Request, name: str, earlier: Annotated[str, Query(alias="from")] = ""
) -> Response:
    """A system: settings and Run, claims, charts, the runs so far."""
    site = site_of(request)
    name, kind = split_format(name, (JSON,))
    system = system_of(site, name)
    if kind == JSON:
        return as_json(request, _system_json(site, system))
    run = site.store.run(earlier) if earlier else None
    if earlier and (run is None or run.system != name):
        raise Refused(404, "not_found", f"run {earlier[:40]!r} — not of {name}.", f"/s/{name}")
    form = forms.blank(system, run.config if run else None)
    return system_page(request, system, form, from_run=run, what=_what(run))


def system_page(
    request: Request,
    system: System,
    form: forms.Form,
    *,
    status: int = 200,
    from_run: Run | None = None,
    what: str = "run",
) -> Response:
    """The page of ``system`` with ``form`` as it stands; errors show beside their fields."""
    site, place = site_of(request), f"/s/{system.name}"
    runs = site.store.runs(system=system.name, limit=_HISTORY)
    return page(
        request,
        "system.html",
        {
            "system": system,
            "form": form,
            "from_run": from_run.id if from_run else "",
            "what": what,
            "missing": system.missing(),
            "note": Note.of(system, site.store, site.environment),
            "machine": machine_line(site.environment.machine),
            "history": [(run, forms.as_settings(system, run.config)) for run in runs],
            "feeds": format_links(Reader(request), place, (JSON,)),
        },
        status=status,
        place=place,
    )


def _what(run: Run | None) -> str:
    """The choice of the form that asked for ``run``."""
    if run is None or run.kind == "run":
        return "run"
    return "quick" if run.kind == "run+claims" else "full"


@router.get("/s/{name}/claims.svg")
def claims_chart(request: Request, name: str) -> Response:
    """All claims of a system against their targets."""
    site, language = site_of(request), Reader(request).language
    system = system_of(site, name)
    rows = standings(system, site.store, site.environment)
    found = {row.claim.id: row.record.measurement for row in rows if row.record and row.counts}
    return chart(request, plots.claim_chart(system.claims, found, language))


@router.get("/s/{name}/charts/{claim_id}.svg")
def history_chart(request: Request, name: str, claim_id: str) -> Response:
    """One claim over the code's history."""
    site = site_of(request)
    system = system_of(site, name)
    claim = next((claim for claim in system.claims if claim.id == claim_id), None)
    defaults = defaults_of(system.config)
    records = site.store.history(name, claim_id, limit=_HISTORY, settings=defaults) if claim else []
    if claim is None or not records:
        raise Refused(404, "not_found", f"claim {claim_id[:80]!r} — no figures here.", f"/s/{name}")
    return chart(request, plots.history_chart(claim, records, Reader(request).language))


@router.get("/s/{name}/sides/{claim_id}.svg")
def sides_chart(request: Request, name: str, claim_id: str) -> Response:
    """What the newest figure of a claim compared, as rates measured in the same run."""
    site, language = site_of(request), Reader(request).language
    rows = standings(system_of(site, name), site.store, site.environment)
    row = next((row for row in rows if row.claim.id == claim_id and row.compared), None)
    if row is None:
        raise Refused(404, "not_found", f"claim {claim_id[:80]!r} — no comparison.", f"/s/{name}")
    statement = row.claim.statement.in_language(language)
    return chart(request, plots.bars(row.compared, title=statement))


@router.api_route("/claims", methods=_READ)
@router.api_route("/claims.{suffix}", methods=_READ)
def board(
    request: Request, suffix: str = HTML, status: str = "", verdict: str = "", system: str = ""
) -> Response:
    """All claims of all systems, filtered by status, verdict and system."""
    site, reader = site_of(request), Reader(request)
    kind = format_of(suffix, (JSON,))
    options = {
        "status": {str(s): reader.t(f"status.{s}") for s in Status},
        "verdict": {str(v): reader.t(f"verdict.{v}") for v in (*Verdict, "none")},
        "system": {name: name for name in site.systems},
    }
    chosen = {"status": status, "verdict": verdict, "system": system}
    for name, value in chosen.items():
        if value and value not in options[name]:
            allowed = f"must be one of {', '.join(options[name])}"
            reason = f"{name}={value[:40]!r} — {allowed}."
            raise Refused(400, "bad_request", reason, "/claims")
    rows = [
        row for one in site.systems.values() for row in standings(one, site.store, site.environment)
    ]
    shown = [row for row in rows if _fits(row, chosen)]
    if kind == JSON:
        return as_json(request, {"claims": [row.to_json() for row in shown]})
    return page(
        request,
        "board.html",
        {
            "rows": shown,
            "total": len(rows),
            "machine": machine_line(site.environment.machine),
            "filters": [(name, chosen[name], list(options[name].items())) for name in options],
            "feeds": format_links(reader, "/claims", (JSON,), chosen),
        },
    )


def _fits(row: Standing, chosen: dict[str, str]) -> bool:
    has = {
        "status": str(row.status),
        "verdict": str(row.verdict or "none"),
        "system": row.system.name,
    }
    return all(not value or has[name] == value for name, value in chosen.items())


def _system_json(site: Site, system: System) -> dict[str, Json]:
    rows = standings(system, site.store, site.environment)
    settings: list[Json] = [
        {
            "name": setting.name,
            "type": setting.kind.__name__,
            "default": setting.default,
            "help": setting.help,
            "choices": list(setting.choices),
            "optional": setting.optional,
        }
        for setting in settings_of(system.config)
    ]
    return {
        "name": system.name,
        "paper": system.paper.arxiv_id,
        "summary": {"en": system.summary.en, "zh": system.summary.zh},
        "settings": settings,
        "missing": cast(list[Json], system.missing()),
        "claims": [row.to_json() for row in rows],
        "runs": [run_json(run) for run in site.store.runs(system=system.name, limit=_HISTORY)],
    }


def run_json(run: Run) -> dict[str, Json]:
    """A run as the ``.json`` pages give it, without what it found."""
    return {
        "id": run.id,
        "system": run.system,
        "kind": run.kind,
        "budget": str(run.budget) if run.budget else None,
        "config": dict(run.config),
        "state": str(run.state),
        "progress": run.progress,
        "created": run.created.isoformat(),
        "started": run.started.isoformat() if run.started else None,
        "ended": run.ended.isoformat() if run.ended else None,
        "error": run.error,
    }
