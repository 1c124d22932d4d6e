"""Haar-random rotations, the same on every machine: no BLAS, whose order of sums differs."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def rotation(dim: int, seed: int) -> NDArray[np.float64]:
    """A random rotation, dim x dim, determinant +1, uniform over all; read-only.

    Gram–Schmidt over the columns of a seeded Gaussian matrix, with sums in a fixed order: the
    positive diagonal that makes QR's Q uniform comes for free. O(dim³), cached.
    """
    left = np.random.default_rng(seed).standard_normal((dim, dim))
    for j in range(dim):
        left[:, j] /= np.sqrt(_sum(left[:, j] ** 2))
        shares = _sum(left[:, j : j + 1] * left[:, j + 1 :])
        left[:, j + 1 :] -= left[:, j : j + 1] * shares
    if _is_reflection(left):
        left[:, 0] = -left[:, 0]
    left.flags.writeable = False
    return left


def _sum(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Down the first axis, in order."""
    return np.add.accumulate(terms, axis=0)[-1]


def _is_reflection(matrix: NDArray[np.float64]) -> bool:
    return bool(np.linalg.det(matrix) < 0)
