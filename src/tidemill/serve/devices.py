"""Devices and models that a simulation can name; all figures are the makers' own, and modelled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.serve.block_pool import BlockPool
from tidemill.serve.clock import SimClock
from tidemill.serve.cost import CostModel, Roofline
from tidemill.serve.executor import SimExecutor
from tidemill.serve.measured_steps import MeasuredSteps
from tidemill.serve.scheduler import Scheduler, SchedulerConfig
from tidemill.serve.traces import Arrival

REACHED = 0.6
"""Share of a peak that steps are taken to reach, of computing and of reading alike."""
LAUNCH_S = 0.002
"""Seconds of a step beside its kernels."""


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator, from its data sheet: dense bf16, and memory."""

    flops: float
    bandwidth: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a step of a model costs."""

    parameters: float
    kv_bytes: float
    """Of a token, in bf16."""
    pair_flops: float
    """Of attention, for a token and one that it attends to: layers x heads x head size x 4."""


DEVICES = {
    "a100": Device(312e12, 2.04e12, 80e9),
    "h100": Device(989e12, 3.35e12, 80e9),
    "h200": Device(989e12, 4.8e12, 141e9),
}
SHAPES = {
    "qwen2.5-0.5b": ModelShape(0.494e9, 2 * 24 * 2 * 64 * 2, 4 * 24 * 14 * 64),
    "llama3-8b": ModelShape(8.03e9, 2 * 32 * 8 * 128 * 2, 4 * 32 * 32 * 128),
    "llama3-70b": ModelShape(70.6e9, 2 * 80 * 8 * 128 * 2, 4 * 80 * 64 * 128),
}
_NAME = re.compile(r"(?P<device>[a-z0-9]+?)(?:x(?P<count>[1-9]\d?))?")


def roofline(name: str, shape_name: str) -> tuple[Roofline, int]:
    """Steps of a model on ``h100x8``, split evenly, and the tokens its KV cache holds there.

    Raises:
        ConfigError: there is no such device or model, or the model does not fit.
    """
    match = _NAME.fullmatch(name)
    device = DEVICES.get(match["device"]) if match else None
    if match is None or device is None:
        known = ", ".join(sorted(DEVICES))
        raise ConfigError.of("simulate", name, f"a device ({known}) and a count, as h100x8")
    shape = SHAPES.get(shape_name)
    if shape is None:
        raise ConfigError.of("shape", shape_name, f"one of {', '.join(sorted(SHAPES))}")
    count = int(match["count"] or 1)
    room = 0.9 * count * device.memory_bytes - 2 * shape.parameters
    if room < shape.kv_bytes * 4096:
        raise ConfigError.of("simulate", name, f"more devices: {shape_name} does not fit")
    cost = Roofline(
        flops=REACHED * count * device.flops,
        bandwidth=REACHED * count * device.bandwidth,
        weights=shape.parameters,
        weight_bytes=2 * shape.parameters,
        kv_bytes=shape.kv_bytes,
        launch_s=LAUNCH_S,
        pair_flops=shape.pair_flops,
    )
    return cost, int(room / shape.kv_bytes)


def simulated_device(
    name: str, shape_name: str, arrivals: Sequence[Arrival], *, max_num_seqs: int
) -> tuple[Scheduler, SimExecutor, SimClock]:
    """A scheduler on a device that is simulated, with room for all ``arrivals`` to wait.

    ``name`` is a device and a count, or a JSON file that ``tidemill calibrate`` wrote.

    Raises:
        ConfigError: as ``roofline``.
        CorruptFile: the file is no table of step times.
    """
    if name.endswith(".json"):
        cost: CostModel = (table := MeasuredSteps.load(Path(name)))
        kv_tokens, batched = table.kv_tokens, table.max_num_batched_tokens
        max_num_seqs = min(max_num_seqs, table.max_num_seqs)
    else:
        cost, kv_tokens = roofline(name, shape_name)
        batched = 2048
    longest = max(item.prompt_tokens + item.output_tokens for item in arrivals)
    config = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max(batched, max_num_seqs),
        max_model_len=longest + 1,
        max_queue=len(arrivals),
        prefix_caching=False,
    )
    clock = SimClock()
    return Scheduler(config, BlockPool(kv_tokens // 32)), SimExecutor(cost, clock), clock
