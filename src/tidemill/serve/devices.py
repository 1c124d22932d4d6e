"""Devices and models that a simulation can name; all figures are the makers' own, and modelled."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidemill.errors import ConfigError
from tidemill.serve.cost import Roofline

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
