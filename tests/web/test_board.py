"""What of the figures counts for this machine, and what the pages say of the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import pytest
from fastapi import FastAPI
from house import House
from visitor import Visitor

from tidemill.bench import Budget, Measurement, StandIn, Status, find
from tidemill.bench.environment import Environment
from tidemill.bench.sources import sources_of
from tidemill.bench.store import TrialOutcome
from tidemill.web import create_app


def record(
    house: House, *measurements: Measurement, environment: Environment, **fields: Any
) -> None:
    values: dict[str, Any] = {
        "outcome": "ok" if measurements else "timeout",
        "error": "" if measurements else "took longer than 30 s",
    }
    house.store.record_trial(
        TrialOutcome(
            system="waterwheel",
            trial="turning",
            budget=Budget.QUICK,
            measurements=measurements,
            seconds=1.0,
            started=datetime.now(UTC),
            environment=environment,
            command="tidemill claims waterwheel --budget quick",
            **values | fields,
        )
    )


@pytest.fixture
def app(house: House) -> FastAPI:
    return create_app(house.store, house.library, house.queue)


def test_figures_of_this_machine_decide_what_holds_here(
    app: FastAPI, house: House, visit: Callable
) -> None:
    here = app.state.site.environment
    tub = StandIn("river", Status.EMULATED, "a tub")
    compared = {"comparison": import_module("tidemill_waterwheel").COMPARED}
    record(
        house,
        Measurement(claim="lift", value=2.31, low=2.12, high=2.5, repeats=5, detail=compared),
        Measurement(claim="loss", value=3.0, low=3.0, high=3.0, repeats=1),
        Measurement(claim="noise", value=41, low=38, high=44, repeats=5, stand_ins=(tub,)),
        environment=here,
    )
    visitor = visit(app)
    page = re.sub("<[^>]+>", "", visitor.get("/en/p/2606.00001").text)
    assert "system ✓ 1/3 claims hold here" in page
    for words in ("✓ holds", "✗ does not hold", "? unclear", "emulated", "Instead of river:"):
        assert words in page
    assert "系统 ✓ 1/3 项论断在本机成立" in visitor.get("/zh/p/2606.00001").text
    chart = visitor.get("/en/s/waterwheel/charts/lift.svg")
    assert chart.headers["content-type"] == "image/svg+xml"
    assert "svg" in visitor.get("/en/s/waterwheel/claims.svg").text[:200]
    sides = visitor.get("/en/s/waterwheel/sides/lift.svg").text
    assert "bucket" in sides
    assert "l/s" in sides
    assert visitor.get("/en/s/waterwheel/sides/loss.svg").status_code == 404

    def claims(query: str) -> list[str]:
        found = visitor.get(f"/claims.json?system=waterwheel&{query}").json()["claims"]
        return [claim["claim"] for claim in found]

    assert claims("") == ["lift", "loss", "noise"]
    assert claims("verdict=yes") == ["lift"]
    assert claims("status=emulated") == ["noise"]
    assert claims("status=measured&verdict=no") == ["loss"]
    assert claims("verdict=none") == []


def test_figures_of_another_machine_are_shown_as_such_and_count_for_nothing(
    app: FastAPI, house: House, visit: Callable
) -> None:
    elsewhere = replace(app.state.site.environment, cpu="Another CPU", cores=64)
    record(
        house,
        Measurement(claim="lift", value=9.9, low=9.8, high=10, repeats=5),
        environment=elsewhere,
    )
    page = visit(app).get("/en/p/2606.00001").text
    assert "On another machine:" in page
    assert "Another CPU" in page
    assert "none measured here yet" in page


@pytest.fixture
def here(app: FastAPI) -> Environment:
    """This machine with the code of now."""
    return replace(app.state.site.environment, sources=sources_of(find("waterwheel")))


LIFT = Measurement(claim="lift", value=2.31, low=2.12, high=2.5, repeats=5)
HOLDS = "system ✓ 1/3 claims hold here"
OLDER = "(1 of them with other code)"


def paper_of(visitor: Visitor) -> str:
    """The text of the page of the wheel's paper, and that its JSON says the same."""
    return " ".join(re.sub("<[^>]+>", "", visitor.get("/en/p/2606.00001").text).split())


def test_figures_of_older_code_are_marked(
    app: FastAPI, house: House, here: Environment, visit: Callable
) -> None:
    visitor = visit(app)
    record(house, LIFT, environment=replace(here, sources="0" * 12, code="decaf" * 8))
    page = paper_of(visitor)
    assert f"{HOLDS} {OLDER}" in page
    assert "measured with other code:" in page
    assert "（其中 1 项属于旧代码）" in visitor.get("/zh/p/2606.00001").text
    record(house, LIFT, environment=replace(here, code="a later commit of a document"))
    page = paper_of(visitor)
    assert HOLDS in page
    assert OLDER not in page
    assert "measured with other code:" not in page


def test_only_the_default_settings_count(
    app: FastAPI, house: House, here: Environment, visit: Callable
) -> None:
    visitor = visit(app)
    better = replace(LIFT, value=9.9, low=9.8, high=10)
    record(house, better, environment=here, config={"turns": 9})
    assert "none measured here yet" in paper_of(visitor)
    assert visitor.get("/en/s/waterwheel/charts/lift.svg").status_code == 404
    record(house, LIFT, environment=here, config={"turns": 12})
    record(house, better, environment=here, config={"turns": 9})
    assert "2.31×" in paper_of(visitor)
    assert "9.90" not in paper_of(visitor)


@pytest.mark.parametrize("end", ["crashed", "timeout", "out of memory", "missing"])
def test_a_figure_that_the_newest_attempt_missed_is_shown_and_does_not_count(
    app: FastAPI, house: House, here: Environment, visit: Callable, end: str
) -> None:
    visitor = visit(app)
    record(house, LIFT, environment=here)
    record(house, environment=here, outcome=end, error="the wheel broke\nTraceback")
    page = paper_of(visitor)
    assert "2.31×" in page
    assert "newer attempt:" in page
    assert "the wheel broke" in page
    assert HOLDS not in page
    claims = visitor.get("/claims.json?system=waterwheel").json()["claims"]
    assert next(c for c in claims if c["claim"] == "lift")["failure"]["outcome"] == end
    assert "2.31" not in visitor.get("/en/s/waterwheel/claims.svg").text
    record(house, LIFT, environment=here)
    assert HOLDS in paper_of(visitor)


def test_a_cancelled_attempt_or_one_elsewhere_takes_nothing_away(
    app: FastAPI, house: House, here: Environment, visit: Callable
) -> None:
    record(house, LIFT, environment=here)
    record(house, environment=here, outcome="cancelled")
    record(house, environment=replace(here, cores=64), outcome="crashed")
    page = paper_of(visit(app))
    assert HOLDS in page
    assert "newer attempt:" not in page


def test_a_trial_that_gave_no_figure_says_why(app: FastAPI, house: House, visit: Callable) -> None:
    record(house, environment=app.state.site.environment)
    page = visit(app).get("/en/s/waterwheel").text
    assert "ran out of time" in page
    assert "took longer than 30 s" in page
