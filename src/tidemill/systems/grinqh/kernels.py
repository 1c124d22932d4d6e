"""The native sub-module as Python sees it: threads, selection, and a matrix on huge pages."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill import native
from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS, U8
from tidemill.systems.grinqh.graded_matrix import GROUP, GradedMatrix
from tidemill.systems.grinqh.selection import ALL, budget_of, costs, slopes

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


class Selector:
    """Chooses levels for the channels of matrices that share an input, token by token.

    Args:
        norm2: (n,) squared norms of the columns, of all those matrices together.
        levels: What a channel may be read at, from 0.
        level: A native level (`tidemill.native.LEVELS`).
        threads: They share the tokens; one of its own if None.
    """

    def __init__(
        self,
        norm2: F32,
        levels: tuple[int, ...] = ALL,
        level: str | None = None,
        threads: Threads | None = None,
    ) -> None:
        self.channels, self.top = len(norm2), levels[-1]
        self._threads = (threads or Threads(1, level)).native
        self._native = _kernels(level).Selector(
            np.ascontiguousarray(norm2, np.float32),
            np.array(levels[1:], np.uint8),
            np.array(costs(levels), np.uint32),
            slopes(levels),
        )

    def within(self, x: F32, bits: float, block: int = 1) -> U8:
        """As `selection.by_budget` for each row of inputs (tokens, n); (tokens, n) levels.

        Raises:
            ConfigError: ``bits`` or ``block`` is out of range.
            InputError: An input is NaN or infinite.
        """
        self._check(block)
        levels = np.empty(x.shape, np.uint8)
        budget = budget_of(bits, self.channels // block, self.top)
        return self._checked(self._native.within(x, budget, block, levels, self._threads), levels)

    def above(self, x: F32, water: float, block: int = 1) -> U8:
        """As `selection.by_threshold` for each row of inputs (tokens, n); (tokens, n) levels.

        Raises:
            ConfigError: ``block`` is out of range.
            InputError: An input is NaN or infinite.
        """
        self._check(block)
        levels = np.empty(x.shape, np.uint8)
        return self._checked(self._native.above(x, water, block, levels, self._threads), levels)

    def _check(self, block: int) -> None:
        if block < 1 or self.channels % block:
            raise ConfigError.of("block", block, f"a divisor of the {self.channels} channels")

    def _checked(self, is_finite: bool, levels: U8) -> U8:
        if not is_finite:
            raise InputError("activations — some are NaN or infinite, must be finite.")
        return levels


class NativeMatrix:
    """A copy of a `GradedMatrix` for products with one token at a time.

    The planes live on huge pages; equal inputs give equal outputs for any number of threads.
    """

    def __init__(self, matrix: GradedMatrix, level: str | None = None) -> None:
        """Copy ``matrix``; ``level`` is a native level (`tidemill.native.LEVELS`)."""
        self.rows, self.cols = matrix.rows, matrix.cols
        none = np.empty(0, np.uint8)
        self.native = _kernels(level).Matrix(
            *(array.astype(np.float32) for array in (matrix.row_scale, matrix.col_scale)),
            *(matrix.planes.get(width, none).reshape(-1) for width in LEVELS),
            matrix.outlier_start,
            matrix.outlier_rows.astype(np.uint32),
            matrix.outlier_values.view(np.uint16),
            np.concatenate([matrix.codebook.values[width] for width in LEVELS]),
        )

    def apply(self, x: F32, levels: U8, threads: Threads) -> F32:
        """Y (…, m): the products of inputs (…, n), each column read at its level for that token.

        Raises:
            ValueError: Lengths do not fit, or a level is not stored.
        """
        flat = x.reshape(-1, x.shape[-1])
        y = np.empty((len(flat), self.rows), np.float32)
        self.native.apply(flat, levels.reshape(flat.shape), y, threads.native)
        return y.reshape(*x.shape[:-1], self.rows)

    def plane(self, level: int) -> U8:
        """The plane that ``level`` adds, (n, bytes), as the kernel reads it; no copy."""
        return cast("U8", self.native.plane(LEVELS.index(level)))

    def tile(self, level: int, groups: range, threads: Threads, out: F32 | None = None) -> F32:
        """The outputs of some groups of 256 at ``level``, dequantised, transposed: (n, outputs).

        Args:
            level: One that is stored.
            groups: Which groups of outputs.
            threads: They share the columns.
            out: Memory of at least so many floats, flat; taken anew if None.

        Raises:
            ValueError: There is no such level or group.
        """
        outputs = min(groups.stop * GROUP, self.rows) - groups.start * GROUP
        if out is None:
            out = np.empty(self.cols * outputs, np.float32)
        view = out[: self.cols * outputs].reshape(self.cols, outputs)
        self.native.dequantise(level, groups.start, groups.stop, view, threads.native)
        return view
