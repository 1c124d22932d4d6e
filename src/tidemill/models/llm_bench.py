"""What is promised of the native decoder against llama.cpp, and how each promise is measured.

``tidemill bench-llm`` stores them; a page prints what it stored.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from tidemill.bench.claim import Direction, Json, Measurement
from tidemill.bench.promise import Promise, Recorder
from tidemill.bench.trial import Progress
from tidemill.errors import InputError, UnsupportedModel
from tidemill.models import peak_memory
from tidemill.models.agreement import Agreement, ReferenceLogits, agreement
from tidemill.models.llama_peer import BATCH, LlamaModel, LlamaPeer, PeerSettings
from tidemill.models.llm_speed import OURS, PEER, Workload, compare_speed
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.perplexity import Perplexity, losses, perplexity, perplexity_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tidemill.models.model_file import ModelFile

NEAR_TIE = 0.05
"""Two logits this near are no disagreement."""
WINDOW = 512
"""Tokens of a window of the perplexity."""


_LEAST, _MOST = Direction.AT_LEAST, Direction.AT_MOST
PROMISES = (
    Promise("decode", "decoding one text, times as fast", "x", _LEAST, 1.2, "decode"),
    Promise("streams", "decoding 8 texts at once, times as fast", "x", _LEAST, 1.8, "streams"),
    Promise("prefill", "reading a prompt of 512 tokens, times as fast", "x", _LEAST, 1.1,
            "prefill"),
    Promise("overhead", "of a step of 8 texts spent outside the native call", "%", _MOST, 5,
            "overhead"),
    Promise("divergences", "of 20 greedy texts of 64 tokens differ", "", _MOST, 2, "agreement"),
    Promise("gap", "largest gap of llama.cpp's two likeliest tokens where they differ", "", _MOST,
            NEAR_TIE, "agreement"),
    Promise("cosine", "least cosine of logits with the float reference", "", _LEAST, 0.9995,
            "agreement"),
    Promise("perplexity", "perplexity apart from llama.cpp's", "%", _MOST, 0.5, "perplexity"),
    Promise("perplexity-reference", "perplexity apart from the float reference's", "%", _MOST, 0.5,
            "perplexity"),
    Promise("memory", "peak memory of `tidemill chat` beyond llama.cpp's", "%", _MOST, 10,
            "memory"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; the defaults are what the promises speak of."""

    repeats: int = 7
    prompt: int = 512
    decode_prompt: int = 128
    tokens: int = 32
    streams: int = 8
    greedy_tokens: int = 64
    perplexity_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class Bench:
    """Both sides with the same file, and the text they read."""

    file: ModelFile
    decoder: NativeDecoder
    peer: LlamaModel
    ids: Sequence[int]
    sizes: Sizes
    progress: Progress

    def measure(self, part: str) -> list[Measurement]:
        """The figures of one part."""
        return _PARTS[part](self)

    def speed(self, promise: str, workload: Workload) -> list[Measurement]:
        """The ratio of a workload."""
        if len(self.ids) < workload.prompt + workload.streams:
            raise InputError(
                f"text — has {len(self.ids)} tokens; give one of at least "
                f"{workload.prompt + workload.streams}, or a smaller --prompt."
            )
        found = compare_speed(
            self.decoder, self.peer, self.ids, workload,
            repeats=self.sizes.repeats, progress=self.progress,
        )  # fmt: skip
        measured = found.comparison.measurement(promise, PEER)
        detail: dict[str, Json] = {
            "tokens_per_s": found.comparison.rate(OURS).median,
            "peer_tokens_per_s": found.comparison.rate(PEER).median,
            "peer_settings": str(found.settings),
            "peer_tried": cast("Json", found.tried),
            "workload": cast("Json", asdict(workload)),
            **measured.detail,
        }
        return [replace(measured, detail=detail)]


def parts() -> tuple[str, ...]:
    """What can be measured, in the order that it is."""
    return tuple(_PARTS)


def promise(promise_id: str) -> Promise:
    """The promise with that id."""
    return next(each for each in PROMISES if each.id == promise_id)


