"""Devices that Triton kernels run on: CUDA, or Triton's interpreter on a CPU, for tests."""

from __future__ import annotations

import os
from importlib.util import find_spec
from types import ModuleType

from tidemill.errors import ConfigError, MissingCapability


def torch_for(device: str, *, instead: str) -> ModuleType:
    """Torch, once ``device`` is known to run kernels.

    Args:
        device: ``"cuda"``, ``"cuda:1"``, … or ``"cpu"`` with ``TRITON_INTERPRET=1``.
        instead: What does the same on a CPU, for the message.

    Raises:
        ConfigError: ``device`` is neither.
        MissingCapability: torch, Triton or the device is not there.
    """
    kind = device.split(":", maxsplit=1)[0]
    if kind not in ("cuda", "cpu"):
        raise ConfigError.of("device", device, "cuda, cuda:N, or cpu in Triton's interpreter")
    if missing := [name for name in ("torch", "triton") if find_spec(name) is None]:
        raise MissingCapability(
            f"device={device!r} — needs PyTorch and Triton; {' and '.join(missing)} "
            f"is not installed: pip install {' '.join(missing)}"
        )
    import torch

    if kind == "cuda" and not torch.cuda.is_available():
        raise MissingCapability(
            f"device={device!r} — PyTorch {torch.__version__} sees no CUDA device; use {instead}."
        )
    if kind == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise MissingCapability(
            "device='cpu' — Triton runs on a CPU only in its interpreter; set TRITON_INTERPRET=1 "
            f"to test kernels, or use {instead}, which is made for the CPU."
        )
    return torch
