"""How fast and how small: decode attention over long contexts, bytes, and what still fits.

Keys and values are those of a real layer, turned to new positions and repeated to the length asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.compare import Comparison, Side, compare
from tidemill.bench.wording import figure
from tidemill.errors import ClaimError
from tidemill.systems.blockgtq import kernels, workloads
from tidemill.systems.blockgtq.baselines import DenseCells, torch_forms
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.plan import Plan
from tidemill.systems.blockgtq.store import PackedStore, Window

F32 = NDArray[np.float32]
_PIECE = 8192


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is raced.

    Args:
        lengths: Tokens of context.
        claimed: The one of them that claims are about.
        rows: KV heads at that length, so that packed tiles exceed the cache.
        groups: Query heads that share a KV head.
        repeats: Rounds.
        limit_tokens: Context of the trial under a memory limit.
        limit_layers: Its layers.
    """

    lengths: tuple[int, ...]
    claimed: int
    rows: int
    groups: tuple[int, ...]
    repeats: int
    limit_tokens: int
    limit_layers: int


SCALES = {
    Budget.QUICK: Scale((8192, 32768), 32768, 8, (7, 4), 5, 32_768, 24),
    Budget.FULL: Scale((8192, 32768, 131_072, 262_144), 131_072, 44, (7, 4, 3, 1), 7, 262_144, 24),
}


def sample_plan(k_bits: float = 3, v_bits: int = 3, *, layers: int = 1, heads: int = 1) -> Plan:
    """The plan of the captured layer, for as many layers and heads as asked."""
    calibration = Calibration((workloads.captured("train").statistics(),), (0,), "captured")
    plan = calibration.plan(k_bits, v_bits)
    copies = (plan.heads[0] * heads,) * layers
    return replace(plan, heads=copies, windows=(0,) * layers)


def filled(plan: Plan, tokens: int, layer: int = 0) -> PackedStore:
    """A store of one row that holds the capture's test text over and over."""
    sample, heads = workloads.captured("test"), len(plan.heads[layer])
    store = PackedStore(plan.heads[layer], Window(plan.sink, plan.recent))
    keys, values = sample.repeated(tokens)
    for start in range(0, tokens, _PIECE):
        piece = [x[None, :, start : start + _PIECE].repeat(heads, axis=1) for x in (keys, values)]
        store.append(piece[0], piece[1])
    return store


def attention(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Packed against dense fp16, dense fp32 and torch, by context length and group size."""
    scale = scale or SCALES[context.budget]
    series: list[Json] = []
    races: dict[int, Comparison] = {}
    for group in scale.groups:
        is_first = group == scale.groups[0]
        for tokens in scale.lengths if is_first else (scale.claimed,):
            context.progress.stage(f"{tokens:,} tokens, {group} query heads to a KV head")
            is_main = tokens == scale.claimed
            race = _race(context, scale, tokens, group, with_torch=is_main and is_first)
            series.append(_point(race, tokens, group))
            if is_main:
                races[group] = race
    main = races.pop(scale.groups[0])
    best = min(main.timings[3:] or main.timings[2:], key=lambda timing: timing.median_s).name
    told = [("attention-half", main, "dense fp16"), ("attention-float", main, "dense fp32")]
    if best.startswith("torch"):
        told.append(("attention-torch", main, best))
    if races:
        slowest = min(races.values(), key=lambda race: race.ratio("dense fp16").value)
        told.append(("attention-groups", slowest, "dense fp16"))
    for claim, race, baseline in told:
        pair = Comparison((race.subject, race.timing(baseline)), race.clock)
        heads = next((g for g, each in races.items() if each is race), scale.groups[0])
        what = f"packed, {scale.claimed:,} tokens, {heads} heads"
        yield replace(
            pair.measurement(claim, baseline),
            subject=f"{what}: {_rate(race, race.subject.name)}",
            baseline=f"{baseline}: {_rate(race, baseline)}",
            detail={"comparison": pair.to_json(), "series": series},
        )


def _rate(race: Comparison, name: str) -> str:
    return f"{figure(1e9 / race.rate(name).median)} ns a token and KV head"


def _point(race: Comparison, tokens: int, group: int) -> Json:
    nanoseconds: dict[str, Json] = {t.name: 1e9 * t.median_s / t.work for t in race.timings}
    return {"tokens": tokens, "group": group, "ns": nanoseconds}


def _race(
    context: Context, scale: Scale, tokens: int, group: int, *, with_torch: bool
) -> Comparison:
    rows = max(1, min(scale.rows, scale.rows * scale.claimed // tokens))
    plan = sample_plan(heads=1)
    store, sample = filled(plan, tokens), workloads.captured("test")
    keys, values = (x.repeat(rows, axis=0) for x in sample.repeated(tokens))
    queries = queries_of(sample, rows, group)
    scale_of = sample.keys.shape[-1] ** -0.5
    state = _Copies(store, rows)
    half, full = (DenseCells.of(keys, values, dtype) for dtype in (np.float16, np.float32))
    out = np.empty_like(queries)
    work = float(tokens * rows)
    sides = [
        Side("packed", lambda: state.attend(queries, scale_of, threads=context.threads), work),
        Side("dense fp16", lambda: half.attend(queries, out, scale_of, context.threads), work),
        Side("dense fp32", lambda: full.attend(queries, out, scale_of, context.threads), work),
    ]
    if with_torch and workloads.missing_torch() is None:
        import torch

        torch.set_num_threads(context.threads)
        forms = torch_forms(queries, keys, values, scale_of)
        sides += [Side(name, run, work) for name, run in forms.items()]
    _check_close(state.attend(queries, scale_of), full, queries, scale_of)
    return compare(*sides, repeats=scale.repeats, progress=context.progress)


class _Copies:
    """One store's tiles as the rows of a batch, each in memory of its own."""

    def __init__(self, store: PackedStore, rows: int) -> None:
        counts, arrays = store.state()
        self._tokens, self._codec = counts[1], store.heads[0].codec
        self._tiles = [np.array(arrays[2], dtype=np.uint8) for _ in range(rows)]
        self._none = np.empty((rows, 0, self._codec.dim), np.float32)

    def attend(self, queries: F32, scale: float, *, threads: int = 1) -> F32:
        out = np.empty_like(queries)
        kernels.load().attend(
            [self._codec] * len(self._tiles),
            self._tiles,
            queries,
            window_keys=self._none,
            window_values=self._none,
            out=out,
            tokens=self._tokens,
            skip=0,
            base=0,
            scale=scale,
            threads=threads,
        )
        return out


def queries_of(sample: workloads.Captured, rows: int, group: int) -> F32:
    """Queries of the capture for rows x group heads, before RoPE (that is, at position 0)."""
    at = np.arange(rows * group) % sample.queries.shape[1]
    heads = np.arange(rows * group) % len(sample.queries)
    return np.ascontiguousarray(sample.queries[heads, at]).reshape(rows, group, -1)


def _check_close(made: F32, dense: DenseCells, queries: F32, scale: float) -> None:
    """What is fast must be right: within what three bits cost."""
    wanted = np.empty_like(queries)
    dense.attend(queries, wanted, scale, 1)
    error = float(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))
    if not error < 0.5:
        raise ClaimError(f"attention — packed output is off by {error:.2g} of its norm.")
