"""Multiplies two matrices."""

from typing import Any

import numpy as np


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``size`` x ``size`` float64."""
    rng = np.random.default_rng(request["seed"])
    a, b = rng.standard_normal((2, request["size"], request["size"]))
    product = a @ b
    return {
        "trace": round(float(np.trace(product)), 6),
        "norm": round(float(np.linalg.norm(product)), 6),
    }
