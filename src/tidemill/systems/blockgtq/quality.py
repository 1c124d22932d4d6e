"""What the reader notices: perplexity, divergence from the unquantised model, retrieval.

Every key and value goes through the packed cache before any query sees it: there is no window of
recent fp16 keys, not even within a prompt.
"""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.models.ggml_rounding import Q4_0_BITS, Q8_0_BITS, q4_0, q8_0
from tidemill.systems.blockgtq import workloads
from tidemill.systems.blockgtq.baselines import rounded_cache
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode
from tidemill.systems.blockgtq.scoring.token_scores import Interval, Reference, Scored, hidden_of

_ASKED = ("dense", "uniform K2V2", "paper K2V2", "compact K2V2", "compact+peel K2V2", "q4_0")
"""Ways to cache that look for needles."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is scored, on which model.

    Args:
        model: Of the catalogue.
        calibration_tokens: Of WikiText-2 train.
        windows: Of test text.
        window_tokens: Length of each.
        haystacks: Tokens of each text with four needles, of which every one is asked for.
    """

    model: str
    calibration_tokens: int
    windows: int
    window_tokens: int
    haystacks: tuple[int, ...]


_LENGTHS = (600, 600, 1200, 1200, 1200, 2000, 2000, 4000)
SCALES = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 2, 256, (400, 400)),
    Budget.FULL: Scale("qwen2.5-coder-0.5b", 2048, 4, 1025, _LENGTHS),
}
SECOND = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 1, 256, (300,)),
    Budget.FULL: Scale("smollm2-135m", 2048, 4, 1025, _LENGTHS),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to cache, with the bits per number it takes."""

    name: str
    bits: float
    make: Callable[[], Any]


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
    scale = scale or SCALES[context.budget]
    yield from _perplexity(context, scale, _calibrated(context, scale), "")


def retrieval(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Needles found, every digit the model's first choice, by the K2V2 variants."""
    scale = scale or SCALES[context.budget]
    yield from _retrieval(context, scale, _calibrated(context, scale), "")


