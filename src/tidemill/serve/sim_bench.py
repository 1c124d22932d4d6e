"""What is promised of the simulator: how near it is to the engine, and how fast."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, cast

import numpy as np

from tidemill.bench.claim import Json, Measurement, StandIn, Status
from tidemill.bench.trial import Progress
from tidemill.models.native_decoder import NativeDecoder
from tidemill.serve.calibration import Engine, measure_steps
from tidemill.serve.clock import SimClock
from tidemill.serve.decoder_executor import DecoderExecutor
from tidemill.serve.devices import simulated_device
from tidemill.serve.events import EventLog
from tidemill.serve.executor import SimExecutor
from tidemill.serve.live_replay import TimedExecutor, replay_live
from tidemill.serve.measured_steps import MeasuredSteps
from tidemill.serve.simulation import simulate
from tidemill.serve.traces import Arrival, Bursts, fitted, read_trace, requests_of

if TYPE_CHECKING:
    from tidemill.models.model_file import ModelFile

CONTEXT, PROMPT, OUTPUT = 512, 96, 32
LOAD = 0.7
"""Of what the engine can do."""
DEVICE, SHAPE, RATE = "h100x8", "llama3-70b", 5.5
"""The rate is that of Azure's conversation trace."""


def against_reality(
    file: ModelFile, threads: int, *, requests: int, replays: int, progress: Progress
) -> list[Measurement]:
    """The same random arrivals on the engine and on a simulation of its steps.

    Steps are timed beforehand, in a run of their own: once on the wall clock, and once with one
    thread on a clock of its CPU time, which does not care who else uses the machine.
    """
    found: list[Measurement] = []
    for suffix, workers, timer, replayed in (
        ("", threads, perf_counter, _live),
        ("-cpu", 1, thread_time, _on_cpu_time),
    ):
        decoder = NativeDecoder(file, threads=workers, context=2 * CONTEXT, kv_tokens=16 * CONTEXT)
        engine = Engine(decoder, file.tokenizer)
        cost = measure_steps(engine, repeats=2 + replays, progress=progress, timer=timer)
        runs: list[tuple[EventLog, EventLog]] = []
        for seed in range(replays):
            arrivals = _arrivals(engine, cost, requests, seed)
            runs.append((replayed(engine, arrivals), _simulated(engine, cost, arrivals)))
            progress.advance(seed + 1, replays, f"replays{suffix}")
        found += _figures(suffix, runs, cost)
    return found


def _figures(
    suffix: str, runs: Sequence[tuple[EventLog, EventLog]], cost: MeasuredSteps
) -> list[Measurement]:
    real, simulated = ([run[side] for run in runs] for side in (0, 1))
    figures = {
        name: (_figure(real, name), _figure(simulated, name))
        for name in ("TTFT mean", "TTFT p90", "ITL mean", "ITL p90")
    }
    off = {name: 100 * abs(ours / seen - 1) for name, (seen, ours) in figures.items()}
    swapped = sum(_order_differs(a, b) for a, b in runs)
    detail: dict[str, Json] = {
        "off_percent": cast("Json", off),
        "seconds_real_and_simulated": {name: list(pair) for name, pair in figures.items()},
        "requests": sum(len(log) for log in real),
        "steps": cast("Json", asdict(cost)),
    }
    worst = max(off.values())
    return [
        Measurement(
            claim=claim + suffix, value=value, low=value, high=value, repeats=len(runs),
            subject="simulation", baseline="engine", detail=detail,
        )
        for claim, value in (("simulation", worst), ("simulation-order", float(swapped)))
    ]  # fmt: skip


def hour(trace: Path | None, seconds: float) -> list[Measurement]:
    """Simulate so many seconds of arrivals on 8 H100s; what an hour takes at that."""
    recorded = (
        Bursts(RATE, int(RATE * seconds), prompt_tokens=1155, output_tokens=211).arrivals()
        if trace is None
        else [item for item in read_trace(trace) if item.arrival_s <= seconds]
    )
    arrivals = fitted(recorded, limit=None, speed=1.0, context=16_384)
    begin = perf_counter()
    scheduler, executor, clock = simulated_device(DEVICE, SHAPE, arrivals, max_num_seqs=256)
    log = simulate(scheduler, executor, clock, requests_of(arrivals))
    took = perf_counter() - begin
    summary = log.summary()
    value = took * 3600 / summary.duration_s
    detail: dict[str, Json] = {
        "simulated_s": summary.duration_s,
        "took_s": took,
        "requests": summary.requests,
        "output_tokens": summary.output_tokens,
        "trace": trace.name if trace else f"random arrivals, {RATE} a second",
    }
    stand_in = StandIn("8 H100", Status.MODELLED, f"roofline of {DEVICE} with {SHAPE}")
    return [
        Measurement(
            claim="hour", value=value, low=value, high=value, repeats=1,
            subject="simulation", stand_ins=(stand_in,), detail=detail,
        )
    ]  # fmt: skip


def _arrivals(engine: Engine, cost: MeasuredSteps, count: int, seed: int) -> list[Arrival]:
    """Random ones at a share of what the simulated engine can do of them at once."""
    bursts = Bursts(1.0, count, prompt_tokens=PROMPT, output_tokens=OUTPUT, seed=seed)
    drawn = fitted(bursts.arrivals(), limit=None, speed=1.0, context=CONTEXT)
    at_once = [Arrival(0.0, item.prompt_tokens, item.output_tokens) for item in drawn]
    capacity = _simulated(engine, cost, at_once).summary().requests_per_s
    return fitted(drawn, limit=None, speed=LOAD * capacity, context=CONTEXT)


def _live(engine: Engine, arrivals: Sequence[Arrival]) -> EventLog:
    core = engine.core(max_queue=len(arrivals))
    return replay_live(core, requests_of(arrivals, vocab_size=engine.vocab_size))


def _on_cpu_time(engine: Engine, arrivals: Sequence[Arrival]) -> EventLog:
    clock = SimClock()
    return simulate(
        engine.scheduler(max_queue=len(arrivals)),
        TimedExecutor(DecoderExecutor(engine.decoder), clock),
        clock,
        requests_of(arrivals, vocab_size=engine.vocab_size),
    )


def _simulated(engine: Engine, cost: MeasuredSteps, arrivals: Sequence[Arrival]) -> EventLog:
    clock = SimClock()
    scheduler = engine.scheduler(max_queue=len(arrivals))
    requests = requests_of(arrivals, vocab_size=engine.vocab_size)  # equal ones would be cached
    return simulate(scheduler, SimExecutor(cost, clock), clock, requests)


def _figure(logs: Sequence[EventLog], name: str) -> float:
    of, kind = name.split()
    raw = (
        [item.ttft_s or 0.0 for log in logs for item in log]
        if of == "TTFT"
        else [gap for log in logs for item in log for gap in item.itl_s]
    )
    return float(np.mean(raw) if kind == "mean" else np.percentile(raw, 90))


def _order_differs(real: EventLog, simulated: EventLog) -> int:
    """Requests that do not stand where they stand in the other, by when their first token came."""
    orders = (
        [item.id for item in sorted(log, key=lambda item: (item.token_s[0], int(item.id)))]
        for log in (real, simulated)
    )
    return sum(itertools.starmap(str.__ne__, zip(*orders, strict=True)))
