"""Blurs, turns, shrinks and grades a picture."""

import hashlib
from typing import Any

import numpy as np


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """A noisy gradient of ``size`` x ``size`` pixels with three channels."""
    rng = np.random.default_rng(request["seed"])
    size = request["size"]
    ramp = np.linspace(0, 255, size)
    picture = np.stack(
        [ramp[:, None] + ramp, np.tile(ramp, (size, 1)), ramp[::-1, None] * np.ones(size)], 2
    )
    picture = np.clip(picture / 2 + rng.normal(0, 12, picture.shape), 0, 255)
    blurred = sum(np.roll(picture, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)) / 9
    turned = np.rot90(blurred)
    small = (
        turned[: size // 2 * 2, : size // 2 * 2].reshape(size // 2, 2, size // 2, 2, 3).mean((1, 3))
    )
    grey = (small @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    edges = np.abs(np.diff(grey.astype(np.int16), axis=1)) > 8
    return {
        "shape": list(grey.shape),
        "mean": round(float(grey.mean()), 2),
        "edges": int(edges.sum()),
        "sha256": hashlib.sha256(grey.tobytes()).hexdigest(),
    }
