"""The mean key at decode time: polynomials of slow blocks against cosines in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from tests.systems.blockgtq.tiny_models import layer

from tidemill.native import available_levels
from tidemill.native import kernels as native_kernels
from tidemill.systems.blockgtq import Calibration, LayerStatistics, kernels

BASES = (1e4, 1e5, 1e6)
ERROR = 2.0**-16
"""Of a block's amplitude; see waves.hpp."""


def codec_of(dim: int, base: float, mean: np.ndarray, level: str) -> kernels.Codec:
    frequencies = base ** (-np.arange(dim // 2) / (dim // 2))
    queries, keys, values = layer(dim=dim, tokens=64)
    source = LayerStatistics.of(queries, keys + mean, values, frequencies)
    head = Calibration((source,), (0,), "t").plan(3, 3).heads[0][0]
    object.__setattr__(head, "mean", tuple(mean.tolist()))
    return head.native(frequencies, level)


def exact(query: np.ndarray, mean: np.ndarray, base: float, positions: np.ndarray) -> np.ndarray:
    half = len(mean) // 2
    angles = np.outer(positions, base ** (-np.arange(half) / half))
    x, y, one, two = mean[:half], mean[half:], query[:half], query[half:]
    return np.cos(angles) @ (one * x + two * y) + np.sin(angles) @ (two * x - one * y)


@pytest.mark.parametrize("level", available_levels())
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dim", [16, 64, 256])
def test_the_mean_adds_what_its_turning_blocks_do(dim: int, base: float, level: str) -> None:
    draw = np.random.default_rng(dim)
    mean, query = draw.standard_normal((2, dim)).astype(np.float32)
    mean[[1, 1 + dim // 2]] = 0  # a block that carries nothing
    codec, native = codec_of(dim, base, mean, level), native_kernels("blockgtq", level)
    half = dim // 2
    amplitude = np.hypot(mean[:half], mean[half:]) @ np.hypot(query[:half], query[half:])
    for start in (0, 5, 262_144):
        out = np.empty(32 * 500, np.float32)
        native.mean_scores(codec, query, out, start)
        wanted = exact(query.astype(float), mean.astype(float), base, start + np.arange(len(out)))
        assert np.abs(out - wanted).max() < 1.5 * ERROR * amplitude


@pytest.mark.parametrize("level", available_levels())
def test_a_mean_of_slow_blocks_alone_or_of_fast_ones_alone_is_added(level: str) -> None:
    for blocks in (range(1), range(3), range(20, 32), range(31, 32)):
        mean, query = np.zeros(64, np.float32), np.ones(64, np.float32)
        mean[[*blocks]] = 2
        codec, out = codec_of(64, 1e6, mean, level), np.empty(320, np.float32)
        native_kernels("blockgtq", level).mean_scores(codec, query, out, 77)
        wanted = exact(query.astype(float), mean.astype(float), 1e6, 77 + np.arange(320))
        assert np.abs(out - wanted).max() < 3 * ERROR * len(blocks)