def measured(bench: Bench, part: str, *, command: str) -> dict[str, Json]:
    """The figures of one part by promise, with what they were measured on."""
    bench.progress.stage(part)
    recorder = Recorder(command)
    return recorder.entries(PROMISES, bench.measure(part))


def _decode(bench: Bench) -> list[Measurement]:
    sizes = bench.sizes
    return bench.speed("decode", Workload(sizes.decode_prompt, sizes.tokens))


def _streams(bench: Bench) -> list[Measurement]:
    sizes = bench.sizes
    return bench.speed("streams", Workload(sizes.decode_prompt, sizes.tokens, sizes.streams))


def _prefill(bench: Bench) -> list[Measurement]:
    return bench.speed("prefill", Workload(bench.sizes.prompt, 0))


def _overhead(bench: Bench) -> list[Measurement]:
    """Share of steps that was not spent in C++, over rounds of ``tokens`` steps."""
    decoder, sizes = bench.decoder, bench.sizes
    sequences = [decoder.sequence() for _ in range(sizes.streams)]
    for i, sequence in enumerate(sequences):
        decoder.prefill(sequence, bench.ids[i : i + sizes.decode_prompt])
    shares: list[float] = []
    for turn in range(sizes.repeats):
        for sequence in sequences:
            sequence.truncate(sizes.decode_prompt)
        nexts = [1] * sizes.streams
        before, begin = decoder.native_s, perf_counter()
        for _ in range(sizes.tokens):
            pairs = zip(sequences, nexts, strict=True)
            nexts = decoder.step_greedy([Part(sequence, (token,)) for sequence, token in pairs])
        outside_s = perf_counter() - begin - (decoder.native_s - before)
        shares.append(100 * outside_s / (perf_counter() - begin))
        bench.progress.advance(turn + 1, sizes.repeats, "runs")
    detail: dict[str, Json] = {"shares": cast("Json", shares)}
    return [
        Measurement(
            claim="overhead", value=float(np.median(shares)), low=min(shares), high=max(shares),
            repeats=sizes.repeats, subject=OURS, detail=detail,
        )
    ]  # fmt: skip


def _agreement(bench: Bench) -> list[Measurement]:
    reference = _reference(bench)
    with _context(bench, BATCH) as peer:
        found = agreement(
            bench.decoder, bench.file.tokenizer, peer, tokens=bench.sizes.greedy_tokens,
            reference=reference,
            progress=lambda done, total: bench.progress.advance(done, total, "texts"),
        )  # fmt: skip
    texts: dict[str, Json] = {
        "texts": found.prompts,
        "positions": found.positions,
        "differing": found.differing,
        "reference_sides_with_us_and_them": list(found.reference_hits),
        "divergences": cast("Json", [asdict(each) for each in found.divergences]),
    }
    gap = max((each.peer_gap for each in found.divergences), default=0.0)
    return [
        _exact("divergences", len(found.divergences), PEER, texts),
        _exact("gap", gap, PEER, texts),
        *([_cosine(found)] if found.cosines else []),
    ]


def _cosine(found: Agreement) -> Measurement:
    detail: dict[str, Json] = {
        "positions": len(found.cosines),
        "mean": float(np.mean(found.cosines)),
        "below_target": sum(each < promise("cosine").target for each in found.cosines),
        "peer_least": min(found.peer_cosines),
        "peer_mean": float(np.mean(found.peer_cosines)),
    }
    return _exact("cosine", min(found.cosines), "reference", detail)


