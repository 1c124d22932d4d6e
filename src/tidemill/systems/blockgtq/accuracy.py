"""How far attention logits move: the paper's per-layer diagnostic, on real models.

Mean over test tokens t, all query heads and 50 offsets Δ in [−1024, 1024] of
|q_tᵀ R_Δ (k_t − k̂_t)|; calibrated on WikiText-2 train, scored on test.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.intervals import Interval
from tidemill.systems.blockgtq import kernels, workloads
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode
from tidemill.systems.blockgtq.plan import HeadPlan
from tidemill.systems.blockgtq.workloads import Captured

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
OFFSETS = 50
REACH = 1024
BITS = (2, 3)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: models, tokens of calibration and of the test."""

    models: tuple[str, ...]
    calibration_tokens: int
    test_tokens: int


SCALES = {
    Budget.QUICK: Scale(("smollm2-135m",), 1024, 256),
    Budget.FULL: Scale(("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-0.5b"), 2048, 1024),
}


def logit_error(captured: Captured, kept: F32, seed: int = 0) -> float:
    """The diagnostic for one layer.

    Args:
        captured: Queries (Q, T, d) and keys (H, T, d) before RoPE.
        kept: What the quantiser keeps of the keys, likewise.
        seed: Of the offsets.
    """
    half = kept.shape[-1] // 2
    offsets = np.random.default_rng(seed).integers(-REACH, REACH + 1, OFFSETS)
    share = len(captured.queries) // len(captured.keys)
    lost = (captured.keys - kept).repeat(share, axis=0).astype(np.float64)
    q = captured.queries.astype(np.float64)
    even = q[..., :half] * lost[..., :half] + q[..., half:] * lost[..., half:]
    odd = q[..., half:] * lost[..., :half] - q[..., :half] * lost[..., half:]
    angles = np.outer(captured.frequencies, offsets)
    return float(np.abs(even @ np.cos(angles) + odd @ np.sin(angles)).mean())


def kept_keys(heads: tuple[HeadPlan, ...], captured: Captured) -> F32:
    """Keys before RoPE through the packed tiles and back."""
    native, kept = kernels.load(), np.empty_like(captured.keys)
    values = np.empty_like(captured.values)
    for h, head in enumerate(heads):
        codec = head.still_codec
        tokens = captured.keys.shape[1]
        tiles = np.zeros(-(-tokens // kernels.TILE) * codec.tile_bytes, np.uint8)
        arrays = [np.ascontiguousarray(x[h]) for x in (captured.keys, captured.values)]
        native.encode(codec, arrays[0], arrays[1], tiles, start=0, base=0)
        native.decode(codec, tiles, start=0, base=0, keys=kept[h], values=values[h])
    return kept


def logits(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Cuts of the per-layer error against uniform TQ-MSE, at equal code bits and at equal bytes."""
    scale = scale or SCALES[context.budget]
    cuts: dict[str, dict[str, list[float]]] = {}
    for name in scale.models:
        context.progress.stage(f"{name}: calibrate on train, capture test")
        calibration, layers = _captured(name, scale)
        context.progress.stage(f"{name}: quantise its keys")
        cuts[name] = _cuts(context, calibration, layers)
    for kind, claim in (("paper", "mae"), ("compact", "equal-bytes")):
        for bits in BITS:
            by_model = {name: found[f"{kind}-{bits}"] for name, found in cuts.items()}
            yield _mean_cut(f"{claim}-cut-{bits}", by_model)
        yield _wins(
            f"{claim}-wins", [c for f in cuts.values() for b in BITS for c in f[f"{kind}-{b}"]]
        )


def _captured(name: str, scale: Scale) -> tuple[Calibration, list[Captured]]:
    from tidemill.models.hf_capture import capture
    from tidemill.models.hf_rope import frequencies_of
    from tidemill.systems.blockgtq.capture import calibrate

    model, tokenizer = workloads.load_model(name)
    train = workloads.text("train")
    calibration = calibrate(model, tokenizer, train, n_tokens=scale.calibration_tokens)
    found: dict[int, Captured] = {}
    rope = frequencies_of(model)

    def keep(layer: int, queries: F32, keys: F32, values: F32) -> None:
        found[layer] = Captured(queries, keys, values, rope[layer])

    test = workloads.text("test")[: 16 * scale.test_tokens]
    ids = tokenizer(test, return_tensors="pt")["input_ids"][:, : scale.test_tokens]
    capture(model, ids, keep)
    return calibration, [found[layer] for layer in range(len(rope))]


def _cuts(
    context: Context, calibration: Calibration, layers: list[Captured]
) -> dict[str, list[float]]:
    """Per cent off the error of uniform TQ-MSE, by mode and bits, of each layer."""
    found: dict[str, list[float]] = {}
    total = len(BITS) * len(layers)
    for i, bits in enumerate(BITS):
        plans = {
            "uniform": calibration.plan(bits, 2, Mode.UNIFORM),
            "paper": calibration.plan(bits, 2, Mode.PAPER),
            "compact": calibration.plan(bits, 2, Mode.COMPACT, mean_peel=False),
            "peel": calibration.plan(bits, 2, Mode.COMPACT, mean_peel=True),
            "uniform-peel": calibration.plan(bits, 2, Mode.UNIFORM, mean_peel=True),
        }
        for layer, captured in enumerate(layers):
            errors = {
                kind: logit_error(captured, kept_keys(plan.heads[layer], captured))
                for kind, plan in plans.items()
            }
            for kind, error in errors.items():
                cut = 100 * (1 - error / errors["uniform"])
                found.setdefault(f"{kind}-{bits}", []).append(cut)
            context.progress.advance(i * len(layers) + layer + 1, total, "layers")
    return found


def _mean_cut(claim: str, by_model: dict[str, list[float]]) -> Measurement:
    """The model that gains least."""
    name = min(by_model, key=lambda name: float(np.mean(by_model[name])))
    found = Interval.of_mean(np.array(by_model[name]))
    detail: dict[str, Json] = {
        each: {
            "mean": float(np.mean(cuts)),
            "least": min(cuts),
            "most": max(cuts),
            "layers": [*cuts],
        }
        for each, cuts in by_model.items()
    }
    return found.measurement(
        claim,
        subject=f"Block-GTQ on {name}, the least of {len(by_model)} models",
        baseline="uniform TQ-MSE",
        detail=detail,
    )


def _wins(claim: str, cuts: list[float]) -> Measurement:
    share = 100 * sum(cut > 0 for cut in cuts) / len(cuts)
    return replace(
        Measurement.exact(claim, share),
        repeats=len(cuts),
        subject=f"{sum(cut > 0 for cut in cuts)} of {len(cuts)} comparisons",
        baseline="uniform TQ-MSE",
    )
