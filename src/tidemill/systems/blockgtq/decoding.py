"""What a user of ``--kv blockgtq:k3v3`` gets: bytes and tokens per second of whole decoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.compare import Side, compare
from tidemill.models.model_file import open_model
from tidemill.models.native_decoder import NativeDecoder, Part
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
    room = scale.context + scale.tokens
    with open_model(str(ModelStore().pull(scale.model))) as model:
        context.progress.stage(f"{scale.model}: calibrate if need be")
        ids = model.tokenizer.encode(workloads.text("test")[: 16 * room])[: scale.context]
        runs: list[_Run] = []
        for kv in (PLUG, None):
            context.progress.stage(f"{kv or 'dense'}: read {scale.context:,} tokens")
            decoder = NativeDecoder(
                model, threads=context.threads, context=room, kv_tokens=room, kv=kv
            )
            runs.append(_Run(decoder, ids, scale.tokens))
    context.progress.stage("decode")
    sides = [
        Side(name, run.decode, float(scale.tokens), "tokens/s", prepare=run.rewind)
        for name, run in zip(("packed K3V3", "dense fp16"), runs, strict=True)
    ]
    race = compare(*sides, repeats=scale.repeats, progress=context.progress)
    yield race.measurement("decode", "dense fp16")


class _Run:
    """One decoder after its prompt."""

    def __init__(self, decoder: NativeDecoder, ids: list[int], tokens: int) -> None:
        self._decoder, self._tokens, self._length = decoder, tokens, len(ids)
        self._sequence = decoder.sequence()
        self._first = int(decoder.prefill(self._sequence, ids).argmax())

    def rewind(self) -> None:
        self._sequence.truncate(self._length)

    def decode(self) -> None:
        token = self._first
        for _ in range(self._tokens):
            token = self._decoder.step_greedy([Part(self._sequence, (token,))])[0]


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
    value = dense / packed
    return Measurement(
        claim=claim,
        value=value,
        low=value,
        high=value,
        repeats=1,
        subject=f"packed K3V3, {what}: {packed / 2**20:.2f} MiB, all counted",
        baseline=f"fp16: {dense / 2**20:.2f} MiB",
        detail={"packed_bytes": packed, "dense_bytes": dense},
    )
