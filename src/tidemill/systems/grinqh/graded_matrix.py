"""`GradedMatrix`: a weight matrix stored once, readable at 2, 3, 4 or 6 bits a weight per column.

    W[i, j] ≈ r[i] · s[j] · C_b[code[i, j] >> (6 - b)]      plus a few exact outliers

r is the root mean square of row i, s that of column j of W / r, both fp16. Codes lie column by
column in bit-planes: the first two bits, the third, the fourth, the last two. A column read at b
bits touches the planes up to b and no other byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError
from tidemill.systems.grinqh.codebook import LEVELS, OUTLIER, U8, Codebook, check_levels, gaussian

F16 = NDArray[np.float16]
F32 = NDArray[np.float32]
GROUP = 256
"""Outputs whose codes lie together: 64 bytes of a two-bit plane, 32 of a one-bit one."""
HALF = 128
"""The last group may be half a one; then its third and fourth bits share the third's bytes."""
PLANES = {2: (4, 2), 3: (3, 1), 4: (2, 1), 6: (0, 2)}
"""By level, where in a code the bits are that its plane adds, and how many."""
ONE_AT = (2, 3, 6, 7)
LAST_AT = (1, 0, 5, 4)
MOST_OUTLIERS = 0.05
MOST_COLUMNS = 65_535
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class GradedMatrix:
    """One quantised matrix of m outputs (rows) and n inputs (columns, the channels).

    Args:
        rows: m.
        cols: n.
        row_scale: (m,) fp16, r.
        col_scale: (n,) fp16, s.
        col_norm: (n,) fp16, the Euclidean norm of each column of W.
        planes: By level, (n, `plane_bytes`) bytes; levels above the top are not stored.
        outlier_start: (n + 1,) uint32, where each column's outliers begin.
        outlier_rows: uint16 below 65,536 rows, else uint32; ascending within a column.
        outlier_values: fp16, scaled weights N of the outliers.
        codebook: Values of all levels.
    """

    rows: int
    cols: int
    row_scale: F16
    col_scale: F16
    col_norm: F16
    planes: dict[int, U8]
    outlier_start: NDArray[np.uint32]
    outlier_rows: NDArray[np.unsignedinteger]
    outlier_values: F16
    codebook: Codebook

    @classmethod
    def quantise(
        cls,
        weight: F32,
        name: str = "matrix",
        outlier: float = OUTLIER,
        levels: tuple[int, ...] = (0, *LEVELS),
    ) -> GradedMatrix:
        """Quantise a matrix (m, n); O(m n). Planes above the last of ``levels`` are left out.

        Raises:
            InputError: It is empty, not finite, or more than 5 % of it are outliers.
            ConfigError: ``outlier`` is not in [2, 8], or ``levels`` do not ascend from 0.
        """
        check_levels(levels)
        if not 2.0 <= outlier <= 8.0:
            raise ConfigError.of("outlier", outlier, "in [2, 8]", "in standard deviations")
        check_weight(weight, name)
        row_scale, col_scale, scaled = two_sided(weight.astype(np.float32, copy=False))
        is_outlier = np.abs(scaled) > outlier
        share = float(is_outlier.mean())
        if share > MOST_OUTLIERS and weight.size > 4096:
            raise InputError(
                f"{name} — {share:.1%} of its weights are beyond {outlier} deviations, must be at "
                f"most {MOST_OUTLIERS:.0%}; the scale does not fit such a matrix: leave it out."
            )
        tree = gaussian()
        columns, rows = np.nonzero(is_outlier.T)
        counts = np.bincount(columns, minlength=weight.shape[1])
        values = scaled.T[columns, rows]
        norms = np.linalg.norm(weight.astype(np.float64), axis=0)
        return cls(
            rows=weight.shape[0],
            cols=weight.shape[1],
            row_scale=row_scale,
            col_scale=col_scale,
            col_norm=_half(norms),
            planes={
                level: plane
                for level, plane in pack(tree.encode(scaled)).items()
                if level <= levels[-1]
            },
            outlier_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
            outlier_rows=rows.astype(np.uint16 if weight.shape[0] <= 65536 else np.uint32),
            outlier_values=_half(values),
            codebook=tree,
        )

    @property
    def outliers(self) -> int:
        """How many weights are stored exactly."""
        return len(self.outlier_values)

    @property
    def top(self) -> int:
        """The widest level that is stored."""
        return max(self.planes)

    @property
    def outlier_bytes(self) -> int:
        """Bytes of one outlier: its row and its value."""
        return 2 + (2 if self.rows <= 65536 else 4)

    @property
    def overhead_bits(self) -> float:
        """Bits per weight of outliers and scales: stored on top of the codes."""
        scales = 16 * (self.rows + 2 * self.cols) + 32 * (self.cols + 1)
        return (8 * self.outlier_bytes * self.outliers + scales) / (self.rows * self.cols)

    @property
    def stored_bits(self) -> float:
        """Bits per weight of everything stored, padding included."""
        planes = 8 * sum(plane.size for plane in self.planes.values())
        return planes / (self.rows * self.cols) + self.overhead_bits

    def codes(self) -> U8:
        """Top-level codes (m, n)."""
        return unpack(self.planes, self.rows)

    def scaled(self, level: int) -> F32:
        """N at ``level``, outliers in place: (m, n); zeros at level 0.

        Raises:
            ConfigError: There is no such level.
        """
        if level == 0:
            return np.zeros((self.rows, self.cols), np.float32)
        if level not in self.planes:
            raise ConfigError.of("level", level, f"0 or one of {tuple(self.planes)}")
        found = self.codebook.decode(self.codes(), level)
        columns = np.repeat(np.arange(self.cols), np.diff(self.outlier_start.astype(np.int64)))
        found[self.outlier_rows, columns] = self.outlier_values
        return found

    def dequantise(self, level: int | None = None) -> F32:
        """The matrix (m, n) with all columns read at ``level``, by default the top."""
        level = self.top if level is None else level
        rows, cols = self.row_scale.astype(np.float32), self.col_scale.astype(np.float32)
        return self.scaled(level) * rows[:, None] * cols[None, :]


