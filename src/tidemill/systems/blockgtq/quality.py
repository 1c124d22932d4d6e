"""What the reader notices: perplexity, divergence from the unquantised model, retrieval.

Every key and value goes through the packed cache before any query sees it: there is no window of
recent fp16 keys, not even within a prompt.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.models.ggml_rounding import Q4_0_BITS, Q8_0_BITS, q4_0, q8_0
from tidemill.systems.blockgtq import workloads
from tidemill.systems.blockgtq.baselines import rounded_cache
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode

_RESAMPLES = 2000
_BLOCK = 32
"""Tokens resampled together: neighbours err alike."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is scored, on which model.

    Args:
        model: Of the catalogue.
        calibration_tokens: Of WikiText-2 train.
        windows: Of test text.
        window_tokens: Length of each.
        needles: Questions.
        needle_letters: Text around each.
    """

    model: str
    calibration_tokens: int
    windows: int
    window_tokens: int
    needles: int
    needle_letters: int


SCALES = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 2, 256, 6, 1200),
    Budget.FULL: Scale("qwen2.5-coder-0.5b", 2048, 4, 513, 20, 1500),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to cache, with the bits per number it takes."""

    name: str
    bits: float
    make: Callable[[], Any]


@dataclass(slots=True)
class Scored:
    """Of one variant, token by token."""

    divergence: list[float] = field(default_factory=list[float])
    loss: list[float] = field(default_factory=list[float])
    agrees: list[bool] = field(default_factory=list[bool])


def variants(calibration: Calibration, config: Any) -> dict[str, Variant]:
    """Uniform TQ-MSE, the paper's mode and ours at K2V2 and K3V3, and llama.cpp's types."""
    from tidemill.systems.blockgtq.cache import BlockGTQCache

    made: list[Variant] = []
    for k, v in ((2, 2), (3, 3)):
        for kind, mode, peel in (
            ("uniform", Mode.UNIFORM, False),
            ("paper", Mode.PAPER, False),
            ("compact", Mode.COMPACT, False),
            ("compact+peel", Mode.COMPACT, True),
        ):
            plan = calibration.plan(k, v, mode, mean_peel=peel)
            name = f"{kind} K{k}V{v}"
            made.append(Variant(name, plan.bits_per_number, lambda plan=plan: BlockGTQCache(plan)))
    made.append(Variant("q4_0", Q4_0_BITS, lambda: rounded_cache(config, q4_0)))
    made.append(Variant("q8_0", Q8_0_BITS, lambda: rounded_cache(config, q8_0)))
    return {variant.name: variant for variant in made}


def perplexity(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """KL divergence, perplexity and top-1 agreement of each variant."""
    import torch

    scale = scale or SCALES[context.budget]
    model, tokenizer, calibration = _calibrated(context, scale)
    known = variants(calibration, model.config)
    ids = tokenizer(workloads.text("test")[: 8 * scale.windows * scale.window_tokens])["input_ids"]
    scores = {name: Scored() for name in ("dense", *known)}
    context.progress.stage("score")
    total = scale.windows * (1 + len(known))
    with torch.inference_mode():
        for i in range(scale.windows):
            row = torch.tensor([ids[i * scale.window_tokens : (i + 1) * scale.window_tokens]])
            reference = _log_probabilities(model, row, None)
            _score(scores["dense"], reference, reference, row)
            for j, (name, variant) in enumerate(known.items()):
                _score(scores[name], _log_probabilities(model, row, variant.make()), reference, row)
                context.progress.advance(i * (1 + len(known)) + j + 2, total, "passes")
    table = _table(scores, known)
    for claim, top, bottom in (
        ("kl-k2v2", "compact+peel K2V2", "uniform K2V2"),
        ("kl-k2v2-paper", "paper K2V2", "uniform K2V2"),
        ("kl-k3v3-q4", "compact+peel K3V3", "q4_0"),
        ("kl-k2v2-q4", "compact+peel K2V2", "q4_0"),
    ):
        yield _ratio(claim, scores, (top, bottom), scale.model, table)
    yield _perplexity_ratio("ppl-k3v3", scores, "compact+peel K3V3", scale.model, table)


def _calibrated(context: Context, scale: Scale) -> tuple[Any, Any, Calibration]:
    from tidemill.systems.blockgtq.capture import calibrate

    context.progress.stage(f"load {scale.model} and calibrate on train")
    model, tokenizer = workloads.load_model(scale.model)
    train = workloads.text("train")
    return model, tokenizer, calibrate(model, tokenizer, train, n_tokens=scale.calibration_tokens)


def _log_probabilities(model: Any, row: Any, cache: Any) -> Any:
    hidden = model.base_model(input_ids=row, past_key_values=cache, use_cache=cache is not None)
    return model.lm_head(hidden.last_hidden_state[0, :-1]).log_softmax(dim=-1)


def _score(scored: Scored, found: Any, reference: Any, row: Any) -> None:
    divergence = (reference.exp() * (reference - found)).sum(dim=-1)
    scored.divergence += divergence.clamp(min=0).tolist()
    scored.loss += (-found.gather(1, row[0, 1:, None]))[:, 0].tolist()
    scored.agrees += (found.argmax(dim=-1) == reference.argmax(dim=-1)).tolist()


def _table(scores: dict[str, Scored], known: dict[str, Variant]) -> dict[str, Json]:
    return {
        name: {
            "bits": known[name].bits if name in known else 32.0,
            "perplexity": math.exp(float(np.mean(scored.loss))),
            "kl": float(np.mean(scored.divergence)),
            "top1": float(np.mean(scored.agrees)),
            "tokens": len(scored.loss),
        }
        for name, scored in scores.items()
    }


def _blocks(values: list[float]) -> Any:
    whole = len(values) // _BLOCK * _BLOCK
    return np.array(values[:whole]).reshape(-1, _BLOCK).mean(axis=1)


def _drawn(count: int) -> Any:
    return np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))


