"""What a user of ``--kv blockgtq:k3v3`` gets: bytes and tokens per second of whole decoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.compare import Side, compare
from tidemill.models.llama_peer import LlamaModel, PeerSettings
from tidemill.models.llm_speed import OurRun, PeerRun, Workload
from tidemill.models.model_file import open_model
from tidemill.models.native_decoder import NativeDecoder
from tidemill.models.store import ModelStore
from tidemill.systems.blockgtq import speed, workloads

PLUG = "blockgtq:k3v3"
_WIDE = "gemma-3-270m"
"""Its heads have 256 dimensions."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is decoded.

    Args:
        model: Of the catalogue.
        context: Tokens before the timed ones.
        tokens: Decoded in a run.
        repeats: Rounds.
        wide_tokens: Tokens of the model of wide heads that are packed.
        packed_tokens: Of the captured layer.
    """

    model: str
    context: int
    tokens: int
    repeats: int
    wide_tokens: int
    packed_tokens: int


SCALES = {
    Budget.QUICK: Scale("smollm2-135m", 1024, 8, 5, 256, 32_768),
    Budget.FULL: Scale("qwen2.5-coder-0.5b", 8192, 16, 7, 1024, 131_072),
}


def decoding(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Greedy steps after a long prompt, packed cache and dense one in turn."""
    scale = scale or SCALES[context.budget]
    ids, runs = _runs(context, scale, {"packed K3V3": PLUG, "dense fp16": None})
    context.progress.stage(f"decode after {len(ids):,} tokens")
    race = compare(*_sides(runs, scale), repeats=scale.repeats, progress=context.progress)
    yield race.measurement("decode", "dense fp16")


def against_llama(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """The packed cache and llama.cpp's own, each with its own decoder, on the same file.

    Raises:
        MissingCapability: llama-cpp-python is not installed.
    """
    scale = scale or SCALES[context.budget]
    with LlamaModel(ModelStore().pull(scale.model)) as model, ExitStack() as stack:
        ids, own = _runs(context, scale, {"packed K3V3": PLUG})
        runs: dict[str, OurRun | PeerRun] = {**own}
        for kind in ("q8_0", "q4_0"):
            name = f"llama.cpp {kind}"
            context.progress.stage(f"{name}: read {len(ids):,} tokens")
            settings, work = PeerSettings(kv_type=kind), Workload(len(ids), scale.tokens)
            peer = PeerRun(model, settings, context.threads, [ids], work)
            runs[name] = stack.enter_context(peer)
        context.progress.stage("decode")
        race = compare(*_sides(runs, scale), repeats=scale.repeats, progress=context.progress)
    best = min(race.timings[1:], key=lambda timing: timing.median_s).name
    yield race.measurement("decode-llama", best)


def _runs(
    context: Context, scale: Scale, caches: dict[str, str | None]
) -> tuple[list[int], dict[str, OurRun]]:
    """Native decoders that have read the prompt, by name of their cache."""
    room = scale.context + scale.tokens
    with open_model(str(ModelStore().pull(scale.model))) as model:
        ids = model.tokenizer.encode(workloads.text("test")[: 16 * room])[: scale.context]
        runs: dict[str, OurRun] = {}
        for name, kv in caches.items():
            context.progress.stage(f"{name}: calibrate if need be, read {scale.context:,} tokens")
            decoder = NativeDecoder(
                model, threads=context.threads, context=room, kv_tokens=room, kv=kv
            )
            runs[name] = OurRun(decoder, [ids], Workload(len(ids), scale.tokens))
    return ids, runs


def _sides(runs: Mapping[str, OurRun | PeerRun], scale: Scale) -> list[Side]:
    return [
        Side(name, run.run, float(scale.tokens), "tokens/s", prepare=run.reset)
        for name, run in runs.items()
    ]


def compression(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Bytes of K3V3 caches against fp16: a captured layer, and a decoder of wide heads."""
    scale = scale or SCALES[context.budget]
    tokens = scale.packed_tokens
    context.progress.stage(f"pack {tokens:,} tokens")
    store = speed.filled(speed.sample_plan(heads=2), tokens)
    dense = 2 * 2 * tokens * len(store.heads) * store.heads[0].dim
    yield _smaller("compression", store.nbytes, dense, f"{tokens:,} tokens of a Qwen layer")
    context.progress.stage(f"{_WIDE}: {scale.wide_tokens:,} tokens, packed and dense")
    room = scale.wide_tokens
    with open_model(str(ModelStore().pull(_WIDE))) as model:
        ids = model.tokenizer.encode(workloads.text("test")[: 16 * room])[:room]
        sizes: list[int] = []
        for kv in (PLUG, None):
            decoder = NativeDecoder(model, context=room, kv_tokens=room, kv=kv)
            sequence = decoder.sequence()
            decoder.prefill(sequence, ids)
            sizes.append(sequence.bytes)
    yield _smaller("compression-wide", sizes[0], sizes[1], f"{room:,} tokens of {_WIDE}")


def _smaller(claim: str, packed: int, dense: int, what: str) -> Measurement:
    return Measurement.exact(
        claim,
        dense / packed,
        subject=f"packed K3V3, {what}: {packed / 2**20:.2f} MiB, all counted",
        baseline=f"fp16: {dense / 2**20:.2f} MiB",
        detail={"packed_bytes": packed, "dense_bytes": dense},
    )
