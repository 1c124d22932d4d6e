"""Prometheus metrics, named as vLLM's with the prefix ``tidemill:``."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tidemill.serve.engine import EngineCore
from tidemill.serve.types import Output

_TTFT = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITL = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_E2E = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(slots=True)
class _Times:
    arrival: float
    last: float


class Metrics:
    """Counts what the engine tells, in the engine's thread; read from any."""

    def __init__(self, core: EngineCore, model: str) -> None:
        self.registry = CollectorRegistry()
        self._core = core
        self._label = {"model_name": model}
        self._times: dict[str, _Times] = {}
        self._preemptions = self._policy_errors = 0
        self._make_gauges()
        self._make_counters()
        self._ttft = self._histogram("time_to_first_token_seconds", "To the first token.", _TTFT)
        self._itl = self._histogram("inter_token_latency_seconds", "Token to token.", _ITL)
        self._e2e = self._histogram("e2e_request_latency_seconds", "To the end.", _E2E)
        core.on_arrival, core.on_output = self.arrived, self.output

    def arrived(self, request_id: str, now: float) -> None:
        """A request was taken."""
        self._times[request_id] = _Times(now, now)

    def output(self, output: Output, now: float) -> None:
        """Something is new of a request."""
        times = self._times.get(output.request_id)
        if times is None:
            return
        if output.token_ids:
            first = output.usage.completion_tokens == len(output.token_ids)
            histogram = self._ttft if first else self._itl
            histogram.labels(**self._label).observe(now - times.last)
            times.last = now
            self._generated.labels(**self._label).inc(len(output.token_ids))
        if output.finish_reason is not None:
            del self._times[output.request_id]
            reason = output.finish_reason.value
            self._ended.labels(**self._label, finished_reason=reason).inc()
            self._prompts.labels(**self._label).inc(output.usage.prompt_tokens)
            self._cached.labels(**self._label).inc(output.usage.cached_tokens)
            self._e2e.labels(**self._label).observe(now - times.arrival)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        scheduler = self._core.scheduler
        before, self._preemptions = self._preemptions, scheduler.preemptions
        self._preempted.labels(**self._label).inc(scheduler.preemptions - before)
        before, self._policy_errors = self._policy_errors, scheduler.policy_errors
        self._overruled.labels(**self._label).inc(scheduler.policy_errors - before)
        return generate_latest(self.registry)

    def _make_gauges(self) -> None:
        scheduler = self._core.scheduler
        gauges = {
            "num_requests_running": ("Requests that run.", lambda: len(scheduler.running)),
            "num_requests_waiting": ("Requests that wait.", lambda: len(scheduler.waiting)),
            "kv_cache_usage_perc": (
                "Share of the KV cache's blocks that requests hold, from 0 to 1.",
                lambda: scheduler.pool.held / scheduler.pool.capacity,
            ),
        }
        for name, (text, value) in gauges.items():
            gauge = Gauge(f"tidemill:{name}", text, ["model_name"], registry=self.registry)
            gauge.labels(**self._label).set_function(value)

    def _make_counters(self) -> None:
        self._prompts = self._counter("prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("prefix_cache_hits", "Of them, that were in the cache.")
        self._generated = self._counter("generation_tokens", "Tokens generated.")
        self._preempted = self._counter("num_preemptions", "Requests computed again.")
        self._overruled = self._counter("policy_errors", "Decisions of policies overruled.")
        self._ended = self._counter("request_success", "Requests that ended.", "finished_reason")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"tidemill:{name}", text, ["model_name", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"tidemill:{name}", text, ["model_name"], buckets=buckets, registry=self.registry
        )
