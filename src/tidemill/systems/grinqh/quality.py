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
from tidemill.systems.grinqh.scores import (
    Reach,
    Sample,
    Score,
    blocks_of,
    perplexity_ratio,
    ratio,
)
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
        models: Of the catalogue; a claim is about the one that fares worst.
        sample: Of each.
        frontier: Bits read, at which the curve has its points.
        threads: That score.
    """

    models: tuple[str, ...]
    sample: Sample
    frontier: tuple[float, ...]
    threads: int = 2


SCALES = {
    Budget.QUICK: Scale(("gemma-3-270m",), Sample(2, 64, 96, 512), (1.5, 2.0, 2.5, 3.0, 4.0)),
    Budget.FULL: Scale(
        ("gemma-3-270m", "qwen2.5-coder-0.5b"),
        Sample(4, 256, 256, 1024),
        tuple(1.5 + 0.25 * i for i in range(13)),
    ),
}
Found = dict[str, Score]


def frontier(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Every claim about quality, one model after the other; the worst of each is the figure."""
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    scale = scale or SCALES[context.budget]
    decode: dict[str, Found] = {}
    every: dict[str, Found] = {}
    full: dict[str, Score] = {}
    for name in scale.models:
        context.progress.stage(f"load {name} and calibrate on train")
        subject = Subject(name, scale.sample, scale.threads)
        full[name] = subject.full
        bits = sorted({*scale.frontier, 2.0, 3.0, 4.0})
        decode[name] = points(context, subject, Reach.DECODE, bits)
        every[name] = points(context, subject, Reach.ALL, (3.0, 4.0))
        del subject
    detail = _detail(full, decode, every)
    for bits in (3.0, 4.0):
        for reach, found in (("decode", decode), ("all", every)):
            yield _beats_fixed(f"kl-{bits:g}-{reach}", bits, found, detail)
    yield _two_bits(decode, full, detail)
    yield _two_over_three(decode, detail)
    yield _monotone(decode, scale.frontier, detail)
    yield _dominated(decode, detail)


def points(
    context: Context, subject: Subject, reach: Reach, bits_read: Iterable[float]
) -> dict[str, Score]:
    """GRINQH at bits read in all, and the baselines; with all tokens only those of 3 and 4 bits."""
    graded, calibration = subject.graded, subject.graded.calibration
    if calibration is None:
        raise ClaimError("frontier — the model was not calibrated.")
    context.progress.stage(f"score {subject.name}, {reach}")
    ways: dict[str, dict[str, Choice | None]] = {
        f"GRINQH {bits:g}": subject.choices(subject.code_bits(bits)) for bits in bits_read
    }
    widths = (2, 3, 4) if reach is Reach.DECODE else (3, 4)
    ways |= {f"uniform {level}": uniform(graded, level) for level in widths}
    ways |= {f"static {bits:g}": static_mix(graded, calibration, bits) for bits in widths}
    if reach is Reach.DECODE:
        ways["threshold 3"] = subject.choices(subject.code_bits(3), Mode.THRESHOLD)
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


def _detail(
    full: dict[str, Score], decode: dict[str, Found], every: dict[str, Found]
) -> dict[str, Json]:
    return {
        "full": {name: score.to_json() for name, score in full.items()},
        **{
            reach: {
                name: [score.to_json() for score in scores.values()]
                for name, scores in found.items()
            }
            for reach, found in (("decode", decode), ("all tokens", every))
        },
    }


def _compared(
    claim: str, pairs: dict[str, tuple[Score, Score]], detail: dict[str, Json]
) -> Measurement:
    """The ratio of divergences on the model where it is highest."""
    worst = max(pairs, key=lambda name: pairs[name][0].kl / pairs[name][1].kl)
    ours, other = pairs[worst]
    value, low, high = ratio(ours.divergence, other.divergence)
    return Measurement(
        claim=claim,
        value=value,
        low=low,
        high=high,
        repeats=blocks_of(len(ours.divergence)),
        subject=f"{ours.name} on {worst}: KL {figure(ours.kl)}, {ours.bits:.2f} bits",
        baseline=f"{other.name}: KL {figure(other.kl)}, {other.bits:.2f} bits",
        detail=detail,
    )


