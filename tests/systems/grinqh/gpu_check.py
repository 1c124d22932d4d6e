"""Run by test_gpu.py with TRITON_INTERPRET=1, which must be set before Triton is imported."""

from __future__ import annotations

import sys

import numpy as np

from tidemill.systems.grinqh import GradedMatrix
from tidemill.systems.grinqh.codebook import LEVELS
from tidemill.systems.grinqh.gpu import DeviceMatrix

rows = int(sys.argv[1])
draw = np.random.default_rng(rows)
weight = (draw.standard_normal((rows, 24)) * np.exp(draw.standard_normal(24))).astype(np.float32)
weight[rows // 2, 3] *= 40
matrix = GradedMatrix.quantise(weight)
device = DeviceMatrix(matrix, device="cpu")
x = draw.standard_normal(24).astype(np.float32)
levels = draw.choice(np.array([0, *LEVELS], np.uint8), 24)
dense = np.zeros_like(weight)
for level in LEVELS:
    dense[:, levels == level] = matrix.dequantise(level)[:, levels == level]
np.testing.assert_allclose(device.apply(x, levels), dense @ x, rtol=1e-4, atol=1e-4)
assert not device.apply(x, np.zeros(24, np.uint8)).any()
