"""Prometheus metrics, named as vLLM's with the prefix ``tidemill:``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tidemill.serve.async_engine import AsyncEngine, EngineState
from tidemill.serve.messages import Batch, Delta, Load

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITL = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_E2E = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LABELS = ("model_name", "engine")


@dataclass(slots=True)
class _Times:
    arrival: float
    last: float


class Metrics:
    """Counts what engines tell, in the event loop's thread."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        self._running = self._gauge("num_requests_running", "Requests that run.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait.")
        self._kv_usage = self._gauge(
            "kv_cache_usage_perc", "Share of the KV cache's blocks that requests hold, 0 to 1."
        )
        self._up = self._gauge("engine_up", "Whether the engine takes requests, 0 or 1.")
        self._restarts = self._counter("engine_restarts", "Times it was started again.")
        self._limited = Counter(
            "tidemill:requests_limited",
            "Refused by a limit of a key.",
            ["model_name", "limit"],
            registry=self.registry,
        )
        self._engines: dict[int, _Engine] = {}
        self._told_restarts: dict[int, int] = {}
        self._make_engine_metrics()

    def engine(self, index: int) -> Callable[[Batch, float], None]:
        """Who is to be told of the batches of an engine."""
        label = {"model_name": self._model, "engine": str(index)}
        engine = self._engines[index] = _Engine(self, label)
        return engine.take

    def limited(self, limit: str) -> None:
        """A request was refused because of a limit of its key."""
        self._limited.labels(self._model, limit).inc()

    def text(self, engines: Sequence[AsyncEngine]) -> bytes:
        """All of it, as Prometheus reads it."""
        for index, engine in enumerate(engines):
            label = (self._model, str(index))
            self._up.labels(*label).set(engine.state is EngineState.READY)
            before = self._told_restarts.get(index, 0)
            self._restarts.labels(*label).inc(engine.restarts - before)
            self._told_restarts[index] = engine.restarts
        return generate_latest(self.registry)

    def load(self, label: dict[str, str], load: Load, before: Load) -> None:
        """How an engine stands, and stood before."""
        self._running.labels(**label).set(load.running)
        self._waiting.labels(**label).set(load.waiting)
        self._kv_usage.labels(**label).set(load.kv_usage)
        self._preempted.labels(**label).inc(max(0, load.preemptions - before.preemptions))
        self._overruled.labels(**label).inc(max(0, load.policy_errors - before.policy_errors))

    def tokens(self, label: dict[str, str], delta: Delta, times: _Times, now: float) -> None:
        """Tokens of a text."""
        count = len(delta.token_ids)
        gaps = count
        if delta.usage.completion_tokens == count:
            self._ttft.labels(**label).observe(now - times.last)
            times.last, gaps = now, count - 1
        for _ in range(gaps):
            self._itl.labels(**label).observe((now - times.last) / gaps)
        times.last = now
        self._generated.labels(**label).inc(count)

    def end(self, label: dict[str, str], delta: Delta, seconds: float) -> None:
        """The end of a text."""
        assert delta.finish_reason is not None, "it has not ended"
        self._ended.labels(**label, finished_reason=delta.finish_reason.value).inc()
        self._prompts.labels(**label).inc(delta.usage.prompt_tokens)
        self._cached.labels(**label).inc(delta.usage.cached_tokens)
        self._e2e.labels(**label).observe(seconds)

    def _make_engine_metrics(self) -> None:
        self._prompts = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("prefix_cache_hits", "Of them, that were in the cache.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._preempted = self._counter("num_preemptions", "Requests computed again.")
        self._overruled = self._counter("policy_errors", "Decisions of policies overruled.")
        self._ended = self._counter("request_success", "Requests that ended.", "finished_reason")
        self._ttft = self._histogram("time_to_first_token_seconds", "To the first token.", _TTFT)
        self._itl = self._histogram("inter_token_latency_seconds", "Token to token.", _ITL)
        self._e2e = self._histogram("e2e_request_latency_seconds", "To the end.", _E2E)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"tidemill:{name}", text, _LABELS, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tidemill:{name}", text, [*_LABELS, *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"tidemill:{name}", text, _LABELS, buckets=buckets, registry=self.registry)


class _Engine:
    """The batches of one engine, and of all that follow it in its place."""

    def __init__(self, metrics: Metrics, label: dict[str, str]) -> None:
        self._metrics, self._label = metrics, label
        self._load = Load()
        self._times: dict[str, _Times] = {}
        metrics.load(label, self._load, self._load)

    def take(self, batch: Batch, now: float) -> None:
        for name, refusal in batch.answers.items():
            if refusal is None:
                self._times[name] = _Times(now, now)
        for name, delta in batch.deltas.items():
            times = self._times.get(name)
            if times is None:
                continue
            if delta.token_ids:
                self._metrics.tokens(self._label, delta, times, now)
            if delta.finish_reason is not None:
                del self._times[name]
                self._metrics.end(self._label, delta, now - times.arrival)
        self._metrics.load(self._label, batch.load, self._load)
        self._load = batch.load
