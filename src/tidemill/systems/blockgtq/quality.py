"""What the reader notices: perplexity, divergence from the unquantised model, retrieval.

Every key and value goes through the packed cache before any query sees it: there is no window of
recent fp16 keys, not even within a prompt. Greedy texts are written with packed attention.
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
from tidemill.bench.intervals import Interval
from tidemill.models.ggml_rounding import Q4_0_BITS, Q8_0_BITS, q4_0, q8_0
from tidemill.models.haystack import Kind, found, haystack
from tidemill.models.hf_greedy import lengths_until_different, written
from tidemill.models.token_scores import Teacher, TokenScores, hidden_of
from tidemill.systems.blockgtq import workloads
from tidemill.systems.blockgtq.baselines import rounded_cache
from tidemill.systems.blockgtq.calibration import Calibration
from tidemill.systems.blockgtq.config import Mode

_BLOCK = 32
"""Tokens resampled together: neighbours err alike."""
_ASKED = ("dense", "uniform K2V2", "paper K2V2", "compact K2V2", "compact+peel K2V2", "q4_0")
"""Ways to cache that look for needles."""
_WRITING = ("uniform K3V2", "paper K3V2", "compact+peel K3V2")
"""Those that write, beside the dense one, and are not scored token by token."""


@dataclass(frozen=True, slots=True)
class Greedy:
    """Texts that each way to cache continues: how many, of how many tokens, by how many."""

    texts: int
    prompt: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is scored, on which model.

    Args:
        model: Of the catalogue.
        calibration_tokens: Of WikiText-2 train.
        windows: Of test text.
        window_tokens: Length of each.
        haystacks: Needles of each text, four questions about them, and its tokens.
        greedy: What is written greedily.
    """

    model: str
    calibration_tokens: int
    windows: int
    window_tokens: int
    haystacks: tuple[tuple[Kind, int], ...]
    greedy: Greedy


_HAYSTACKS = (
    *((Kind.SINGLE, 600), (Kind.MANY_KEYS, 600), (Kind.MANY_VALUES, 1200), (Kind.MANY_KEYS, 1200)),
    *((Kind.MANY_VALUES, 1200), (Kind.MANY_KEYS, 2000), (Kind.SINGLE, 2000)),
    (Kind.MANY_KEYS, 4000),
)
_SMALL = ((Kind.SINGLE, 300), (Kind.MANY_VALUES, 300))
SCALES = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 2, 256, _SMALL, Greedy(2, 64, 32)),
    Budget.FULL: Scale("qwen2.5-coder-0.5b", 2048, 4, 1025, _HAYSTACKS, Greedy(8, 256, 128)),
}
SECOND = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 1, 256, _SMALL, Greedy(2, 64, 32)),
    Budget.FULL: Scale("smollm2-135m", 2048, 4, 1025, _HAYSTACKS, Greedy(8, 256, 128)),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to cache, with the bits per number it takes."""

    name: str
    bits: float
    make: Callable[[], Any]


def variants(calibration: Calibration, config: Any) -> dict[str, Variant]:
    """Uniform TQ-MSE, the paper's mode and ours at K2V2, K3V2, K3V3; llama.cpp's types."""
    from tidemill.systems.blockgtq.cache import BlockGTQCache

    made: list[Variant] = []
    for k, v in ((2, 2), (3, 2), (3, 3)):
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

    def cache(self, name: str) -> Any:
        """A new one of the way called ``name``; "dense" is transformers' own."""
        from transformers import DynamicCache

        if name in self.variants:
            return self.variants[name].make()
        return DynamicCache(config=self.model.config)


def _perplexity(
    context: Context, scale: Scale, subject: Subject, prefix: str
) -> Iterator[Measurement]:
    import torch

    known = {name: way for name, way in subject.variants.items() if name not in _WRITING}
    letters = 8 * scale.windows * scale.window_tokens
    ids = subject.tokenizer(workloads.text("test")[:letters])["input_ids"]
    head = subject.model.lm_head.weight
    parts: dict[str, list[TokenScores]] = {name: [] for name in ("dense", *known)}
    context.progress.stage("score")
    total = scale.windows * (1 + len(known))
    with torch.inference_mode():
        for i in range(scale.windows):
            row = torch.tensor([ids[i * scale.window_tokens : (i + 1) * scale.window_tokens]])
            dense = hidden_of(subject.model, row, None)[:-1]
            teacher = Teacher.of(dense, head)
            parts["dense"].append(teacher.judge(dense, row[0, 1:], head))
            for j, (name, variant) in enumerate(known.items()):
                hidden = hidden_of(subject.model, row, variant.make())[:-1]
                parts[name].append(teacher.judge(hidden, row[0, 1:], head))
                context.progress.advance(i * (1 + len(known)) + j + 2, total, "passes")
    scores = {name: TokenScores.joined(each) for name, each in parts.items()}
    table: dict[str, Json] = {
        name: each.to_json(name, known[name].bits if name in known else 32.0)
        for name, each in scores.items()
    }
    for claim, top, bottom in (
        ("kl-k2v2", "compact+peel K2V2", "uniform K2V2"),
        ("kl-k2v2-paper", "paper K2V2", "uniform K2V2"),
        ("kl-k3v3-q4", "compact+peel K3V3", "q4_0"),
        ("kl-k2v2-q4", "compact+peel K2V2", "q4_0"),
        ("ppl-k3v3", "compact+peel K3V3", "dense"),
    ):
        yield _compared(prefix + claim, scores, (top, bottom), scale.model, table)
    yield _greedy(context, scale, subject, prefix)


