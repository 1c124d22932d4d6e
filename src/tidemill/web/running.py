"""Runs: asking for one, watching it live, cancelling it, and what it found."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tidemill.bench import Budget, Claim, Measurement, System, Verdict
from tidemill.bench.claim import Json
from tidemill.bench.events import read_events
from tidemill.bench.store import Run, RunKind, RunState
from tidemill.bench.wire import measurement_of
from tidemill.errors import TidemillError
from tidemill.web import forms, live
from tidemill.web.charts import chart
from tidemill.web.formats import JSON, as_json, format_links, split_format
from tidemill.web.guard import CSRF_FIELD
from tidemill.web.measuring import run_json, system_of, system_page
from tidemill.web.refusals import Refused
from tidemill.web.site import Reader, Site, page, site_of
from tidemill.web.trace import Curve, Trace

router = APIRouter()

CHOICES: dict[str, tuple[RunKind, Budget | None]] = {
    "run": ("run", None),
    "quick": ("run+claims", Budget.QUICK),
    "full": ("claims", Budget.FULL),
}
"""What the form offers: kind of session and budget."""
_LARGEST_FORM_FIELDS = 200


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement of a run beside the claim it answers."""

    claim: Claim
    measurement: Measurement

    @property
    def verdict(self) -> Verdict:
        """Follows from the interval."""
        return self.claim.verdict(self.measurement)


@router.post("/s/{name}/runs")
async def start(request: Request, name: str) -> Response:
    """Judge the form, queue the run, lead to its page."""
    site = site_of(request)
    system = system_of(site, name)
    sent = await _sent(request, site, back=f"/s/{name}")
    what = sent.pop("what", "run")
    if what not in CHOICES:
        raise Refused(400, "bad_request", f"what={what[:40]!r} — {', '.join(CHOICES)}.")
    return await run_in_threadpool(_start, request, system, sent, what)


def _start(request: Request, system: System, sent: Mapping[str, str], what: str) -> Response:
    site = site_of(request)
    form = forms.judge(system, sent)
    if form.config is None:
        return system_page(request, system, form, status=400, what=what)
    if system.missing():
        return system_page(request, system, form, status=409, what=what)
    kind, budget = CHOICES[what]
    if site.queue is None:
        raise Refused(403, "read_only", back=f"/s/{system.name}")
    run = site.queue.submit(system.name, form.config, kind, budget)
    return RedirectResponse(Reader(request).link(f"/r/{run.id}"), 303)


@router.post("/r/{run_id}/cancel")
async def cancel(request: Request, run_id: str) -> Response:
    """Ask for the end of a run; one that has ended stays as it is."""
    site = site_of(request)
    run = await run_in_threadpool(_run_of, site, run_id)
    await _sent(request, site, back=f"/r/{run.id}")
    if site.queue is not None and not run.state.is_final:
        await run_in_threadpool(site.queue.cancel, run.id)
    return RedirectResponse(Reader(request).link(f"/r/{run.id}"), 303)


@router.get("/r/{run_id}/events")
async def events(request: Request, run_id: str) -> Response:
    """The run's events as they come; see `live`."""
    site = site_of(request)
    run = await run_in_threadpool(_run_of, site, run_id)
    return live.follow(request, site.live, run)


@router.api_route("/r/{name}", methods=["GET", "HEAD"])
def show_run(request: Request, name: str) -> Response:
    """A run: where it is, its curves, its figures, how to do it again."""
    site = site_of(request)
    run_id, kind = split_format(name, (JSON,))
    run = _run_of(site, run_id)
    trace = _trace_of(run)
    state = RunState(trace.end) if trace.end else run.state
    if kind == JSON:
        return as_json(request, {**run_json(run), "state": str(state), **_found(trace)})
    system = site.systems.get(run.system)
    return page(
        request,
        "run.html",
        {
            "run": run,
            "trace": trace,
            "empty_curve": Curve("", ""),
            "state": str(state),
            "is_final": state.is_final,
            "ahead": _ahead(site, run) if state is RunState.QUEUED else None,
            "error": trace.error or run.error,
            "trials": [trial for trial in trace.trials.values() if trial.name or trial.error],
            "figures": list(_figures(system, trace)),
            "charts": [(name, _described(spec, name)) for name, spec in _charts(trace)],
            "can_repeat": system is not None and site.can_run,
            "command": _command(system, run),
            "feeds": format_links(Reader(request), f"/r/{run.id}", (JSON,)),
        },
    )


