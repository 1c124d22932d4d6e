"""The figures of the server, as pages print them: what ``bench-serve --save`` stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llm_figures
from drawings import drawn
from llm_figures import Changed, Models

from tidemill.bench import Measurement
from tidemill.bench.plots import Spec
from tidemill.serve.replay_plots import goodput_chart
from tidemill.serve.serve_bench import OURS, PEER, PROMISES

CODE = ("src/tidemill/serve", "src/tidemill/models", "src/tidemill/cli/bench_serve.py")
"""What the figures come from."""
MEASURE = "tidemill bench-serve MODEL --budget full"


def rows(models: Models) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every promise of the server with its figure for each model."""
    return llm_figures.rows(models, PROMISES, _detail)


def machine(models: Models, changed_since: Changed) -> str:
    """Where, when and how they were measured."""
    return llm_figures.machine(models, changed_since, CODE, MEASURE)


def charts(models: Models) -> str:
    """Goodput over load, a drawing for each model."""
    named = {f"serve-{name}": spec for name, spec in goodput(models).items()}
    return drawn(named, "Goodput over load", "images") or "Not measured yet."


def goodput(models: Models) -> dict[str, Spec]:
    """Goodput over load of both servers, by model."""
    charts: dict[str, Spec] = {}
    for name, model in models.items():
        figure = model["figures"].get("load-ttft")
        if figure is None:
            continue
        detail: dict[str, Any] = figure["measurement"]["detail"]
        points = {
            side: [(point["rate"], point["sides"][side]["goodput"]) for point in detail["points"]]
            for side in (OURS, PEER)
        }
        limits = f"{detail['good_ttft_s']:g} s and {detail['good_tpot_s']:g} s a token"
        charts[name] = goodput_chart(points, f"{limits}, {name}")
    return charts


def _detail(found: Measurement) -> Iterator[str]:
    """What else is worth telling of a figure."""
    detail: dict[str, Any] = found.detail
    if "peer_tokens_per_s" in detail:
        yield f"{detail['tokens_per_s']:.0f} against {detail['peer_tokens_per_s']:.0f} tokens/s"
    if found.claim in {"load-ttft", "load-itl"}:
        what = "ttft_s" if found.claim == "load-ttft" else "itl_s"
        for point in detail["points"]:
            ours, theirs = (point["sides"][side][what]["p99"] for side in (OURS, PEER))
            yield (
                f"{point['rate']:.2f} requests/s: {1000 * ours:.0f} against {1000 * theirs:.0f} ms"
            )
    if found.claim == "idle-ttft":
        yield f"a step of {1000 * sorted(detail['step_s'])[len(detail['step_s']) // 2]:.0f} ms"
    if found.claim == "flood":
        texts = f"{detail['requests']} texts of {detail['clients']} clients"
        yield f"{texts} in {detail['seconds']:.0f} s"
    if found.claim in {"simulation", "simulation-cpu"}:
        for name, (real, simulated) in detail["seconds_real_and_simulated"].items():
            yield f"{name}: {1000 * real:.0f} ms, simulated {1000 * simulated:.0f}"
    if found.claim == "hour":
        yield f"{detail['requests']} requests, {detail['output_tokens']} tokens: {detail['trace']}"