def _greedy(context: Context, scale: Scale, subject: Subject, prefix: str) -> Measurement:
    """Tokens written up to the first that the unquantised model would not have written."""
    import torch

    from tidemill.systems.blockgtq.cache import ATTENTION

    texts, prompt, tokens = scale.greedy.texts, scale.greedy.prompt, scale.greedy.tokens
    ids = subject.tokenizer(workloads.text("test")[: 8 * texts * prompt])["input_ids"]
    prompts = torch.tensor(ids[: texts * prompt]).view(texts, prompt)
    context.progress.stage(f"write {tokens} tokens after each of {texts} prompts")
    made: dict[str, Any] = {}
    before = subject.model.config._attn_implementation
    subject.model.set_attn_implementation(ATTENTION)
    for i, name in enumerate(("dense", *_WRITING)):
        made[name] = written(subject.model, prompts, subject.cache(name), tokens)
        context.progress.advance(i + 1, 1 + len(_WRITING), "ways")
    subject.model.set_attn_implementation(before)
    lengths = {name: lengths_until_different(made[name], made["dense"]) for name in _WRITING}
    detail: dict[str, Json] = {
        name: {
            "lengths": each.tolist(),
            "equal": float((made[name] == made["dense"]).mean()),
        }
        for name, each in lengths.items()
    }
    uniform, ours = (lengths[name].astype(float) for name in (_WRITING[0], _WRITING[-1]))
    return Interval.of_ratio(ours, uniform, 1).measurement(
        f"{prefix}greedy-k3v2",
        subject=f"{_WRITING[-1]} on {scale.model}: {ours.mean():.1f} of {tokens} tokens",
        baseline=f"{_WRITING[0]}: {uniform.mean():.1f}",
        detail=detail,
    )


def _calibrated(context: Context, scale: Scale) -> Subject:
    from tidemill.systems.blockgtq.capture import calibrate

    context.progress.stage(f"load {scale.model} and calibrate on train")
    model, tokenizer = workloads.load_model(scale.model)
    train = workloads.text("train")
    made = calibrate(model, tokenizer, train, n_tokens=scale.calibration_tokens)
    return Subject(model, tokenizer, variants(made, model.config))


def _compared(
    claim: str, scores: dict[str, TokenScores], sides: tuple[str, str], model: str, table: Json
) -> Measurement:
    one, two = (scores[name] for name in sides)
    found = one.perplexity_over(two, _BLOCK) if "ppl" in claim else one.divergence_over(two, _BLOCK)
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
        haystack(subject.tokenizer, tokens, kind=kind, seed=i)
        for i, (kind, tokens) in enumerate(scale.haystacks)
    ]
    hits: dict[str, list[float]] = {name: [] for name in _ASKED}
    context.progress.stage("ask")
    with torch.inference_mode():
        for i, hay in enumerate(hays):
            for j, name in enumerate(_ASKED):
                hits[name] += found(subject.model, subject.tokenizer, hay, subject.cache(name))
                context.progress.advance(i * len(_ASKED) + j + 1, len(hays) * len(_ASKED), "texts")
    needles: list[Json] = [
        {"tokens": hay.tokens, "kind": hay.kind.value} for hay in hays for _ in hay.questions
    ]
    detail: dict[str, Json] = {
        name: {"found": int(sum(each)), "asked": len(each), "hits": [*each]}
        for name, each in hits.items()
    }
    detail["needles"] = needles
    peel = np.array(hits["compact+peel K2V2"])
    for claim, label in (("needles-kept", "dense"), ("needles-over-uniform", "uniform K2V2")):
        gap = 100 * (peel - np.array(hits[label]))
        told = (
            f"compact+peel K2V2 on {scale.model}: {int(peel.sum())} of {len(needles)}",
            f"{label}: {int(sum(hits[label]))} of {len(needles)}",
        )
        yield Interval.of_mean(gap).measurement(
            prefix + claim, subject=told[0], baseline=told[1], detail=detail
        )
