"""What is promised of the server against ``llama_cpp.server``, and how each promise is measured.

Both serve the same file as processes of their own with as many threads, and get the same requests
over HTTP from the same open-loop generator, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tidemill.bench.claim import Direction, Json, Measurement
from tidemill.bench.compare import Comparison, Timing
from tidemill.bench.promise import Promise, Recorder
from tidemill.bench.trial import Progress
from tidemill.serve import load_points, serve_laws, sim_bench
from tidemill.serve.events import EventLog
from tidemill.serve.load_generator import LoadGenerator, serve_all
from tidemill.serve.server_process import RunningServer, llama_command, our_command, running
from tidemill.serve.traces import Arrival

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile

OURS, PEER = "tidemill", "llama_cpp.server"
CONTEXT = 4096
MAX_QUEUE = 2000

_LEAST, _MOST = Direction.AT_LEAST, Direction.AT_MOST
PROMISES = (
    Promise("stream", "tokens/s of one stream over HTTP, times as many", "x", _LEAST, 1.2,
            "streams"),
    Promise("streams", "tokens/s of 8 streams over HTTP, times as many", "x", _LEAST, 1.8,
            "streams"),
    Promise("load-ttft", "p99 TTFT, times as long, at the worst load up to saturation", "x", _MOST,
            1, "load"),
    Promise("load-itl", "p99 ITL, times as long, at the worst load up to saturation", "x", _MOST,
            1, "load"),
    Promise("idle-ttft", "TTFT of a one-token prompt on an idle server, in steps", "", _MOST, 2,
            "idle"),
    Promise("prefix", "of a 2,000-token chat computed again for its second turn", "%", _MOST, 5,
            "prefix"),
    Promise("flood", "of 1,000 texts for 200 clients at once lost, doubled or altered", "", _MOST,
            0, "flood"),
    Promise("flood-memory", "memory that the flood adds to the server", "MiB", _MOST, 200,
            "flood"),
    Promise("simulation", "mean and P90 of TTFT and ITL, simulated, are off by at most", "%", _MOST,
            15, "simulation"),
    Promise("simulation-order", "requests whose first token comes in another order", "", _MOST, 0,
            "simulation"),
    Promise("simulation-cpu", "the same, the clock being one thread's CPU time", "%", _MOST, 15,
            "simulation"),
    Promise("simulation-order-cpu", "requests in another order, likewise", "", _MOST, 0,
            "simulation"),
    Promise("hour", "to simulate an hour of 8 H100s", "s", _MOST, 60, "hour"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; the defaults are what the promises speak of."""

    repeats: int = 7
    prompt: int = 64
    tokens: int = 48
    loads: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Shares of what our server can do."""
    load_requests: int = 20
    load_rounds: int = 2
    idle_requests: int = 20
    clients: int = 200
    flood_requests: int = 1000
    replayed: int = 60
    replays: int = 3
    hour_s: float = 3600.0


QUICK = Sizes(
    repeats=5, tokens=24, loads=(0.5, 1.0), load_requests=12, load_rounds=1, idle_requests=8,
    flood_requests=200, replayed=16, replays=1, hour_s=600.0,
)  # fmt: skip


@dataclass(slots=True)
class Bench:
    """The file, how both sides serve it, and how much is measured."""

    file: ModelFile
    threads: int
    sizes: Sizes
    progress: Progress
    batched_tokens: int = 8
    """Tokens of a step of ours while prompts are read."""
    trace: Path | None = None
    """Arrivals of the simulated hour; by default random ones."""
    flash_attention: bool | None = None
    """Of the peer; None: the faster of both, tried once."""
    tried: dict[str, float] = field(default_factory=dict[str, float])

    def measure(self, part: str, *, command: str) -> dict[str, Json]:
        """The figures of one part by promise, with what they were measured on."""
        self.progress.stage(part)
        recorder = Recorder(command)
        return recorder.entries(PROMISES, _PARTS[part](self))

    @contextmanager
    def ours(self, *more: str) -> Generator[RunningServer]:
        """Our server."""
        command = our_command(
            str(self.file.path), threads=self.threads, context=CONTEXT, max_queue=MAX_QUEUE,
            more=("--max-num-batched-tokens", str(self.batched_tokens), *more),
        )  # fmt: skip
        with running(command) as server:
            yield server

    @contextmanager
    def both(self) -> Generator[dict[str, LoadGenerator]]:
        """Generators for both servers, which have answered once."""
        with ExitStack() as stack:
            peer = stack.enter_context(running(self._peer_command(self._chosen())))
            ours = stack.enter_context(self.ours())
            sides = {
                name: LoadGenerator(server.url, server.name, in_words=True)
                for name, server in ((OURS, ours), (PEER, peer))
            }
            for side in sides.values():
                serve_all(side, [Arrival(0, self.sizes.prompt, 4)])
            yield sides

    def settings(self) -> dict[str, Json]:
        """Of both sides, as stored."""
        return {
            "threads": self.threads,
            "context": CONTEXT,
            "max_num_batched_tokens": self.batched_tokens,
            "peer_flash_attention": self.flash_attention,
            "peer_tried_tokens_per_s": cast("Json", self.tried),
        }

    def _peer_command(self, flash_attention: bool) -> list[str]:
        return llama_command(
            self.file.path, threads=self.threads, context=CONTEXT, flash_attention=flash_attention
        )

    def _chosen(self) -> bool:
        """The setting with which the peer is faster, from one request each."""
        if self.flash_attention is None:
            for setting in (False, True):
                with running(self._peer_command(setting)) as server:
                    side = LoadGenerator(server.url, server.name, in_words=True)
                    arrivals = [Arrival(0, self.sizes.prompt, self.sizes.tokens)]
                    serve_all(side, arrivals)
                    seconds = min(
                        per_token_s(serve_all(side, arrivals), arrivals) for _ in range(2)
                    )
                    self.tried[f"flash attention {'on' if setting else 'off'}"] = 1 / seconds
            self.flash_attention = max(self.tried, key=self.tried.__getitem__).endswith("on")
        return self.flash_attention


def parts() -> tuple[str, ...]:
    """What can be measured, in the order that it is."""
    return tuple(_PARTS)


def per_token_s(log: EventLog, arrivals: Sequence[Arrival]) -> float:
    """Seconds of a run for each token that came of it.

    A text that ended at its limit has as many tokens as were asked, also where several came at
    once; one that the model ended has as many as came.
    """
    tokens = sum(
        arrival.output_tokens if item.finish_reason == "length" else len(item.token_s)
        for item, arrival in zip(log, arrivals, strict=True)
    )
    return log.summary().duration_s / tokens


def _streams(bench: Bench) -> list[Measurement]:
    """All at once, until the last token of the last one has come."""
    found: list[Measurement] = []
    sizes = bench.sizes
    with bench.both() as sides:
        for claim, streams in (("stream", 1), ("streams", 8)):
            arrivals = [Arrival(0, sizes.prompt, sizes.tokens)] * streams
            tokens = float(streams * sizes.tokens)
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(sizes.repeats):
                for name in sorted(sides, reverse=turn % 2 == 0):
                    seconds[name].append(
                        tokens * per_token_s(serve_all(sides[name], arrivals), arrivals)
                    )
                bench.progress.advance(turn + 1, sizes.repeats, f"runs of {streams}")
            comparison = Comparison(
                tuple(Timing(name, tokens, tuple(seconds[name]), unit="tokens/s") for name in sides)
            )
            measured = comparison.measurement(claim, PEER)
            measured.detail.update(
                tokens_per_s=comparison.rate(OURS).median,
                peer_tokens_per_s=comparison.rate(PEER).median,
                settings=cast("Json", bench.settings()),
                prompt=sizes.prompt,
            )
            found.append(measured)
    return found


def _load(bench: Bench) -> list[Measurement]:
    sizes = bench.sizes
    with bench.both() as sides:
        burst = [Arrival(0, sizes.prompt, sizes.tokens)] * 16
        capacity = serve_all(sides[OURS], burst).summary().requests_per_s
        points = [
            load_points.measure_point(
                {name: _sender(side) for name, side in sides.items()},
                load_points.LoadPoint(share, share * capacity),
                sizes,
                bench.progress,
            )
            for share in sizes.loads
        ]
    return load_points.figures(points, OURS, PEER, bench.settings())


def _sender(side: LoadGenerator) -> Callable[[Sequence[Arrival]], EventLog]:
    return lambda arrivals: serve_all(side, arrivals)


def _idle(bench: Bench) -> list[Measurement]:
    with bench.ours() as server:
        return serve_laws.idle(server, bench.sizes.idle_requests)


def _prefix(bench: Bench) -> list[Measurement]:
    with bench.ours() as server:
        return serve_laws.prefix(server)


def _flood(bench: Bench) -> list[Measurement]:
    with bench.ours() as server:
        sizes = bench.sizes
        return serve_laws.flood(
            server, clients=sizes.clients, requests=sizes.flood_requests, progress=bench.progress
        )


def _simulation(bench: Bench) -> list[Measurement]:
    sizes = bench.sizes
    return sim_bench.against_reality(
        bench.file, bench.threads, requests=sizes.replayed, replays=sizes.replays,
        progress=bench.progress,
    )  # fmt: skip


def _hour(bench: Bench) -> list[Measurement]:
    return sim_bench.hour(bench.trace, bench.sizes.hour_s)


_PARTS: Mapping[str, Callable[[Bench], list[Measurement]]] = {
    "streams": _streams,
    "load": _load,
    "idle": _idle,
    "prefix": _prefix,
    "flood": _flood,
    "simulation": _simulation,
    "hour": _hour,
}