def second(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Both on a model without key biases."""
    scale = scale or SECOND[context.budget]
    subject = _calibrated(context, scale)
    yield from _perplexity(context, scale, subject, "second-")
    yield from _retrieval(context, scale, subject, "second-")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model in transformers, its tokenizer, its ways to cache."""

    model: Any
    tokenizer: Any
    variants: dict[str, Variant]


def _perplexity(
    context: Context, scale: Scale, subject: Subject, prefix: str
) -> Iterator[Measurement]:
    import torch

    known = subject.variants
    letters = 8 * scale.windows * scale.window_tokens
    ids = subject.tokenizer(workloads.text("test")[:letters])["input_ids"]
    scores = {name: Scored() for name in ("dense", *known)}
    context.progress.stage("score")
    total = scale.windows * (1 + len(known))
    with torch.inference_mode():
        for i in range(scale.windows):
            row = torch.tensor([ids[i * scale.window_tokens : (i + 1) * scale.window_tokens]])
            reference = Reference(subject.model, row)
            scores["dense"].extend(reference.compare(reference.hidden))
            for j, (name, variant) in enumerate(known.items()):
                hidden = hidden_of(subject.model, row, variant.make())
                scores[name].extend(reference.compare(hidden))
                context.progress.advance(i * (1 + len(known)) + j + 2, total, "passes")
    table = _table(scores, known)
    for claim, top, bottom in (
        ("kl-k2v2", "compact+peel K2V2", "uniform K2V2"),
        ("kl-k2v2-paper", "paper K2V2", "uniform K2V2"),
        ("kl-k3v3-q4", "compact+peel K3V3", "q4_0"),
        ("kl-k2v2-q4", "compact+peel K2V2", "q4_0"),
        ("ppl-k3v3", "compact+peel K3V3", "dense"),
    ):
        yield _compared(prefix + claim, scores, (top, bottom), scale.model, table)


def _calibrated(context: Context, scale: Scale) -> Subject:
    from tidemill.systems.blockgtq.capture import calibrate

    context.progress.stage(f"load {scale.model} and calibrate on train")
    model, tokenizer = workloads.load_model(scale.model)
    train = workloads.text("train")
    made = calibrate(model, tokenizer, train, n_tokens=scale.calibration_tokens)
    return Subject(model, tokenizer, variants(made, model.config))


def _table(scores: dict[str, Scored], known: dict[str, Variant]) -> dict[str, Json]:
    return {
        name: {
            "bits": known[name].bits if name in known else 32.0,
            "perplexity": scored.perplexity,
            "kl": float(np.mean(scored.divergence)),
            "top1": float(np.mean(scored.agrees)),
            "tokens": len(scored.loss),
        }
        for name, scored in scores.items()
    }


def _compared(
    claim: str, scores: dict[str, Scored], sides: tuple[str, str], model: str, table: Json
) -> Measurement:
    one, two = (scores[name] for name in sides)
    found = one.perplexity_over(two) if "ppl" in claim else one.divergence_over(two)
    told = [
        f"{name}: KL {np.mean(scores[name].divergence):.3g}, "
        f"perplexity {scores[name].perplexity:.4g}"
        for name in sides
    ]
    detail = {"scores": table}
    return found.measurement(claim, subject=f"{model}, {told[0]}", baseline=told[1], detail=detail)


def _retrieval(
    context: Context, scale: Scale, subject: Subject, prefix: str
) -> Iterator[Measurement]:
    import torch

    hays = [
        workloads.haystack(subject.tokenizer, tokens, alike=bool(i % 2), seed=i)
        for i, tokens in enumerate(scale.haystacks)
    ]
    hits: dict[str, list[float]] = {name: [] for name in _ASKED}
    context.progress.stage("ask")
    with torch.inference_mode():
        for i, hay in enumerate(hays):
            for j, name in enumerate(_ASKED):
                hits[name] += _found(subject, hay, name)
                context.progress.advance(i * len(_ASKED) + j + 1, len(hays) * len(_ASKED), "texts")
    asked = [[hay.tokens, hay.alike] for hay in hays for _ in hay.questions]
    detail: dict[str, Json] = {
        name: {"found": int(sum(each)), "asked": len(each), "hits": [*each]}
        for name, each in hits.items()
    }
    detail["needles"] = [{"tokens": tokens, "alike": alike} for tokens, alike in asked]
    peel = np.array(hits["compact+peel K2V2"])
    for claim, label in (("needles-kept", "dense"), ("needles-over-uniform", "uniform K2V2")):
        gap = 100 * (peel - np.array(hits[label]))
        told = (
            f"compact+peel K2V2 on {scale.model}: {int(peel.sum())} of {len(asked)}",
            f"{label}: {int(sum(hits[label]))} of {len(asked)}",
        )
        yield Interval.of_mean(gap).measurement(
            prefix + claim, subject=told[0], baseline=told[1], detail=detail
        )


def _found(subject: Subject, hay: workloads.Haystack, name: str) -> list[float]:
    """1 for each question whose answer is the first choice at every token; the text is read once.

    After each question the cache is cropped back to the text.
    """
    import torch
    from transformers import DynamicCache

    model, tokenizer = subject.model, subject.tokenizer
    known = subject.variants
    cache = known[name].make() if name in known else DynamicCache(config=model.config)
    ids = tokenizer(hay.text)["input_ids"]
    hidden_of(model, torch.tensor([ids]), cache)
    hits: list[float] = []
    for question, answer in hay.questions:
        asked = tokenizer(question, add_special_tokens=False)["input_ids"]
        wanted = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        hidden = hidden_of(model, torch.tensor([[*asked, *wanted]]), cache)
        choices = model.lm_head(hidden[-len(wanted) - 1 : -1]).argmax(dim=-1)
        hits.append(float(choices.tolist() == wanted))
        cache.crop(-len(asked) - len(wanted))
    return hits
