"""The frontier: divergence and perplexity against bits read, GRINQH beside every other way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.wording import figure
from tidemill.errors import ClaimError
from tidemill.models.store import ModelStore
from tidemill.systems.grinqh.baselines import (
    llama_quantised,
    llama_rounded,
    round_to_nearest,
    skipping,
    static_mix,
    uniform,
)
from tidemill.systems.grinqh.choice import Choice
from tidemill.systems.grinqh.scores import BLOCK, Reach, Sample, Score
from tidemill.systems.grinqh.selection import Mode

COMPARABLE = 0.5
"""A baseline is compared with at its own bits or up to so many fewer."""
FIXED = ("RTN", "uniform", "static")
"""Baselines whose bits no token changes."""


if TYPE_CHECKING:
    from tidemill.systems.grinqh.torch_model.scoring import Subject


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is scored.

    Args:
        model: Of the catalogue.
        sample: Of text.
        frontier: Bits read, at which the curve has its points.
        threads: That score.
    """

    model: str
    sample: Sample
    frontier: tuple[float, ...]
    threads: int = 2


SCALES = {
    Budget.QUICK: Scale("gemma-3-270m", Sample(2, 64, 96, 512), (1.5, 2.0, 2.5, 3.0, 4.0)),
    Budget.FULL: Scale(
        "gemma-3-270m", Sample(9, 128, 256, 1024), tuple(1.5 + 0.25 * i for i in range(13))
    ),
}
SECOND = Scale("qwen2.5-coder-0.5b", Sample(9, 128, 256, 1024), (2.0, 3.0, 4.0))
"""Of the second model, at full budget."""
Found = dict[str, Score]


