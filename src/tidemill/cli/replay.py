"""``tidemill replay``: the arrivals of a trace on servers, or on a simulated device."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.bench.atomic import check_writable
from tidemill.cli.language_model import AsJson, print_json, told

if TYPE_CHECKING:
    from tidemill.serve.events import EventLog
    from tidemill.serve.traces import Arrival


@dataclass(frozen=True, slots=True)
class _Run:
    """A trace that was replayed once."""

    name: str
    status: str
    """measured, modelled, or recorded earlier."""
    speed: float
    rate: float
    """Requests per second that were sent."""
    log: EventLog

    def goodput(self, ttft_s: float, tpot_s: float) -> float:
        """Requests per second that were served within both."""
        return self.rate * self.log.goodput(ttft_s, tpot_s)


Trace = Annotated[
    Path | None, typer.Argument(help="Azure or BurstGPT CSV, or JSON lines; none: random arrivals.")
]
Urls = Annotated[
    list[str] | None,
    typer.Option(help="A server; repeated, each in turn.  [default: http://127.0.0.1:8000]"),
]
ServedName = Annotated[str | None, typer.Option(help="What the server calls its model.")]
Words = Annotated[
    bool, typer.Option("--words", help="Prompts are words, for servers that take no ids.")
]
Simulate = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="No server: a device, as h100x8, or a file of `calibrate`."
    ),
]
Shape = Annotated[str, typer.Option(help="The model that is simulated.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many requests.")]
Speeds = Annotated[
    list[float] | None,
    typer.Option(help="So many times as fast as recorded; repeated, each in turn."),
]
Cut = Annotated[int, typer.Option(help="Longer requests are cut to this.")]
Rate = Annotated[float, typer.Option(help="Random arrivals per second.")]
Burstiness = Annotated[float, typer.Option(help="1: Poisson; smaller: burstier.")]
Seed = Annotated[int, typer.Option(help="Of the random arrivals.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Simulated: run at once.")]
Against = Annotated[
    list[Path] | None, typer.Option(help="Events that --save wrote, beside the new ones.")
]
GoodTtft = Annotated[float, typer.Option(help="Seconds that goodput allows.")]
GoodTpot = Annotated[float, typer.Option(help="Likewise, per token after the first.")]
Plot = Annotated[
    Path | None, typer.Option(help="Draw TTFT, ITL and goodput: FILE.svg or FILE.png.")
]
Save = Annotated[
    Path | None, typer.Option(help="Write the raw events of the first run as JSON lines.")
]


def replay(  # noqa: PLR0913 - one parameter per option
    trace: Trace = None,
    *,
    url: Urls = None,
    model: ServedName = None,
    words: Words = False,
    simulate: Simulate = None,
    shape: Shape = "llama3-8b",
    limit: Limit = None,
    speed: Speeds = None,
    context: Cut = 4096,
    rate: Rate = 1.0,
    burstiness: Burstiness = 1.0,
    seed: Seed = 0,
    max_num_seqs: AtOnce = 256,
    against: Against = None,
    good_ttft: GoodTtft = 2.0,
    good_tpot: GoodTpot = 0.1,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
) -> None:
    """Send requests when the trace says, whatever became of the others, and say how they fared.

    The same scheduler serves and is simulated; figures of a simulation are modelled.
    """
    from tidemill.serve.replay_plots import check_picture
    from tidemill.serve.traces import Bursts, fitted, read_trace

    for path in (plot, save):
        check_writable(path)
    if plot is not None:
        check_picture(plot)
    earlier = [_recorded(path) for path in against or ()]
    bursts = Bursts(rate, limit or 100, burstiness, seed=seed)
    recorded = bursts.arrivals() if trace is None else read_trace(trace)
    runs: list[_Run] = []
    for each in speed or [1.0]:
        arrivals = fitted(recorded, limit=limit, speed=each, context=context)
        if simulate is not None:
            log = _simulated(arrivals, simulate, shape, max_num_seqs)
            runs.append(_Run(Path(simulate).stem, "modelled", each, _rate(log), log))
            continue
        for place in url or ["http://127.0.0.1:8000"]:
            log = _sent(arrivals, place, model, words=words, quiet=as_json)
            runs.append(_Run(place.split("//")[-1], "measured", each, _rate(log), log))
    if save is not None:
        runs[0].log.save(save)
    _tell([*runs, *earlier], good_ttft, good_tpot, as_json=as_json)
    if plot is not None:
        _draw([*runs, *earlier], good_ttft, good_tpot, plot)


def _recorded(path: Path) -> _Run:
    from tidemill.serve.events import EventLog

    log = EventLog.load(path)
    return _Run(path.stem, "recorded", 1.0, _rate(log), log)


def _rate(log: EventLog) -> float:
    last = max((item.arrival_s for item in log), default=0.0)
    return (len(log) - 1) / last if last > 0 else 0.0


def _sent(
    arrivals: list[Arrival], url: str, model: str | None, *, words: bool, quiet: bool
) -> EventLog:
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
    generator = LoadGenerator(url, name, in_words=words)
    with told(f"replay on {url}", quiet=quiet) as progress:
        return asyncio.run(
            generator.run(arrivals, lambda done: progress.advance(done, len(arrivals), "requests"))
        )


def _simulated(arrivals: list[Arrival], device: str, shape: str, max_num_seqs: int) -> EventLog:
    from tidemill.serve.devices import simulated_device
    from tidemill.serve.simulation import simulate
    from tidemill.serve.traces import requests_of

    made = simulated_device(device, shape, arrivals, max_num_seqs=max_num_seqs)
    return simulate(*made, requests_of(arrivals))


def _tell(runs: list[_Run], ttft_s: float, tpot_s: float, *, as_json: bool) -> None:
    if not as_json:
        typer.echo("\n\n".join(_shown(run, ttft_s, tpot_s) for run in runs))
        return
    rows = [
        {
            "name": run.name,
            "status": run.status,
            "speed": run.speed,
            "sent_per_s": run.rate,
            "goodput_per_s": run.goodput(ttft_s, tpot_s),
            **asdict(run.log.summary()),
        }
        for run in runs
    ]
    print_json({"good_ttft_s": ttft_s, "good_tpot_s": tpot_s, "runs": rows})


def _shown(run: _Run, ttft_s: float, tpot_s: float) -> str:
    summary = run.log.summary()
    lines = [
        f"{_title(run)}: {summary.served} of {summary.requests} served, {summary.refused} refused, "
        f"{summary.failed} failed in {summary.duration_s:.1f} s ({run.status})",
        f"{summary.output_tokens_per_s:.1f} output tokens/s, "
        f"{summary.requests_per_s:.2f} requests/s, "
        f"{run.goodput(ttft_s, tpot_s):.2f} within {ttft_s:g} s and {tpot_s:g} s a token",
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


def _title(run: _Run) -> str:
    return run.name if run.speed == 1 else f"{run.name} x{run.speed:g}"


def _draw(runs: list[_Run], ttft_s: float, tpot_s: float, path: Path) -> None:
    """Latencies of all runs; goodput over load where a side was run at several."""
    from tidemill.serve.replay_plots import draw, goodput_chart, latency_chart, with_goodput

    chart = latency_chart({f"{_title(run)}, {run.status}": run.log for run in runs})
    points: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        points.setdefault(run.name, []).append((run.rate, run.goodput(ttft_s, tpot_s)))
    curves = {name: each for name, each in points.items() if len(each) > 1}
    if curves:
        limits = f"{ttft_s:g} s and {tpot_s:g} s a token"
        chart = with_goodput(chart, goodput_chart(curves, limits))
    draw(chart, path)
