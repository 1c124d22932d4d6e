"""One run of the system: calibrate on one text, pack another, attend, and say what was lost."""

from __future__ import annotations

import time
from collections import Counter
from statistics import median

import numpy as np

from tidemill.bench import Context, Report, Table, Text
from tidemill.bench.claim import Json
from tidemill.bench.plots import Axis, Series, lines
from tidemill.systems.blockgtq import workloads
from tidemill.systems.blockgtq.accuracy import kept_keys, logit_error
from tidemill.systems.blockgtq.baselines import DenseCells
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import BlockGTQConfig, Mode
from tidemill.systems.blockgtq.plan import Plan
from tidemill.systems.blockgtq.speed import queries_of
from tidemill.systems.blockgtq.store import PackedStore, Window

_TIMED = 7
_PIECES = 8
_KINDS = (
    ("uniform TQ-MSE", Mode.UNIFORM, False),
    ("paper", Mode.PAPER, False),
    ("compact", Mode.COMPACT, False),
    ("compact, mean peeled", Mode.COMPACT, True),
)


def run(context: Context) -> Report:
    """Pack the captured layer of a real model as configured and compare it with every other way."""
    config: BlockGTQConfig = context.config
    context.progress.stage("calibrate on train text")
    calibration = Calibration((workloads.captured("train").statistics(),), (0,), "captured")
    peel = config.mean_peel and config.mode is Mode.COMPACT
    plan = calibration.plan(
        config.k_bits,
        config.v_bits,
        config.mode,
        sink=config.sink,
        recent=config.recent,
        mean_peel=peel,
    )
    sample = workloads.captured("test")
    errors = _errors(context, calibration, sample)
    store = _filled(context, plan, sample)
    lost, timings = _attend(context, store, sample)
    return _report(config, plan, store, errors=errors, lost=lost, timings=timings)


def _errors(
    context: Context, calibration: Calibration, sample: workloads.Captured
) -> dict[str, list[float]]:
    """Logit error of each way to quantise keys, by whole bits."""
    context.progress.stage("move attention logits by quantising test keys")
    found: dict[str, list[float]] = {name: [] for name, _, _ in _KINDS}
    bits = (1, 2, 3, 4)
    for done, k_bits in enumerate(bits):
        for name, mode, peel in _KINDS:
            heads = calibration.plan(k_bits, 2, mode, mean_peel=peel).heads[0]
            error = logit_error(sample, kept_keys(heads, sample), context.config.seed)
            found[name].append(error)
            context.progress.metric(name, error)
        context.progress.advance(done + 1, len(bits), "widths")
    return found


def _filled(context: Context, plan: Plan, sample: workloads.Captured) -> PackedStore:
    context.progress.stage("pack keys and values")
    tokens = context.config.tokens
    store = PackedStore(plan.heads[0], Window(plan.sink, plan.recent), "layer 12")
    keys, values = sample.repeated(tokens)
    step = -(-tokens // _PIECES)
    for start in range(0, tokens, step):
        piece = slice(start, start + step)
        store.append(keys[None, :, piece], values[None, :, piece])
        context.progress.advance(store.length, tokens, "tokens")
        context.progress.metric("bytes", store.nbytes, "B")
    return store


def _attend(
    context: Context, store: PackedStore, sample: workloads.Captured
) -> tuple[float, dict[str, float]]:
    """Relative error of the attention's output, and how long it takes."""
    context.progress.stage("attend over the packed cache")
    scale = sample.keys.shape[-1] ** -0.5
    rows = queries_of(sample, 1, len(sample.queries))
    queries = rows.reshape(1, len(sample.queries), 1, -1)
    whole = store.length // 32 * 32
    dense = DenseCells.of(*(x[:, :whole] for x in sample.repeated(store.length)), dtype=np.float16)
    wanted = np.empty_like(rows)
    store.crop(store.length - whole)
    dense.attend(rows, wanted, scale, 1)
    made = store.attend(queries, scale).reshape(wanted.shape)
    lost = float(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))
    timings = dict[str, float]()
    threads = min(context.config.threads, context.threads)
    sides = {
        "packed_us": lambda: store.attend(queries, scale, threads=threads),
        "dense_fp16_us": lambda: dense.attend(rows, wanted, scale, threads),
    }
    for name, call in sides.items():
        seconds: list[float] = []
        for _ in range(_TIMED):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        timings[name] = 1e6 * median(seconds)
        context.progress.metric(name, timings[name], "us")
    return lost, timings


def _report(
    config: BlockGTQConfig,
    plan: Plan,
    store: PackedStore,
    *,
    errors: dict[str, list[float]],
    lost: float,
    timings: dict[str, float],
) -> Report:
    head = plan.heads[0][0]
    dense = 4 * store.length * head.dim
    at = min(4, max(1, round(config.k_bits))) - 1
    cut = 1 - errors["compact, mean peeled"][at] / errors["uniform TQ-MSE"][at]
    facts: dict[str, Json] = {
        "tokens": store.length,
        "bits_per_number": plan.bits_per_number,
        "nbytes": store.nbytes,
        "compression": dense / store.nbytes,
        "widths": {str(b): n for b, n in sorted(Counter(head.widths).items())},
        "mean_blocks_peeled": int(np.count_nonzero(head.mean)) // 2,
        "saturated_norms": store.saturated,
        "attention_error": float(f"{lost:.4g}"),
        "logit_errors": {name: [float(f"{x:.6g}") for x in row] for name, row in errors.items()},
    }
    return Report(
        headline=Text(
            f"{store.length:,} tokens of a Qwen layer in {store.nbytes / 1024:.0f} KiB, "
            f"{dense / store.nbytes:.1f} times less than fp16; at {at + 1} bits Block-GTQ with its "
            f"mean peeled moves logits {100 * cut:.0f} % less than uniform TQ-MSE.",
            f"Qwen 某层的 {store.length:,} 个词元压缩为 {store.nbytes / 1024:.0f} KiB,"
            f"为 fp16 的 {dense / store.nbytes:.1f} 分之一;{at + 1} 比特下 logit 误差比均匀 TQ-MSE "
            f"少 {100 * cut:.0f} %。",
        ),
        facts=facts,
        timings=timings,
        tables=(_table(plan),),
        charts={"errors": _chart(errors)},
    )


def _table(plan: Plan) -> Table:
    head = plan.heads[0][0]
    rows = tuple(
        (g.width, len(g.blocks), ", ".join(map(str, g.blocks[:12])) + ("…" * (len(g.blocks) > 12)))
        for g in head.groups
    )
    return Table(
        title="Widths of the RoPE blocks, highest frequency first",
        columns=("bits", "blocks", "which"),
        rows=rows,
    )


def _chart(errors: dict[str, list[float]]) -> dict[str, Json]:
    return lines(
        [Series(name, [1, 2, 3, 4], row) for name, row in errors.items()],
        title="Error of attention logits by bits per key dimension",
        x=Axis("bits", ""),
        y=Axis("mean |error| of logits", "", log=True),
    )
