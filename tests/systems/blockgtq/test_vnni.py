"""One instruction for four products gives the integers that three give."""

from __future__ import annotations

import numpy as np
import pytest
from tests.systems.blockgtq.tiny_models import layer, statistics

from tidemill.native import available_levels, kernels
from tidemill.systems.blockgtq import Calibration, PackedStore


@pytest.mark.skipif("avx2" not in available_levels(), reason="this CPU has no AVX2")
@pytest.mark.parametrize("k_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("groups", [1, 3, 7])
def test_attention_is_the_same_with_and_without_vnni(k_bits: int, groups: int) -> None:
    plan = Calibration((statistics(),), (0,), "tiny").plan(k_bits, k_bits)
    _, keys, values = layer(tokens=75, seed=k_bits)
    store = PackedStore(plan.heads[0])
    store.append(keys[None], values[None])
    shape = (1, groups * keys.shape[0], 1, keys.shape[-1])
    queries = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    room, found = kernels("models", "avx2"), []
    for wanted in (True, False):
        before = room.set_vnni(wanted)
        found.append(store.attend(queries, 0.2))
        room.set_vnni(before)
    assert np.array_equal(*found)
    assert np.isfinite(found[0]).all()