def frontier(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """The claims about quality on the model with the cleanest source."""
    scale = scale or SCALES[context.budget]
    full, decode, every = _found(context, scale)
    detail = _detail(full, decode, every)
    yield from _all_beat_fixed("", scale.model, decode, every, detail)
    yield _two_bits("two-bits", scale.model, decode, full, detail)
    three = min((decode["uniform 3"], decode["RTN 3"]), key=lambda score: score.kl)
    yield _compared("two-over-three", scale.model, decode["GRINQH codes 2"], three, detail)
    yield _monotone(decode, scale, detail)
    yield _dominated(decode, detail)


def second(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Those that are asked of another model too."""
    scale = scale or SECOND
    full, decode, every = _found(context, scale, more=False)
    detail = _detail(full, decode, every)
    yield from _all_beat_fixed("second-", scale.model, decode, every, detail)
    yield _two_bits("second-two-bits", scale.model, decode, full, detail)


def _found(context: Context, scale: Scale, *, more: bool = True) -> tuple[Score, Found, Found]:
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    context.progress.stage(f"load {scale.model} and calibrate on train")
    subject = Subject(scale.model, scale.sample, scale.threads)
    bits = sorted({*scale.frontier, 2.0, 3.0, 4.0})
    decode = points(context, subject, Reach.DECODE, bits, more=more)
    every = points(context, subject, Reach.ALL, (3.0, 4.0))
    return subject.full, decode, every


def points(
    context: Context,
    subject: Subject,
    reach: Reach,
    bits_read: Iterable[float],
    *,
    more: bool = False,
) -> dict[str, Score]:
    """GRINQH at bits read in all, and the baselines; with all tokens only those of 3 and 4 bits.

    ``more``: skipping, and the other ways to choose, too.
    """
    graded, calibration = subject.graded, subject.graded.calibration
    if calibration is None:
        raise ClaimError("frontier — the model was not calibrated.")
    context.progress.stage(f"score {subject.name}, {reach}")
    ways: dict[str, dict[str, Choice | None]] = {
        f"GRINQH {bits:g}": subject.choices(subject.code_bits(bits)) for bits in bits_read
    }
    ways |= {f"GRINQH codes {bits}": subject.choices(float(bits)) for bits in (2, 3)}
    widths = (2, 3, 4) if reach is Reach.DECODE else (3, 4)
    ways |= {f"uniform {level}": uniform(graded, level) for level in widths}
    ways |= {f"static {bits:g}": static_mix(graded, calibration, bits) for bits in widths}
    if more:
        ways["threshold 3"] = subject.choices(subject.code_bits(3), Mode.THRESHOLD)
        ways["one λ 3"] = subject.choices(subject.code_bits(3), even=False)
        ways["proportion 3"] = subject.choices(subject.code_bits(3), Mode.PROPORTION)
        ways |= {f"skip {bits:g}": skipping(graded, bits) for bits in (2, 3)}
    rounded = [round_to_nearest(bits) for bits in widths]
    found: dict[str, Score] = {}
    total = len(ways) + len(rounded)
    for name, choices in ways.items():
        found[name] = subject.graded_score(name, choices, reach)
        _tell(context, found[name], len(found), total)
    for way in rounded:
        found[way.name] = subject.rounded_score(way, reach)
        _tell(context, found[way.name], len(found), total)
    return found


def _tell(context: Context, score: Score, done: int, total: int) -> None:
    context.progress.advance(done, total, "ways")
    context.progress.log(
        f"{score.name}: {score.bits:.2f} bits, KL {score.kl:.4f}, perplexity {score.perplexity:.2f}"
    )


def _detail(full: Score, decode: Found, every: Found) -> dict[str, Json]:
    return {
        "full": full.to_json(),
        "decode": [score.to_json() for score in decode.values()],
        "all tokens": [score.to_json() for score in every.values()],
    }


def _compared(
    claim: str, model: str, ours: Score, other: Score, detail: dict[str, Json]
) -> Measurement:
    return ours.tokens.divergence_over(other.tokens, BLOCK).measurement(
        claim,
        subject=f"{ours.name} on {model}: KL {figure(ours.kl)}, {ours.bits:.2f} bits",
        baseline=f"{other.name}: KL {figure(other.kl)}, {other.bits:.2f} bits",
        detail=detail,
    )


def _all_beat_fixed(
    prefix: str, model: str, decode: Found, every: Found, detail: dict[str, Json]
) -> Iterator[Measurement]:
    """Against the best fixed way of as many bits, or a little more."""
    for bits in (3.0, 4.0):
        for reach, scores in ((Reach.DECODE, decode), (Reach.ALL, every)):
            ours = scores[f"GRINQH {bits:g}"]
            above = [
                score
                for score in scores.values()
                if score.name.startswith(FIXED) and score.bits >= ours.bits
            ]
            if not above:
                raise ClaimError(f"{ours.name} — no fixed way has {ours.bits:.2f} bits or more.")
            most = max(bits + COMPARABLE, min(score.bits for score in above))
            best = min((s for s in above if s.bits <= most), key=lambda score: score.kl)
            claim = f"{prefix}kl-{bits:g}-{reach.name.lower()}"
            yield _compared(claim, model, ours, best, detail)


def _two_bits(
    claim: str, model: str, found: Found, full: Score, detail: dict[str, Json]
) -> Measurement:
    names = ("GRINQH codes 2", "GRINQH 2", "RTN 2", "static 2")
    ours, tighter, rounded, static = (found[name] for name in names)
    return ours.tokens.perplexity_over(full.tokens, BLOCK).measurement(
        claim,
        subject=f"GRINQH on {model}: perplexity {figure(ours.perplexity)}, {ours.bits:.2f} bits "
        f"read in all; with 2 in all {figure(tighter.perplexity)}",
        baseline=f"source: {figure(full.perplexity)}; RTN {figure(rounded.perplexity)}, "
        f"static {figure(static.perplexity)} at 2 bits of codes",
        detail=detail,
    )


def _monotone(found: Found, scale: Scale, detail: dict[str, Json]) -> Measurement:
    curve = [found[f"GRINQH {bits:g}"].kl for bits in scale.frontier]
    rises = sum(after >= before for before, after in pairwise(curve))
    text = f"{len(curve)} points on {scale.model}, one stored copy"
    return Measurement.exact("monotone", rises, subject=text, detail=detail)


def _dominated(found: Found, detail: dict[str, Json]) -> Measurement:
    """Baselines that no point of the curve beats in bits and divergence both."""
    ours = [score for score in found.values() if score.name.startswith("GRINQH")]
    low, high = min(score.bits for score in ours), max(score.bits for score in ours)
    beyond: list[str] = []
    for score in found.values():
        if not score.name.startswith((*FIXED, "skip")) or not low <= score.bits <= high + 0.5:
            continue
        below = [each.kl for each in ours if each.bits <= score.bits + 0.01]
        if not below or min(below) > score.kl:
            beyond.append(score.name)
    text = f"baselines beyond the curve: {', '.join(beyond) or 'none'}"
    return Measurement.exact("pareto", len(beyond), subject=text, detail=detail)


def llama(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """GRINQH at 3 bits read against what llama.cpp itself makes of the same file."""
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    full = context.budget is Budget.FULL
    scale = scale or (SECOND if full else SCALES[context.budget])
    context.progress.stage(f"load {scale.model} and calibrate on train")
    subject = Subject(scale.model, scale.sample, scale.threads)
    ours = subject.graded_score("GRINQH 3", subject.choices(subject.code_bits(3)), Reach.ALL)
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        for kind in ("Q2_K", "Q3_K_M"):
            context.progress.stage(f"let llama.cpp make {kind} of it")
            source = ModelStore().pull(scale.model)
            file = llama_quantised(source, kind, Path(folder) / f"{kind}.gguf")
            found[kind] = subject.rounded_score(llama_rounded(kind, file), Reach.ALL)
            file.unlink()
    rivals = [score for score in found.values() if score.bits >= ours.bits]
    if not rivals:
        raise ClaimError(f"llama.cpp — its files take fewer bits than {ours.bits:.2f}.")
    best = min(rivals, key=lambda score: score.kl)
    scores: list[Json] = [score.to_json() for score in (subject.full, ours, *found.values())]
    yield _compared("kl-llama", scale.model, ours, best, {"scores": scores})