def _measured(
    claim: str, value: float, resampled: Any, *, repeats: int, sides: tuple[str, str], detail: Any
) -> Measurement:
    low, high = (float(x) for x in np.quantile(resampled, [0.025, 0.975]))
    low, high = min(low, value), max(high, value)
    figure = Measurement(claim=claim, value=value, low=low, high=high, repeats=repeats)
    return replace(figure, subject=sides[0], baseline=sides[1], detail=detail)


def _ratio(
    claim: str, scores: dict[str, Scored], sides: tuple[str, str], model: str, table: Json
) -> Measurement:
    top, bottom = sides
    one, two = (_blocks(scores[name].divergence) for name in sides)
    draws = _drawn(len(one))
    resampled = one[draws].mean(axis=1) / two[draws].mean(axis=1)
    told = f"{top} on {model}: KL {one.mean():.3g}", f"{bottom}: KL {two.mean():.3g}"
    value, detail = float(one.mean() / two.mean()), {"scores": table}
    return _measured(claim, value, resampled, repeats=len(one), sides=told, detail=detail)


def _perplexity_ratio(
    claim: str, scores: dict[str, Scored], name: str, model: str, table: Json
) -> Measurement:
    gap = _blocks(scores[name].loss) - _blocks(scores["dense"].loss)
    resampled = np.exp(gap[_drawn(len(gap))].mean(axis=1))
    found, dense = (math.exp(float(np.mean(scores[x].loss))) for x in (name, "dense"))
    told = f"{name} on {model}: {found:.4g}", f"dense: {dense:.4g}"
    value, detail = math.exp(float(gap.mean())), {"scores": table}
    return _measured(claim, value, resampled, repeats=len(gap), sides=told, detail=detail)


def retrieval(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Needles found, every digit the model's first choice, by the K2V2 variants."""
    import torch

    scale = scale or SCALES[context.budget]
    model, tokenizer, calibration = _calibrated(context, scale)
    known = variants(calibration, model.config)
    asked = workloads.needles(scale.needles, letters=scale.needle_letters, seed=0)
    names = ("dense", "uniform K2V2", "paper K2V2", "compact+peel K2V2", "q4_0")
    found: dict[str, list[bool]] = {name: [] for name in names}
    context.progress.stage("ask")
    with torch.inference_mode():
        for i, needle in enumerate(asked):
            for name in names:
                cache = known[name].make() if name in known else None
                found[name].append(_is_found(model, tokenizer, needle, cache))
            context.progress.advance(i + 1, len(asked), "needles")
    detail: dict[str, Json] = {
        name: {"found": sum(hits), "asked": len(hits), "hits": [*hits]}
        for name, hits in found.items()
    }
    hits = {name: np.array(each, dtype=float) for name, each in found.items()}
    draws = _drawn(len(asked))
    peel = hits["compact+peel K2V2"]
    for claim, other, label in (
        ("needles-kept", hits["dense"], "dense"),
        ("needles-over-uniform", hits["uniform K2V2"], "uniform K2V2"),
    ):
        gap = 100 * (peel - other)
        told = (
            f"compact+peel K2V2 on {scale.model}: {int(peel.sum())} of {len(asked)}",
            f"{label}: {int(other.sum())} of {len(asked)}",
        )
        value, resampled = float(gap.mean()), gap[draws].mean(axis=1)
        yield _measured(claim, value, resampled, repeats=len(asked), sides=told, detail=detail)


def _is_found(model: Any, tokenizer: Any, needle: workloads.Needle, cache: Any) -> bool:
    import torch

    prompt = tokenizer(needle.prompt)["input_ids"]
    answer = tokenizer(f" {needle.answer}", add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*prompt, *answer]])
    hidden = model.base_model(input_ids=row, past_key_values=cache, use_cache=cache is not None)
    choices = model.lm_head(hidden.last_hidden_state[0, -len(answer) - 1 : -1]).argmax(dim=-1)
    return choices.tolist() == answer
