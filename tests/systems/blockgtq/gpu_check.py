"""Run by test_gpu.py with TRITON_INTERPRET=1, which must be set before Triton is imported."""

from __future__ import annotations

import sys

import numpy as np
import torch
from tests.systems.blockgtq.tiny_models import layer, statistics

from tidemill.systems.blockgtq import Calibration, PackedStore
from tidemill.systems.blockgtq.gpu import DeviceTiles

mode, dim, k_bits, v_bits = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
tokens, group = 170, 3
calibration = Calibration((statistics(dim=dim),), (0,), "t")
head = calibration.plan(k_bits, v_bits, mode).heads[0][0]
queries, keys, values = layer(heads=1, group=group, tokens=tokens, dim=dim, seed=9)
store = PackedStore([head])
store.append(keys[None], values[None])
k, v = (torch.from_numpy(x[0]) for x in store.read())
q = torch.from_numpy(queries[:, -1])
scale = 0.2 / dim
wanted = torch.softmax(q @ k[0].T * scale, dim=-1) @ v[0]
tiles = np.asarray(store.state()[1][2], np.uint8)
device = DeviceTiles(head, tiles, tokens, device="cpu")
for splits in (1, 4):
    found = device.attend(queries[:, -1], scale, splits=splits)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-3, atol=2e-3)