def check_weight(weight: F32, name: str) -> None:
    """Refuse what cannot be quantised.

    Raises:
        InputError: Not a matrix, empty, or not finite; the text names it.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise InputError(f"{name} — shape {weight.shape}, must be (outputs, inputs), none 0.")
    if weight.shape[1] > MOST_COLUMNS:
        raise InputError(
            f"{name} — {weight.shape[1]:,} inputs, must be at most {MOST_COLUMNS:,}; leave it out."
        )
    if not np.isfinite(weight).all():
        bad = int(np.size(weight) - np.isfinite(weight).sum())
        raise InputError(
            f"{name} — {bad} of its weights are NaN or infinite, must be finite; "
            "repair the checkpoint."
        )


def two_sided(weight: F32) -> tuple[F16, F16, F32]:
    """Row scales r, column scales s and N = W / (r sᵀ), of unit mean square; zeros stay zero."""
    row = _half(np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=1)))
    over_rows = weight / _divisor(row)[:, None]
    col = _half(np.sqrt(np.mean(np.square(over_rows, dtype=np.float64), axis=0)))
    scaled = over_rows / _divisor(col)[None, :]
    scaled[row == 0] = 0
    scaled[:, col == 0] = 0
    return row, col, np.ascontiguousarray(scaled, np.float32)


def _half(values: NDArray[np.floating]) -> F16:
    """Fp16, saturated; what is too small for it is its smallest number, not zero."""
    found = np.clip(values, -65504, 65504).astype(np.float16)
    tiny = (found == 0) & (np.abs(values) > _TINY)
    return np.where(tiny, np.float16(6e-8), found)


def _divisor(scale: F16) -> F32:
    return np.where(scale == 0, 1, scale).astype(np.float32)


def plane_bytes(level: int, rows: int) -> int:
    """Bytes of one column in the plane that ``level`` adds."""
    halves = -(-rows // HALF)
    return 32 * {2: halves, 3: (halves + 1) // 2, 4: halves // 2, 6: halves}[level]


def column_bytes(level: int, rows: int) -> int:
    """Bytes that a column read at ``level`` touches in all planes; 0 at level 0."""
    return sum(plane_bytes(each, rows) for each in LEVELS if each <= level)


def _is_half(rows: int) -> bool:
    return -(-rows // HALF) % 2 == 1


def pack(codes: U8) -> dict[int, U8]:
    """Bit-planes of top-level codes (m, n).

    Below the sign, the first four bits of a code are stored as a magnitude: flipped where the code
    is negative. In each group of 256 outputs, output 128 v + 32 f + lane has bits 2f, 2f+1 of byte
    32 v + lane of the first plane, bit `ONE_AT`[f] - 2 v of byte ``lane`` of a one-bit plane, and
    bits `LAST_AT`[f] and two higher of byte 32 v + lane of the last plane: so that few shifts put
    bits of many outputs in their places. In half a group, v = 0, the third bit's plane has the
    fourth's where v = 1 would be.
    """
    rows, cols = codes.shape
    padded = np.zeros((cols, -(-rows // GROUP) * GROUP), np.uint8)
    padded[:, :rows] = folded(codes).T
    lanes = padded.reshape(cols, -1, 2, 4, 32)
    planes: dict[int, U8] = {}
    for level, (shift, width) in PLANES.items():
        found = np.zeros((cols, lanes.shape[1], 2 if width == 2 else 1, 32), np.uint8)
        for v, f in product(range(2), range(4)):
            bits = (lanes[:, :, v, f] >> shift & ((1 << width) - 1)).astype(np.uint8)
            found[:, :, v % found.shape[2]] |= _spread(level, v, f, bits)
        planes[level] = found.reshape(cols, -1)
    if _is_half(rows):
        planes[3][:, -32:] |= planes[4][:, -32:] >> 2
    return {
        level: np.ascontiguousarray(plane[:, : plane_bytes(level, rows)])
        for level, plane in planes.items()
    }


def folded(codes: U8) -> U8:
    """Codes as sign, magnitude and last two bits, and those as codes: flips what is in between."""
    return (codes ^ np.where(codes < 32, 0b011100, 0)).astype(np.uint8)


def _spread(level: int, v: int, f: int, bits: U8) -> U8:
    """Bits of a field at their places in a byte."""
    found = bits << (2 * f if level == 2 else ONE_AT[f] - 2 * v)
    if level == 6:
        found = (bits & 1) << LAST_AT[f] | (bits >> 1) << (LAST_AT[f] + 2)
    return found.astype(np.uint8)


def _gathered(level: int, v: int, f: int, byte: U8) -> U8:
    """What `_spread` was given."""
    found = byte >> (2 * f) & 3 if level == 2 else byte >> (ONE_AT[f] - 2 * v) & 1
    if level == 6:
        found = (byte >> LAST_AT[f] & 1) | (byte >> (LAST_AT[f] + 2) & 1) << 1
    return found.astype(np.uint8)


def unpack(planes: dict[int, U8], rows: int) -> U8:
    """What `pack` was given; bits of planes that are not there are 0."""
    cols, groups = planes[2].shape[0], -(-rows // GROUP)
    total = np.zeros((cols, groups, 2, 4, 32), np.uint8)
    for level, plane in planes.items():
        shift, width = PLANES[level]
        whole = np.zeros((cols, groups * GROUP * width // 8), np.uint8)
        whole[:, : plane.shape[1]] = plane
        if level == 4 and _is_half(rows):
            whole[:, -32:] = planes[3][:, -32:] << 2
        byte = whole.reshape(cols, groups, -1, 32)
        for v, f in product(range(2), range(4)):
            bits = _gathered(level, v, f, byte[:, :, v % byte.shape[2]])
            total[:, :, v, f] |= bits << shift
    flat = folded(total.reshape(cols, -1))
    return np.ascontiguousarray(flat[:, :rows].T)
