"""Asking for a run, and what its page tells of it; the queue is never started here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from house import House
from visitor import Visitor

from tidemill.bench import Budget, Measurement, Requirement, find
from tidemill.bench.claim import Json
from tidemill.bench.events import LINE_LIMIT_BYTES, EventLog
from tidemill.bench.store import Run, RunState
from tidemill.bench.wire import measurement_json
from tidemill.web import create_app

PAGE = "/en/s/waterwheel"
RUNS = f"{PAGE}/runs"


def asked(visitor: Visitor, **fields: str) -> str:
    """Press Run; gives the run's id."""
    answer = visitor.post(RUNS, {"csrf": visitor.token(PAGE), **fields})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"].removeprefix("/en/r/")


def test_pressing_run_queues_it_and_leads_to_its_page(house: House, visitor: Visitor) -> None:
    run = house.store.run(asked(visitor, turns="7", squeaks="true", what="run"))
    assert run is not None
    assert (run.system, run.kind, run.state) == ("waterwheel", "run", RunState.QUEUED)
    assert run.config["turns"] == 7
    assert run.config["squeaks"] is True
    assert run.config["direction"] == "forwards"
    assert visitor.get(f"/en/r/{run.id}").status_code == 200


@pytest.mark.parametrize(
    ("what", "kind", "budget"),
    [("run", "run", None), ("quick", "run+claims", Budget.QUICK), ("full", "claims", Budget.FULL)],
)
def test_the_choice_decides_what_is_done(
    house: House, visitor: Visitor, what: str, kind: str, budget: Budget | None
) -> None:
    run = house.store.run(asked(visitor, what=what))
    assert run is not None
    assert (run.kind, run.budget) == (kind, budget)


def test_the_token_of_a_page_is_needed(house: House, visitor: Visitor, visit: Callable) -> None:
    token = visitor.token(PAGE)
    other = visit(create_app(house.store, house.library, house.queue))
    assert visitor.post(RUNS, {"what": "run"}).status_code == 403
    assert visitor.post(RUNS, {"csrf": token + "x"}).status_code == 403
    assert other.post(RUNS, {"csrf": token}).status_code == 403
    assert visitor.post(RUNS, {"csrf": token}, Origin="http://evil.example").status_code == 403
    assert house.store.runs() == []
    assert visitor.post(RUNS, {"csrf": token}).status_code == 303


def test_a_token_outlives_a_restart_of_the_server(house: House, visitor: Visitor) -> None:
    token = visitor.token(PAGE)
    restarted = create_app(house.store, house.library, house.queue)
    visitor.move_to(restarted)
    assert visitor.post(RUNS, {"csrf": token}).status_code == 303


def test_a_refused_value_is_said_beside_its_field(house: House, visitor: Visitor) -> None:
    fields = {"csrf": visitor.token(PAGE), "turns": "0", "seconds_per_turn": "<b>", "gate": "x"}
    answer = visitor.post(RUNS, {**fields, "what": "quick"})
    assert answer.status_code == 400
    assert "turns=0 — must be in [1, 100000]" in answer.text
    assert "seconds_per_turn=&#39;&lt;b&gt;&#39; — must be a finite number" in answer.text
    assert answer.text.count('aria-invalid="true"') == 2
    assert 'name="gate" value="x"' in answer.text
    assert 'value="quick" checked' in answer.text
    assert house.store.runs() == []


@pytest.mark.parametrize("fields", [{"what": "everything"}, {"turns": "9" * 5000}])
def test_nonsense_is_the_askers_mistake(visitor: Visitor, fields: dict[str, str]) -> None:
    answer = visitor.post(RUNS, {"csrf": visitor.token(PAGE), **fields})
    assert answer.status_code == 400


def test_a_crowded_form_is_refused(visitor: Visitor) -> None:
    fields = {f"f{n}": "1" for n in range(500)}
    assert visitor.post(RUNS, {"csrf": visitor.token(PAGE), **fields}).status_code == 400


