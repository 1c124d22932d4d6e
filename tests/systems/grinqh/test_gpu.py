"""The Triton kernel, in Triton's interpreter, against the dequantised matrix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import ConfigError, MissingCapability
from tidemill.systems.grinqh import GradedMatrix
from tidemill.systems.grinqh.gpu import DeviceMatrix

CHECK = Path(__file__).with_name("gpu_check.py")


@pytest.mark.parametrize("rows", [60, 256, 300])
def test_the_interpreted_kernel_multiplies_as_the_dequantised_matrix(rows: int) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(CHECK), str(rows)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_device_that_is_not_there_is_named() -> None:
    matrix = GradedMatrix.quantise(np.ones((4, 4), np.float32))
    with pytest.raises(ConfigError, match="device='tpu'"):
        DeviceMatrix(matrix, "tpu")
    with pytest.raises(MissingCapability, match="device='cpu'"):
        DeviceMatrix(matrix, "cpu")
