"""The native sub-module as Python sees it, and `NativeMatrix`, a graded matrix on huge pages."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill import native
from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS, U8
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.selection import budget_of, slopes

F32 = NDArray[np.float32]


@cache
def _kernels(level: str | None) -> Any:
    return native.kernels("grinqh", level)


class Threads:
    """Threads that share the outputs of a product; the caller is one of them.

    Raises:
        ConfigError: ``count`` is not in 1-256.
    """

    def __init__(self, count: int = 1, level: str | None = None) -> None:
        if not 1 <= count <= 256:
            raise ConfigError.of("threads", count, "in 1-256")
        self.native = _kernels(level).Threads(count)


class NativeMatrix:
    """A copy of a `GradedMatrix` for products with one token at a time.

    The planes live on huge pages; equal inputs give equal outputs for any number of threads.
    """

    def __init__(self, matrix: GradedMatrix, level: str | None = None) -> None:
        """Copy ``matrix``; ``level`` is a native level (`tidemill.native.LEVELS`)."""
        self.rows, self.cols = matrix.rows, matrix.cols
        self._native = _kernels(level).Matrix(
            *(
                array.astype(np.float32)
                for array in (matrix.row_scale, matrix.col_scale, matrix.col_norm)
            ),
            *(matrix.planes[width].reshape(-1) for width in LEVELS),
            matrix.outlier_start,
            matrix.outlier_rows.astype(np.uint32),
            matrix.outlier_values.astype(np.float32),
            np.concatenate([matrix.codebook.values[width] for width in LEVELS]),
            slopes(),
        )

    def select(self, x: F32, bits: float, block: int = 1) -> U8:
        """As `selection.by_budget` of this input's energies, vectorised; (n,) levels.

        Raises:
            ConfigError: ``bits`` or ``block`` is out of range.
            InputError: An input is NaN or infinite.
        """
        if block < 1 or self.cols % block:
            raise ConfigError.of("block", block, f"a divisor of the {self.cols} channels")
        levels = np.empty(self.cols, np.uint8)
        if not self._native.select(x, budget_of(bits, self.cols // block), block, levels):
            raise InputError("activations — some are NaN or infinite, must be finite.")
        return levels

    def apply(self, x: F32, levels: U8, threads: Threads) -> F32:
        """Y (m,): the product with each column read at its level.

        Raises:
            ValueError: Lengths do not fit, or a level is none of 0, 2, 3, 4, 6.
        """
        y = np.empty(self.rows, np.float32)
        self._native.apply(x, levels, y, threads.native)
        return y