def _perplexity(bench: Bench) -> list[Measurement]:
    tokenizer = bench.file.tokenizer
    ids = bench.ids[: bench.sizes.perplexity_tokens]
    bos_id = tokenizer.bos_id if tokenizer.add_bos else None
    if len(ids) < bench.sizes.perplexity_tokens:
        raise InputError(
            f"text — has {len(ids)} tokens; for the perplexity give a file of at least "
            f"{bench.sizes.perplexity_tokens} with --text."
        )

    def told(name: str) -> Callable[[int, int], None]:
        return lambda done, total: bench.progress.advance(done, total, f"windows, {name}")

    def of(logits: ReferenceLogits, name: str) -> Perplexity:
        def losses_of(cut: Sequence[int], first: int) -> NDArray[np.float64]:
            return losses(logits(cut)[first - 1 : -1], cut[first:])

        return perplexity_of(losses_of, ids, window=WINDOW, bos_id=bos_id, progress=told(name))

    ours = perplexity(bench.decoder, ids, window=WINDOW, bos_id=bos_id, progress=told(OURS))
    with _context(bench, WINDOW) as peer:
        theirs = of(lambda cut: _fresh(peer, cut), PEER)
    reference = _reference(bench)
    others = {PEER: theirs} if reference is None else {
        PEER: theirs, "reference": of(reference, "reference")
    }  # fmt: skip
    detail: dict[str, Json] = {
        OURS: ours.value,
        **{name: each.value for name, each in others.items()},
        "tokens": ours.tokens,
        "windows": ours.windows,
    }
    claims = {PEER: "perplexity", "reference": "perplexity-reference"}
    return [
        _exact(claims[name], 100 * abs(ours.value / other.value - 1), name, detail)
        for name, other in others.items()
    ]


def _fresh(peer: LlamaPeer, ids: Sequence[int]) -> NDArray[np.float32]:
    peer.truncate(0)
    return peer.all_logits(ids)


def _context(bench: Bench, tokens: int) -> LlamaPeer:
    return bench.peer.context(PeerSettings(), threads=bench.decoder.threads, tokens=tokens)


def _reference(bench: Bench) -> ReferenceLogits | None:
    """The decoder in torch, on the weights of the file in float32; None without torch."""
    if importlib.util.find_spec("torch") is None:
        bench.progress.log("torch is not installed: no float reference")
        return None
    from tidemill.models.reference import ReferenceDecoder

    reference = ReferenceDecoder(bench.file.config, bench.file)
    return lambda ids: reference.logits(ids).numpy()


def _exact(claim: str, value: float, baseline: str, detail: dict[str, Json]) -> Measurement:
    return Measurement(
        claim=claim, value=value, low=value, high=value, repeats=1, subject=OURS,
        baseline=baseline, detail=detail,
    )  # fmt: skip


def _memory(bench: Bench) -> list[Measurement]:
    """Median over pairs of processes, one of each side.

    A model that has no chat template goes on from the question as plain text.
    """
    tokenizer, threads = bench.file.tokenizer, bench.decoder.threads
    ids = tokenizer.encode(peak_memory.QUESTION)
    context, tokens = min(4096, bench.file.config.context_length), bench.sizes.tokens
    ours: list[int] = []
    theirs: list[int] = []
    for turn in range(3):
        path = str(bench.file.path)
        ours.append(
            peak_memory.our_peak_bytes(
                path, chat=_can_chat(bench.file), threads=threads, context=context, tokens=tokens
            )
        )
        theirs.append(
            peak_memory.peer_peak_bytes(path, ids, threads=threads, context=context, tokens=tokens)
        )
        bench.progress.advance(turn + 1, 3, "pairs")
    more = sorted(100 * (a / b - 1) for a, b in zip(ours, theirs, strict=True))
    detail: dict[str, Json] = {
        "peak_bytes": cast("Json", ours),
        "peer_peak_bytes": cast("Json", theirs),
        "context": context,
    }
    return [
        Measurement(
            claim="memory", value=more[1], low=more[0], high=more[2], repeats=3, subject=OURS,
            baseline=PEER, detail=detail,
        )
    ]  # fmt: skip


def _can_chat(file: ModelFile) -> bool:
    try:
        return bool(file.chat_template)
    except UnsupportedModel:
        return False


_PARTS: Mapping[str, Callable[[Bench], list[Measurement]]] = {
    "decode": _decode,
    "streams": _streams,
    "prefill": _prefill,
    "overhead": _overhead,
    "agreement": _agreement,
    "perplexity": _perplexity,
    "memory": _memory,
}
