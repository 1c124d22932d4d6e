"""Finds the tides in a noisy signal."""

from typing import Any

import numpy as np


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``samples`` samples of three waves and noise."""
    rng = np.random.default_rng(request["seed"])
    count = request["samples"]
    t = np.array(range(count), np.float64)
    periods = rng.choice(np.arange(20, 400), 3, replace=False)
    waves = [np.sin(2 * np.pi * t / float(period)) for period in periods]
    signal = np.array(sum(waves) + rng.normal(0, 0.5, count), np.float64)
    power = np.abs(np.fft.rfft(signal)) ** 2
    peaks = np.argsort(power[1:])[-3:] + 1
    again = np.fft.irfft(np.fft.rfft(signal), count)
    return {
        "periods": sorted(round(count / int(p), 1) for p in peaks),
        "exact": bool(np.allclose(again, signal)),
    }
