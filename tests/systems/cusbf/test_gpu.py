"""The Triton kernels, in Triton's interpreter, against the CPU's: same bits, same answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import ConfigError, MissingCapability
from tidemill.systems.cusbf import SuperBloom
from tidemill.systems.cusbf.gpu import DeviceBloom, pack_dense

CHECK = Path(__file__).with_name("gpu_check.py")


@pytest.mark.parametrize(
    "settings",
    [
        "{}",
        "{'canonical': False}",
        "{'k': 32, 's': 32, 'm': 16, 'hashes': 8}",
        "{'k': 21, 's': 17, 'm': 11, 'hashes': 16, 'seed': 7}",
        "{'k': 31, 's': 28, 'm': 20, 'hashes': 12}",
        "{'k': 9, 's': 9, 'm': 9, 'hashes': 4}",
    ],
)
def test_the_interpreted_kernels_set_and_find_the_same_bits(settings: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(CHECK), settings],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("k", [1, 31, 32])
def test_dense_packing_holds_every_base_and_knows_the_windows(k: int) -> None:
    text = b"ACGTNacgu" * 15
    words, valid = pack_dense(np.frombuffer(text, dtype=np.uint8), k)
    for i, letter in enumerate(text):
        assert int(words[i // 32]) >> (2 * (i % 32)) & 3 == letter >> 1 & 3
    assert int(words[-1]) == 0
    assert valid.tolist() == [int(b"N" not in text[i : i + k]) for i in range(len(text) - k + 1)]


def test_a_device_that_is_not_there_is_named() -> None:
    bloom = SuperBloom(1 << 16)
    with pytest.raises(ConfigError, match="device='tpu'"):
        DeviceBloom(bloom, "tpu")
    with pytest.raises(MissingCapability, match=r"cuda|torch"):
        DeviceBloom(bloom, "cuda:99" if _has_cuda() else "cuda")


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
