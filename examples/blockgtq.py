"""Pack one real layer's keys and values at three bits, and attend to them without unpacking."""

import numpy as np

from tidemill.systems.blockgtq import Calibration, PackedStore
from tidemill.systems.blockgtq.workloads import captured

train, test = captured("train"), captured("test")  # a layer of Qwen2.5-Coder-0.5B, WikiText-2
calibration = Calibration((train.statistics(),), windows=(0,), fingerprint="one layer")

keys, values = test.repeated(4096)  # keys after RoPE at positions 0-4095
queries = test.queries[None, :, 100:101]
scale = test.keys.shape[-1] ** -0.5

logits = queries[0, :, 0] @ keys[0].T * scale
weights = np.exp(logits - logits.max(axis=1, keepdims=True))
exact = (weights / weights.sum(axis=1, keepdims=True)) @ values[0]

for mode, peel in (("uniform", False), ("paper", False), ("compact", True)):
    plan = calibration.plan(k_bits=3, v_bits=3, mode=mode, mean_peel=peel)
    store = PackedStore(plan.heads[0])
    store.append(keys[None], values[None])
    out = store.attend(queries, scale, threads=2)[0, :, 0]
    error = np.linalg.norm(out - exact) / np.linalg.norm(exact)
    smaller = 4 * keys.size / store.nbytes
    bits = plan.bits_per_number
    print(f"{mode:8} {bits:.2f} bits, {smaller:.1f}x less than fp16, error {error:.3f}")
