"""The Triton kernel, in Triton's interpreter, against torch on the unpacked tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.systems.blockgtq.tiny_models import statistics

from tidemill.errors import ConfigError, MissingCapability
from tidemill.systems.blockgtq import Calibration
from tidemill.systems.blockgtq.gpu import DeviceTiles

ROOT = Path(__file__).parents[3]
CHECK = Path(__file__).with_name("gpu_check.py")


@pytest.mark.parametrize(
    "packed",
    ["compact 64 3 3", "paper 64 4 2", "uniform 16 7 8", "compact 48 5 1"],
)
def test_the_interpreted_kernel_attends_as_torch_does_to_the_unpacked_tokens(packed: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-P", str(CHECK), *packed.split()],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_is_named() -> None:
    head = Calibration((statistics(),), (0,), "t").plan(3, 3).heads[0][0]
    tiles = np.zeros(head.codec.tile_bytes, np.uint8)
    with pytest.raises(ConfigError, match="device='tpu'"):
        DeviceTiles(head, tiles, 3, device="tpu")
    with pytest.raises(MissingCapability, match="device='cpu'"):
        DeviceTiles(head, tiles, 3, device="cpu")
