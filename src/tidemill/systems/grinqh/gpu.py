"""A graded matrix on a CUDA device, and its product as Triton kernels.

    device = DeviceMatrix(GradedMatrix.quantise(weight))   # MissingCapability without CUDA
    y = device.apply(x, selector.within(x[None], 2.5)[0])  # numpy in, numpy out

Levels are chosen on the host. ``TRITON_INTERPRET=1`` with ``device="cpu"`` runs the same kernel in
Triton's interpreter, for tests: its speed means nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import InputError
from tidemill.native.device import torch_for
from tidemill.systems.grinqh.codebook import LEVELS, U8, Codebook
from tidemill.systems.grinqh.graded_matrix import HALF, GradedMatrix, folded

F32 = NDArray[np.float32]


class DeviceMatrix:
    """The planes of ``matrix`` on ``device``.

    Args:
        matrix: It is copied.
        device: ``"cuda"``, ``"cuda:1"``, … or ``"cpu"`` in Triton's interpreter.

    Raises:
        ConfigError: ``device`` is neither.
        MissingCapability: torch, Triton or the device is not there.
    """

    def __init__(self, matrix: GradedMatrix, device: str = "cuda") -> None:
        torch_for(device, instead="NativeMatrix")
        self.rows, self.cols, self._device = matrix.rows, matrix.cols, device
        self._halves = -(-matrix.rows // HALF)
        none = np.zeros(1, np.uint8)
        self._planes = [
            self._sent(plane if (plane := matrix.planes.get(level, none)).size else none)
            for level in LEVELS
        ]
        self._stored = {0, *matrix.planes}
        self._row_scale = self._sent(matrix.row_scale.astype(np.float32))
        self._col_scale = matrix.col_scale.astype(np.float32)
        self._values = {
            level: self._sent(stored_values(matrix.codebook, level)) for level in LEVELS
        }
        counts = np.diff(matrix.outlier_start.astype(np.int64))
        self._owner = np.repeat(np.arange(matrix.cols), counts)
        self._outlier_rows = self._sent(matrix.outlier_rows.astype(np.int64))
        self._outliers = matrix.outlier_values.astype(np.float32)
        self._edges = {level: matrix.codebook.values[level] for level in LEVELS}

    def apply(self, x: F32, levels: U8) -> F32:
        """Y (m,) of x (n,), column j read at levels[j].

        Raises:
            InputError: Lengths do not fit, or a level is not stored.
        """
        if x.shape != (self.cols,) or levels.shape != (self.cols,):
            raise InputError(f"x, levels — {x.shape}, {levels.shape}, must be {(self.cols,)} each.")
        if not set(np.unique(levels).tolist()) <= self._stored:
            raise InputError(f"levels — must be of {sorted(self._stored)}.")
        from tidemill.systems.grinqh import triton_kernels

        scaled = (x * self._col_scale).astype(np.float32)
        y: Any = self._sent(np.zeros(self._halves * HALF, np.float32))
        for planes, level in enumerate(LEVELS, 1):
            columns = np.flatnonzero(levels == level)
            if len(columns):
                kernel: Any = getattr(triton_kernels, "add_columns")  # noqa: B009 - untyped
                kernel[(self._halves,)](
                    *self._planes,
                    self._sent(columns.astype(np.int32)),
                    self._sent(scaled[columns]),
                    self._values[level],
                    y,
                    len(columns),
                    self._halves,
                    PLANES=planes,
                )
        y.index_add_(0, self._outlier_rows, self._sent(self._corrections(scaled, levels)))
        found: F32 = (y[: self.rows] * self._row_scale).cpu().numpy()
        return found

    def _corrections(self, scaled: F32, levels: U8) -> F32:
        """What an outlier adds to the last code on its side, which its column's sum has of it."""
        edge = np.zeros(len(self._outliers), np.float32)
        at = levels[self._owner]
        for level, values in self._edges.items():
            here = at == level
            edge[here] = np.where(self._outliers[here] > 0, values[-1], values[0])
        return np.where(at > 0, scaled[self._owner] * (self._outliers - edge), 0).astype(np.float32)

    def _sent(self, array: NDArray[Any]) -> Any:
        import torch

        sent: Any = torch.from_numpy(np.ascontiguousarray(array))  # pyright: ignore
        return sent.to(self._device)


def stored_values(codebook: Codebook, level: int) -> F32:
    """Values of ``level`` by code as stored: the first plane's two bits are the lowest."""
    stored = np.arange(1 << level)
    code = (stored & 3) << 4 | (stored >> 2 & 1) << 3 | (stored >> 3 & 1) << 2 | stored >> 4
    return codebook.values[level][folded(code.astype(np.uint8)) >> (LEVELS[-1] - level)]
