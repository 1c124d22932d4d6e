"""The LLM server's core: requests, one scheduler for the real loop and the simulator, executors.

    scheduler = Scheduler(SchedulerConfig(), BlockPool(1024))
    core = EngineCore(scheduler, DecoderExecutor(decoder), tokenizer)
    core.add(Request("1", ids), deliver)
    while core.scheduler.busy:
        core.step()

Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.lazy_names import lazy_names

if TYPE_CHECKING:
    from tidemill.serve.block_pool import BlockPool
    from tidemill.serve.clock import MonotonicClock, SimClock
    from tidemill.serve.cost import Roofline, StepShape
    from tidemill.serve.decoder_executor import DecoderExecutor
    from tidemill.serve.engine import EngineCore
    from tidemill.serve.engine_thread import EngineThread
    from tidemill.serve.events import EventLog
    from tidemill.serve.executor import Executor, SimExecutor
    from tidemill.serve.measured_steps import MeasuredSteps
    from tidemill.serve.scheduler import Policies, Scheduler, SchedulerConfig
    from tidemill.serve.simulation import simulate
    from tidemill.serve.types import Request

_HOMES = {
    "BlockPool": "block_pool",
    "DecoderExecutor": "decoder_executor",
    "EngineCore": "engine",
    "EngineThread": "engine_thread",
    "EventLog": "events",
    "Executor": "executor",
    "MeasuredSteps": "measured_steps",
    "MonotonicClock": "clock",
    "Policies": "scheduler",
    "Request": "types",
    "Roofline": "cost",
    "Scheduler": "scheduler",
    "SchedulerConfig": "scheduler",
    "SimClock": "clock",
    "SimExecutor": "executor",
    "StepShape": "cost",
    "simulate": "simulation",
}

__all__ = [
    "BlockPool",
    "DecoderExecutor",
    "EngineCore",
    "EngineThread",
    "EventLog",
    "Executor",
    "MeasuredSteps",
    "MonotonicClock",
    "Policies",
    "Request",
    "Roofline",
    "Scheduler",
    "SchedulerConfig",
    "SimClock",
    "SimExecutor",
    "StepShape",
    "simulate",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
