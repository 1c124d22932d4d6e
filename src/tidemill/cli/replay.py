"""``tidemill replay``: the arrivals of a trace on a server, or on a simulated device."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.language_model import AsJson, told

if TYPE_CHECKING:
    from tidemill.serve.events import EventLog
    from tidemill.serve.traces import Arrival


def replay(  # noqa: PLR0913 - one parameter per option
    trace: Annotated[
        Path | None,
        typer.Argument(help="Azure or BurstGPT CSV, or JSON lines; none: random arrivals."),
    ] = None,
    *,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="What the server calls its model.")] = None,
    simulate: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="No server: a device, as h100x8.")
    ] = None,
    shape: Annotated[str, typer.Option(help="The model that is simulated.")] = "llama3-8b",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many requests.")] = None,
    speed: Annotated[float, typer.Option(help="So many times as fast as recorded.")] = 1.0,
    context: Annotated[int, typer.Option(help="Longer requests are cut to this.")] = 4096,
    rate: Annotated[float, typer.Option(help="Random arrivals per second.")] = 1.0,
    burstiness: Annotated[float, typer.Option(help="1: Poisson; smaller: burstier.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random arrivals.")] = 0,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Simulated: run at once.")] = 256,
    save: Annotated[Path | None, typer.Option(help="Write the raw events as JSON lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send requests when the trace says, whatever became of the others, and say how they fared.

    The same scheduler serves and is simulated; figures of a simulation are modelled.
    """
    from tidemill.serve.traces import Bursts, fitted, read_trace

    recorded = (
        Bursts(rate, limit or 100, burstiness, seed=seed).arrivals()
        if trace is None
        else read_trace(trace)
    )
    arrivals = fitted(recorded, limit=limit, speed=speed, context=context)
    if simulate is not None:
        log = _simulated(arrivals, simulate, shape, max_num_seqs)
    else:
        log = _sent(arrivals, url, model, quiet=as_json)
    if save is not None:
        log.save(save)
    about = {"status": "modelled" if simulate else "measured", **asdict(log.summary())}
    typer.echo(json.dumps(about, indent=1) if as_json else _shown(log, about["status"]))


def _sent(arrivals: list[Arrival], url: str, model: str | None, *, quiet: bool) -> EventLog:
    import httpx

    from tidemill.errors import ProtocolError
    from tidemill.serve.load_generator import LoadGenerator

    try:
        name = model or httpx.get(f"{url.rstrip('/')}/v1/models").json()["data"][0]["id"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise ProtocolError(
            f"{url} — gives no list of models ({error}); start a server there, as `tidemill serve "
            "MODEL`, or name another with --url."
        ) from error
    generator = LoadGenerator(url, name)
    with told("replay", quiet=quiet) as progress:
        return asyncio.run(
            generator.run(arrivals, lambda done: progress.advance(done, len(arrivals), "requests"))
        )


def _simulated(arrivals: list[Arrival], device: str, shape: str, max_num_seqs: int) -> EventLog:
    from tidemill.serve.devices import simulated_device
    from tidemill.serve.simulation import simulate
    from tidemill.serve.traces import requests_of

    made = simulated_device(device, shape, arrivals, max_num_seqs=max_num_seqs)
    return simulate(*made, requests_of(arrivals))


def _shown(log: EventLog, status: str) -> str:
    summary = log.summary()
    lines = [
        f"{summary.served} of {summary.requests} served, {summary.refused} refused, "
        f"{summary.failed} failed in {summary.duration_s:.1f} s ({status})",
        f"{summary.output_tokens_per_s:.1f} output tokens/s, "
        f"{summary.requests_per_s:.2f} requests/s",
    ]
    for name, figures in (
        ("TTFT", summary.ttft_s),
        ("ITL", summary.itl_s),
        ("TPOT", summary.tpot_s),
        ("E2EL", summary.e2el_s),
    ):
        shown = "  ".join(f"{cut} {1000 * value:10.1f}" for cut, value in figures.items())
        lines.append(f"{name:5} ms  {shown}")
    return "\n".join(lines)