def test_a_full_queue_is_said(house: House, visitor: Visitor) -> None:
    for _ in range(100):
        house.queue.submit("waterwheel", {}, "run")
    answer = visitor.post(RUNS, {"csrf": visitor.token(PAGE)})
    assert answer.status_code == 503
    assert "100 runs wait already" in answer.text


def test_a_read_only_site_shows_the_command_instead(house: House, visit: Callable) -> None:
    for queue in (house.queue, None):
        visitor = visit(create_app(house.store, house.library, queue, read_only=queue is not None))
        page = visitor.get(PAGE).text
        assert "tidemill run waterwheel" in page
        assert "<form" not in page
        assert "<form" not in visitor.get("/en/p/2606.00001").text
        assert visitor.post(RUNS, {"what": "run"}).status_code == 403


def test_a_machine_that_lacks_something_is_told_what(house: House) -> None:
    app = create_app(house.store, house.library, house.queue)
    needy = Requirement("river", lambda: "river: there is none; dig one.")
    app.state.site.systems["waterwheel"] = replace(find("waterwheel"), requires=(needy,))
    visitor = Visitor(app)
    assert "river: there is none; dig one." in visitor.get(PAGE).text
    assert "<form" not in visitor.get(PAGE).text
    token = visitor.token("/en/s/cusbf")
    assert visitor.post(RUNS, {"csrf": token}).status_code == 409
    visitor.close()


def test_a_waiting_run_says_how_many_are_before_it_and_can_be_cancelled(
    house: House, visitor: Visitor
) -> None:
    asked(visitor)
    run_id = asked(visitor)
    page = visitor.get(f"/en/r/{run_id}").text
    assert "1 run before this one" in page
    token = visitor.token(f"/en/r/{run_id}")
    assert visitor.post(f"/en/r/{run_id}/cancel", {}).status_code == 403
    answer = visitor.post(f"/en/r/{run_id}/cancel", {"csrf": token})
    assert answer.headers["location"] == f"/en/r/{run_id}"
    run = house.store.run(run_id)
    assert run is not None
    assert run.state is RunState.CANCELLED
    page = visitor.get(f"/en/r/{run_id}").text
    assert "cancelled" in page
    assert visitor.post(f"/en/r/{run_id}/cancel", {"csrf": token}).status_code == 303


@pytest.fixture
def told(house: House, visitor: Visitor) -> tuple[Run, EventLog]:
    """A run under way that has told of a stage, a curve, a log line and a figure."""
    run = house.store.run(asked(visitor, turns="9", what="quick"))
    assert run is not None
    house.store.update_run(run.id, state=RunState.RUNNING, started=datetime.now(UTC))
    log = EventLog(run.events_path)
    log.append("stage", {"name": "turning", "trial": ""})
    log.append("progress", {"done": 3, "total": 9, "unit": "turns"})
    for value in (5.0, 8.0, 6.5):
        log.append("metric", {"name": "water", "value": value, "unit": "l/s"})
    log.append("log", {"text": "<b>squeak</b>"})
    measured = Measurement(claim="lift", value=2.31, low=2.12, high=2.5, repeats=5)
    log.append("measurement", {"trial": "turning", **measurement_json(measured)})
    return run, log


def test_a_page_under_way_is_whole_without_javascript(
    told: tuple[Run, EventLog], visitor: Visitor
) -> None:
    page = visitor.get(f"/en/r/{told[0].id}").text
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert '<progress id="bar" max="1" value="0.3333"' in page
    assert "3 / 9 turns" in page
    assert "&lt;b&gt;squeak&lt;/b&gt;" in page
    assert 'data-name="water"' in page
    curve = page.partition('<polyline points="')[2].partition('"')[0]
    assert [pair.partition(",")[2] for pair in curve.split()] == ["-5", "-8", "-6.5"]
    assert "2.31×" in page
    assert "2.12 – 2.50" in page
    assert 'data-after="7"' in page