def _beats_fixed(
    claim: str, bits: float, found: dict[str, Found], detail: dict[str, Json]
) -> Measurement:
    pairs: dict[str, tuple[Score, Score]] = {}
    for name, scores in found.items():
        ours = scores[f"GRINQH {bits:g}"]
        rivals = [
            score
            for score in scores.values()
            if score.name.startswith(FIXED) and ours.bits <= score.bits <= bits + COMPARABLE
        ]
        pairs[name] = ours, min(rivals, key=lambda score: score.kl)
    return _compared(claim, pairs, detail)


def _two_bits(
    found: dict[str, Found], full: dict[str, Score], detail: dict[str, Json]
) -> Measurement:
    ours = {name: scores["GRINQH 2"] for name, scores in found.items()}
    worst = max(ours, key=lambda name: ours[name].perplexity / full[name].perplexity)
    value, low, high = perplexity_ratio(ours[worst].loss, full[worst].loss)
    rounded, static = (found[worst][name] for name in ("RTN 2", "static 2"))
    return Measurement(
        claim="two-bits",
        value=value,
        low=low,
        high=high,
        repeats=blocks_of(len(ours[worst].loss)),
        subject=f"GRINQH 2 on {worst}: perplexity {figure(ours[worst].perplexity)}",
        baseline=f"source: {figure(full[worst].perplexity)}; RTN {figure(rounded.perplexity)}, "
        f"static {figure(static.perplexity)} at 2 bits of codes",
        detail=detail,
    )


def _two_over_three(found: dict[str, Found], detail: dict[str, Json]) -> Measurement:
    pairs = {
        name: (
            scores["GRINQH 2"],
            min((scores["uniform 3"], scores["RTN 3"]), key=lambda score: score.kl),
        )
        for name, scores in found.items()
    }
    return _compared("two-over-three", pairs, detail)


def _monotone(
    found: dict[str, Found], points: tuple[float, ...], detail: dict[str, Json]
) -> Measurement:
    rises = 0
    for scores in found.values():
        curve = [scores[f"GRINQH {bits:g}"].kl for bits in points]
        rises += sum(after >= before for before, after in pairwise(curve))
    return _count(
        "monotone", rises, f"{len(points)} points on {len(found)} models, one stored copy", detail
    )


def _dominated(found: dict[str, Found], detail: dict[str, Json]) -> Measurement:
    """Baselines that no point of the curve beats in bits and divergence both."""
    beyond: list[str] = []
    for name, scores in found.items():
        ours = [score for score in scores.values() if score.name.startswith("GRINQH")]
        low, high = min(score.bits for score in ours), max(score.bits for score in ours)
        for score in scores.values():
            if not score.name.startswith((*FIXED, "skip")) or not low <= score.bits <= high + 0.5:
                continue
            below = [each for each in ours if each.bits <= score.bits + 0.01]
            if not below or min(each.kl for each in below) > score.kl:
                beyond.append(f"{score.name} on {name}")
    text = ", ".join(beyond) or "none"
    return _count("pareto", len(beyond), f"baselines beyond the curve: {text}", detail)


def _count(claim: str, value: int, subject: str, detail: dict[str, Json]) -> Measurement:
    return Measurement(
        claim=claim,
        value=value,
        low=value,
        high=value,
        repeats=1,
        subject=subject,
        detail=detail,
    )


def llama(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """GRINQH at 3 bits read against what llama.cpp itself makes of the same file."""
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    scale = scale or SCALES[context.budget]
    name = scale.models[-1]
    context.progress.stage(f"load {name} and calibrate on train")
    subject = Subject(name, scale.sample, scale.threads)
    ours = subject.graded_score("GRINQH 3", subject.choices(subject.code_bits(3)), Reach.ALL)
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="tidemill-") as folder:
        for kind in ("Q2_K", "Q3_K_M"):
            context.progress.stage(f"let llama.cpp make {kind} of it")
            file = llama_quantised(ModelStore().pull(name), kind, Path(folder) / f"{kind}.gguf")
            way = llama_rounded(kind, file)
            found[kind] = subject.rounded_score(way, Reach.ALL)
            file.unlink()
    detail: dict[str, Json] = {
        "scores": [score.to_json() for score in (subject.full, ours, *found.values())]
    }
    rivals = [score for score in found.values() if score.bits >= ours.bits]
    if not rivals:
        raise ClaimError(f"llama.cpp — its files take fewer bits than {ours.bits:.2f}.")
    best = min(rivals, key=lambda score: score.kl)
    yield _compared("kl-llama", {name: (ours, best)}, detail)
