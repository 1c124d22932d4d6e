"""One run of the system: a real matrix graded, real tokens through it, error against bits."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from tidemill.bench import Context, Report, Table, Text
from tidemill.bench.claim import Json
from tidemill.bench.plots import Axis, Series, lines
from tidemill.systems.grinqh import workloads
from tidemill.systems.grinqh.baselines import round_to_nearest
from tidemill.systems.grinqh.calibration import Calibration, statistics_of
from tidemill.systems.grinqh.choice import Budget, Choice, Fixed, Shares, Threshold
from tidemill.systems.grinqh.codebook import LEVELS
from tidemill.systems.grinqh.config import GrinqhConfig
from tidemill.systems.grinqh.graded_matrix import GradedMatrix
from tidemill.systems.grinqh.kernels import F32, NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.reading import Reading
from tidemill.systems.grinqh.selection import Mode, by_budget, shares_for

_POINTS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
_TIMED = 15


class Bench:
    """The matrix and its inputs, and how far a way of reading it is from the exact product."""

    def __init__(self, config: GrinqhConfig, threads: int) -> None:
        sample = workloads.projection()
        self.config, self.weight = config, sample.weight
        self.matrix = GradedMatrix.quantise(sample.weight, "up of layer 12", config.outlier)
        self.native, self.reading = NativeMatrix(self.matrix), Reading(self.matrix)
        self.threads = Threads(min(config.threads, threads))
        self.inputs = sample.test[: config.tokens]
        self.exact = self.inputs @ sample.weight.T
        self.statistics = statistics_of(sample.weight, sample.train)
        self.known = Calibration({"": self.statistics}, len(sample.train))
        self.selector = Selector(self.statistics.norm2, threads=self.threads)

    def choice(self, bits: float, mode: Mode | None = None) -> Choice:
        """The configured way to choose, or another."""
        mode = mode or self.config.mode
        if mode is Mode.PROPORTION:
            return Shares(self.statistics.norm2, shares_for(bits))
        if mode is Mode.THRESHOLD:
            return Threshold(self.selector, self.known.waters(bits)[""], self.config.block)
        return Budget(self.selector, bits, self.config.block)

    def error_of(self, y: F32) -> float:
        """Relative error of outputs."""
        return float(np.linalg.norm(y - self.exact) / np.linalg.norm(self.exact))

    def point(self, choice: Choice) -> tuple[float, float]:
        """Bits read in all, and the error."""
        levels = choice(self.inputs)
        read = 8 * float(self.reading.bytes_of(levels).mean()) / self.reading.weights
        return read, self.error_of(self.native.apply(self.inputs, levels, self.threads))


def run(context: Context) -> Report:
    """Grade one matrix of a real model and multiply it with real inputs, at all bits."""
    config: GrinqhConfig = context.config
    context.progress.stage("grade the matrix")
    bench = Bench(config, context.threads)
    context.progress.stage("multiply at each width")
    curves = _curves(context, bench)
    context.progress.stage("time single tokens")
    timings = _timings(context, bench)
    read, error = bench.point(bench.choice(config.decode_bits))
    levels = bench.choice(config.decode_bits)(bench.inputs)
    same = _error_at(curves["one level for all"], read)
    facts: dict[str, Json] = {
        "matrix": f"{bench.matrix.rows} x {bench.matrix.cols}, layer 12 of Qwen2.5-Coder-0.5B",
        "tokens": len(bench.inputs),
        "stored_bits": round(bench.matrix.stored_bits, 4),
        "outliers": bench.matrix.outliers,
        "read_bits": round(read, 4),
        "error": float(f"{error:.5g}"),
        "curves": {
            name: [[round(x, 4), float(f"{y:.5g}")] for x, y in points]
            for name, points in curves.items()
        },
    }
    return Report(
        headline=Text(
            f"At {read:.2f} bits read per weight the product errs by {100 * error:.1f} %; one "
            f"level for all would err by {100 * same:.1f} % with as many bits.",
            f"每权重读取 {read:.2f} 比特时乘积误差 {100 * error:.1f} %;同样比特下统一等级的误差为 "
            f"{100 * same:.1f} %。",
        ),
        facts=facts,
        timings=timings,
        tables=(_table(bench, levels),),
        charts={"frontier": _chart(curves)},
    )


def _curves(context: Context, bench: Bench) -> dict[str, list[tuple[float, float]]]:
    energy, flat = bench.statistics.energy, len(bench.statistics.norm2)
    found: dict[str, list[tuple[float, float]]] = {"GRINQH": []}
    for done, bits in enumerate(_POINTS):
        found["GRINQH"].append(bench.point(bench.choice(bits)))
        context.progress.metric("error", found["GRINQH"][-1][1])
        context.progress.advance(done + 1, len(_POINTS), "widths")
    found["static mix"] = [bench.point(Fixed(by_budget(energy, bits))) for bits in _POINTS]
    found["one level for all"] = [
        bench.point(Fixed(np.full(flat, level, np.uint8))) for level in LEVELS
    ]
    skip = Selector(bench.statistics.norm2, (0, 4), threads=bench.threads)
    found["skip or 4 bits"] = [bench.point(Budget(skip, bits)) for bits in _POINTS if bits <= 4]
    found["RTN, groups of 64"] = []
    for bits in (2, 3, 4):
        way = round_to_nearest(bits)
        y = bench.inputs @ way.weight("", bench.weight).T
        found["RTN, groups of 64"].append((way.bits, bench.error_of(y)))
    return found


def _error_at(curve: list[tuple[float, float]], bits: float) -> float:
    """Error of a curve at so many bits, on the logarithm, flat beyond its ends."""
    x, y = zip(*curve, strict=True)
    return float(np.exp(np.interp(bits, x, np.log(y))))


def _timings(context: Context, bench: Bench) -> dict[str, float]:
    one, found = bench.inputs[:1], dict[str, float]()
    for bits in (2.0, bench.config.decode_bits, 4.0):
        choice, seconds = bench.choice(bits), list[float]()
        for _ in range(_TIMED):
            begin = time.perf_counter()
            bench.native.apply(one, choice(one), bench.threads)
            seconds.append(time.perf_counter() - begin)
        found[f"token_{bits:g}_bits_us"] = 1e6 * median(seconds)
        context.progress.metric(f"{bits:g} bits", 1e6 * median(seconds), "us")
    return found


def _table(bench: Bench, levels: np.ndarray) -> Table:
    counts = np.bincount(levels.ravel(), minlength=LEVELS[-1] + 1)
    energy = (bench.inputs**2 * bench.statistics.norm2).ravel()
    rows = tuple(
        (
            level,
            f"{100 * counts[level] / levels.size:.1f}",
            f"{100 * energy[levels.ravel() == level].sum() / energy.sum():.1f}",
        )
        for level in (0, *LEVELS)
    )
    return Table(
        title="Levels that the tokens' channels were read at",
        columns=("bits", "% of channels", "% of their energy"),
        rows=rows,
    )


def _chart(curves: dict[str, list[tuple[float, float]]]) -> dict[str, Json]:
    return lines(
        [
            Series(name, [x for x, _ in points], [y for _, y in points])
            for name, points in curves.items()
        ],
        title="Error of a layer's outputs by bits read",
        x=Axis("bits read per weight", ""),
        y=Axis("relative error", "", log=True),
    )
