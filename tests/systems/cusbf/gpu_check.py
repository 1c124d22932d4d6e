"""Run by test_gpu.py with TRITON_INTERPRET=1, which must be set before Triton is imported."""

from __future__ import annotations

import ast
import sys

import numpy as np

from tidemill.systems.cusbf import SuperBloom
from tidemill.systems.cusbf.gpu import DeviceBloom

settings = ast.literal_eval(sys.argv[1])
random = np.random.default_rng(5)
text = random.choice(np.frombuffer(b"ACGTacgtN", dtype=np.uint8), 900, p=[0.124] * 8 + [0.008])
first, other = text[:500], text[430:]
host = SuperBloom(1 << 14, **settings)
host.insert(first[:77])
device = DeviceBloom(host, device="cpu")
kmers = device.insert(first)
assert kmers == host.insert(first).kmers
assert np.array_equal(device.to_host().words, host.words), "bits differ"
assert device.to_host().inserted_kmers == host.inserted_kmers
assert np.array_equal(device.contains(other), host.contains(other)), "answers differ"
assert host.contains(other).any()
assert device.contains(b"ACG"[: host.k - 1]).shape == (0,)
assert device.insert(b"") == 0