def test_a_finished_page_moves_no_more_and_offers_to_run_again(
    told: tuple[Run, EventLog], house: House, visitor: Visitor
) -> None:
    run, log = told
    report = {"headline": {"en": "Nine turns.", "zh": "九圈。"}, "facts": {"turns": 9}}
    log.append("report", {**report, "timings": {"turning_s": 0.5}, "tables": [], "charts": {}})
    log.append("end", {"state": "done", "error": ""})
    page = visitor.get(f"/en/r/{run.id}").text
    assert "http-equiv" not in page
    assert "live.js" not in page
    assert "<progress" not in page
    assert "Nine turns." in page
    assert "九圈。" in visitor.get(f"/zh/r/{run.id}").text
    assert f"/en/s/waterwheel?from={run.id}#run" in page
    assert "tidemill run waterwheel --claims quick --set turns=9" in page
    form = visitor.get(f"/en/s/waterwheel?from={run.id}").text
    assert 'name="turns" value="9"' in form
    assert 'value="quick" checked' in form


def test_an_old_run_whose_events_are_gone_still_shows_its_report(
    told: tuple[Run, EventLog], house: House, visitor: Visitor
) -> None:
    run, _ = told
    Path(run.events_path).unlink()
    report = {"headline": {"en": "Nine turns.", "zh": "九圈。"}, "facts": {}, "timings": {}}
    house.store.update_run(
        run.id,
        state=RunState.DONE,
        ended=datetime.now(UTC),
        report={**report, "tables": [], "charts": {}},
    )
    assert "Nine turns." in visitor.get(f"/en/r/{run.id}").text
    assert "event: end" in visitor.get(f"/r/{run.id}/events").text


def test_a_finished_run_is_told_as_events_from_where_one_was(
    told: tuple[Run, EventLog], visitor: Visitor
) -> None:
    run, log = told
    log.append("end", {"state": "failed", "error": "the wheel broke\nTraceback"})
    path = f"/r/{run.id}/events"
    answer = visitor.get(path)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("\nid: ") == 8
    assert visitor.get(f"{path}?after=6").text.count("\nid: ") == 2
    assert visitor.get(path, **{"Last-Event-ID": "7"}).text.count("\nid: ") == 1
    assert visitor.get(path, **{"Last-Event-ID": "no number"}).text.count("\nid: ") == 8
    page = visitor.get(f"/en/r/{run.id}").text
    assert "<p>the wheel broke</p>" in page


def test_a_run_is_there_as_json(told: tuple[Run, EventLog], visitor: Visitor) -> None:
    content = visitor.get(f"/r/{told[0].id}.json").json()
    assert content["state"] == "running"
    assert content["stage"] == "turning"
    assert content["measurements"][0]["value"] == 2.31
    assert content["config"]["turns"] == 9


def test_a_figure_with_a_detail_too_long_for_an_event_is_shown(
    told: tuple[Run, EventLog], visitor: Visitor
) -> None:
    run, log = told
    rows: dict[str, Json] = {"rows": ["x" * LINE_LIMIT_BYTES]}
    long = Measurement(claim="lift", value=2.47, low=2.12, high=2.5, repeats=5, detail=rows)
    log.append("measurement", {"trial": "turning", **measurement_json(long)})
    tables = [{"title": "x" * LINE_LIMIT_BYTES, "columns": [], "rows": []}]
    report = {"headline": {"en": "Nine turns.", "zh": "九圈。"}, "facts": {"turns": 9}}
    log.append("report", {**report, "timings": {}, "tables": tables, "charts": {}})
    log.append("end", {"state": "done", "error": ""})
    answer = visitor.get(f"/en/r/{run.id}")
    assert answer.status_code == 200
    assert "2.47×" in answer.text
    assert "Nine turns." in answer.text
    assert "detail of lift, tables" in answer.text
