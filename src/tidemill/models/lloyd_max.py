"""Scalar codebooks that leave the least mean squared error: Lloyd–Max, solved to convergence.

A coordinate of a random unit vector in D dimensions has density ∝ (1−x²)^((D−3)/2), the *sphere
marginal*; N(0, 1/D) is its limit, which the paper uses for every D. Plain Lloyd iterations crawl at
8 bits (twice the distortion after 400 of them), so that Newton steps finish what they begin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError

Floats = NDArray[np.float64]
MAX_BITS = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


class Marginal(StrEnum):
    """What a rotated coordinate is taken to be distributed as."""

    GAUSSIAN = "gaussian"
    """N(0, 1/D), as in the paper."""
    SPHERE = "sphere"
    """The exact marginal of the unit sphere, which matters in groups of few dimensions."""


@cache
def codebook(bits: int, dim: int, marginal: Marginal) -> tuple[float, ...]:
    """The 2^bits centroids of one coordinate of a unit vector in ``dim`` dimensions, rising.

    Raises:
        ConfigError: ``bits`` not in 1-8, or fewer than two dimensions.
    """
    _check(bits, dim)
    if marginal is Marginal.GAUSSIAN:
        return tuple((np.array(_gaussian(bits)) / math.sqrt(dim)).tolist())
    return tuple(np.sin(_solve(_start(bits, dim), _sphere_cells(dim), np.sin)).tolist())


@cache
def distortion(bits: int, dim: int, marginal: Marginal) -> float:
    """Mean squared error of a coordinate over its variance, when it is as ``marginal`` says."""
    _check(bits, dim)
    if marginal is Marginal.GAUSSIAN:
        centroids = np.array(_gaussian(bits))
        mass, first = _gaussian_cells(_between(centroids))
        return float(1 - 2 * (first * centroids).sum() + (mass * centroids**2).sum())
    centroids = np.array(codebook(bits, dim, marginal))
    edges = np.arcsin(_between(centroids))
    mass, first = _sphere_cells(dim)(edges)
    scale = dim / mass.sum()
    return float(1 - scale * (2 * (first * centroids).sum() - (mass * centroids**2).sum()))


def _check(bits: int, dim: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ConfigError.of("bits", bits, f"in 1-{MAX_BITS}", "codes are at most a byte")
    if dim < 2:
        raise ConfigError.of("dim", dim, "at least 2", "a RoPE block has two dimensions")


Cells = Callable[[Floats], tuple[Floats, Floats]]
"""Edges between the cells → probability mass and first moment of each cell."""


@cache
def _gaussian(bits: int) -> tuple[float, ...]:
    # quantiles of N(0, 3): the optimal point density is the cube root of the density
    grid = np.linspace(-12, 12, 200_001)
    mass = np.cumsum(np.exp(-(grid**2) / 6))
    wanted = (np.arange(1 << bits) + 0.5) / (1 << bits)
    start = np.interp(wanted, mass / mass[-1], grid)
    return tuple(_solve(start, _gaussian_cells, lambda x: x).tolist())


def _gaussian_cells(edges: Floats) -> tuple[Floats, Floats]:
    inner = np.array([math.erfc(abs(x) / math.sqrt(2)) / 2 for x in edges])
    below = np.concatenate(([0.0], np.where(edges < 0, inner, 1 - inner), [1.0]))
    above = np.concatenate(([1.0], np.where(edges < 0, 1 - inner, inner), [0.0]))
    # of two differences of nearly equal numbers take the one of small numbers
    mass = np.where(below[:-1] < 0.5, np.diff(below), -np.diff(above))
    density = np.concatenate(([0.0], np.exp(-(edges**2) / 2), [0.0])) / math.sqrt(2 * math.pi)
    return mass, -np.diff(density)


def _start(bits: int, dim: int) -> Floats:
    """Angles φ with x = sin φ; the sphere marginal is cos^(D−2) φ dφ, smooth for every D ≥ 2.

    The optimal point density is the cube root of the density of x: (1−x²)^((D−3)/6) dx.
    """
    grid = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    mass = np.cumsum(np.clip(np.cos(grid), 1e-12, None) ** (dim / 3))
    wanted = (np.arange(1 << bits) + 0.5) / (1 << bits)
    return np.interp(wanted, mass / mass[-1], grid)


def _sphere_cells(dim: int) -> Cells:
    def cells(edges: Floats) -> tuple[Floats, Floats]:
        ends = np.concatenate(([-math.pi / 2], edges, [math.pi / 2]))
        reach = min(math.pi / 2, 12 / math.sqrt(dim))  # beyond it lies less than 1e-30
        ends = np.clip(ends, -reach, reach)
        middle, half = (ends[1:] + ends[:-1]) / 2, np.diff(ends) / 2
        angles = middle[:, None] + half[:, None] * _NODES
        density = np.cos(angles) ** (dim - 2) * _WEIGHTS * half[:, None]
        return density.sum(axis=1), (density * np.sin(angles)).sum(axis=1)

    return cells


def _between(centroids: Floats) -> Floats:
    return (centroids[1:] + centroids[:-1]) / 2


def _solve(start: Floats, cells: Cells, value: Callable[[Floats], Floats]) -> Floats:
    """Where every centroid is the mean of its cell; ``start`` and result in the cells' coordinate.

    The fixed point of Lloyd's map; its Jacobian is tridiagonal, got by differences of three probes.
    """
    is_angle = value is np.sin

    def lloyd(points: Floats) -> Floats:
        edges = _between(points)
        mass, first = cells(np.arcsin(edges) if is_angle else edges)
        means = first / mass
        return (means - means[::-1]) / 2  # symmetric, and kept so

    points = value(start)
    points = (points - points[::-1]) / 2
    for _ in range(20):
        points = lloyd(points)
    for _ in range(30):
        residual = lloyd(points) - points
        if np.abs(residual).max() < 1e-13:
            break
        step = np.linalg.solve(_jacobian(lloyd, points, residual), -residual)
        moved = points + step
        points = moved if (np.diff(moved) > 0).all() and abs(moved[-1]) < 40 else lloyd(points)
    return np.arcsin(points) if is_angle else points


def _jacobian(lloyd: Callable[[Floats], Floats], points: Floats, residual: Floats) -> Floats:
    """Of ``lloyd(points) − points``: column j touches rows j−1 to j+1, and their mirror images."""
    size = len(points)
    if size <= 8:
        return _dense_jacobian(lloyd, points, residual)
    matrix = np.zeros((size, size))
    h = 1e-7 * (points[-1] - points[0]) / size
    for phase in range(3):
        columns = np.array([j for j in range(size // 2) if j % 3 == phase])
        probe = points.copy()
        probe[columns] += h
        probe[size - 1 - columns] -= h
        change = (lloyd(probe) - probe - residual) / h
        for j in columns:
            rows = np.arange(max(0, j - 1), min(size // 2, j + 2))
            matrix[rows, j] = change[rows]
    half = matrix[: size // 2, : size // 2]
    matrix[size // 2 :, size // 2 :] = half[::-1, ::-1]
    return matrix


def _dense_jacobian(lloyd: Callable[[Floats], Floats], points: Floats, residual: Floats) -> Floats:
    size, h = len(points), 1e-7
    half = size // 2
    matrix = np.zeros((size, size))
    for j in range(half):
        probe = points.copy()
        probe[j] += h
        probe[size - 1 - j] -= h
        matrix[:half, j] = ((lloyd(probe) - probe - residual) / h)[:half]
    matrix[half:, half:] = matrix[:half, :half][::-1, ::-1]
    return matrix