@router.get("/r/{run_id}/charts/{number}.svg")
def run_chart(request: Request, run_id: str, number: int) -> Response:
    """One chart of the run's report, counted from 0."""
    run = _run_of(site_of(request), run_id)
    charts = _charts(_trace_of(run))
    if not 0 <= number < len(charts):
        raise Refused(404, "not_found", f"chart {number} — there is none.", f"/r/{run.id}")
    return chart(request, charts[number][1])


def _run_of(site: Site, run_id: str) -> Run:
    run = site.store.run(run_id) if re.fullmatch(r"[0-9a-f]{32}", run_id) else None
    if run is None:
        raise Refused(404, "not_found", f"run {run_id[:40]!r} — is not in this store.")
    return run


def _trace_of(run: Run) -> Trace:
    """What the run's events tell; of an old run, whose file is gone, the report that was kept."""
    trace = Trace.of(read_events(run.events_path))
    trace.report = trace.report or run.report
    return trace


async def _sent(request: Request, site: Site, *, back: str) -> dict[str, str]:
    """The fields of a form that may act here, without its token.

    Raises:
        Refused: The site shows only, or the token is not this reader's.
    """
    if not site.can_run:
        raise Refused(403, "read_only", back=back)
    form = await request.form(max_files=0, max_fields=_LARGEST_FORM_FIELDS)
    if len(form) > _LARGEST_FORM_FIELDS:  # Starlette before 1.3.1 counts only parts
        raise Refused(400, "bad_request")
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    if not site.csrf.holds(request, fields.pop(CSRF_FIELD, None)):
        raise Refused(403, "stale_form", back=back)
    return fields


def _figures(system: System | None, trace: Trace) -> Iterator[Figure]:
    claims = {claim.id: claim for claim in system.claims} if system else {}
    for data in trace.measurements:
        try:
            measurement = measurement_of(data)
        except TidemillError:  # written by another version
            continue
        if measurement.claim in claims:
            yield Figure(claims[measurement.claim], measurement)


def _charts(trace: Trace) -> list[tuple[str, dict[str, Json]]]:
    charts = trace.report.get("charts") if trace.report else None
    if not isinstance(charts, dict):
        return []
    return [(name, spec) for name, spec in charts.items() if isinstance(spec, dict)]


def _described(spec: Mapping[str, Json], name: str) -> str:
    description = spec.get("description")
    return description if isinstance(description, str) else name


def _ahead(site: Site, run: Run) -> int:
    waiting = site.store.runs(states=[RunState.QUEUED, RunState.RUNNING])
    return sum(other.created < run.created for other in waiting)


def _command(system: System | None, run: Run) -> str:
    words = ["tidemill", "claims" if run.kind == "claims" else "run", run.system]
    if run.kind == "claims" and run.budget:
        words += ["--budget", str(run.budget)]
    if run.kind == "run+claims" and run.budget:
        words += ["--claims", str(run.budget)]
    for setting in forms.as_settings(system, run.config) if system else []:
        words += ["--set", setting]
    return shlex.join(words)


def _found(trace: Trace) -> dict[str, Json]:
    return {
        "error": trace.error,
        "stage": trace.stage,
        "measurements": cast(Json, [dict(item) for item in trace.measurements]),
        "report": cast(Json, dict(trace.report)) if trace.report else None,
        "log": cast(Json, trace.log),
        "last_event": trace.last_id,
    }
