"""How fast: products against bits on cold matrices, decoding, prefill, and their bytes."""

# torch and transformers leave parts of their interfaces untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.bench import Budget, Context, Measurement
from tidemill.bench.claim import Json
from tidemill.bench.compare import Comparison, Side, compare
from tidemill.bench.wording import figure
from tidemill.errors import ClaimError
from tidemill.systems.grinqh import workloads
from tidemill.systems.grinqh.kernels import NativeMatrix, Selector, Threads
from tidemill.systems.grinqh.reading import Reading, trace

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_RESAMPLES = 1000
BLOCK = 8
"""Neighbouring channels that share a level in the claims about products: runs of some kilobytes."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is raced.

    Args:
        rows: Outputs of the matrix of the products.
        cols: Its inputs.
        copies: Of the matrix, used in turn, so that none is in a cache.
        points: Average code bits of the products.
        model: That decodes.
        written: Tokens of a decoding run.
        prefill_model: That reads a prompt, in torch.
        prompt: Its tokens.
        repeats: Rounds.
    """

    rows: int
    cols: int
    copies: int
    points: tuple[float, ...]
    model: str
    written: int
    prefill_model: str
    prompt: int
    repeats: int


_POINTS = (2.0, 2.5, 3.0, 3.5, 4.0)
SCALES = {
    Budget.QUICK: Scale(4096, 8192, 40, _POINTS, "qwen2.5-coder-0.5b", 16, "gemma-3-270m", 128, 5),
    Budget.FULL: Scale(
        4096, 14336, 28, _POINTS, "qwen2.5-coder-0.5b", 48, "qwen2.5-coder-0.5b", 512, 7
    ),
}


class ColdProducts:
    """One product at a time, each with the next of some copies of a matrix.

    Args:
        scale: Of matrix and copies.
        block: Neighbouring channels that share a level.
        threads: Of a product.
    """

    def __init__(self, scale: Scale, block: int, threads: int) -> None:
        matrix = workloads.synthetic(scale.rows, scale.cols, top=4)
        self.reading = Reading(matrix)
        self.copies = [NativeMatrix(matrix) for _ in range(scale.copies)]
        self.inputs = np.random.default_rng(1).standard_normal((1, scale.cols)).astype(np.float32)
        self.block, self.threads, self.turn = block, Threads(threads), 0
        self.selector = Selector(np.ones(scale.cols, np.float32), (0, 2, 3, 4))

    def run(self, bits: float) -> F32:
        """Choose levels and multiply, with a matrix that no cache holds."""
        self.turn += 1
        levels = self.selector.within(self.inputs, bits, self.block)
        return self.copies[self.turn % len(self.copies)].apply(self.inputs, levels, self.threads)

    def read_bits(self, bits: float) -> float:
        """Bits per weight that such a product reads in all."""
        levels = self.selector.within(self.inputs, bits, self.block)
        return 8 * float(self.reading.bytes_of(levels)[0]) / self.reading.weights


def products(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Time of a product against the bits that it reads."""
    scale = scale or SCALES[context.budget]
    context.progress.stage(f"{scale.copies} matrices of {scale.rows:,} x {scale.cols:,}")
    cold = ColdProducts(scale, 1, 1)
    series: dict[str, Json] = {}
    races: dict[int, Comparison] = {}
    for block in (1, BLOCK):
        cold.block = block
        context.progress.stage(f"race, {block} channels to a level")
        races[block] = _race(context, scale, cold)
        series[f"block {block}"] = [
            {
                "bits": bits,
                "read_bits": round(cold.read_bits(bits), 4),
                "us": 1e6 * races[block].timing(_name(bits)).median_s,
            }
            for bits in scale.points
        ]
    cold.block = BLOCK
    seconds = np.array([races[BLOCK].timing(_name(bits)).seconds for bits in scale.points])
    read = np.array([cold.read_bits(bits) for bits in scale.points])
    yield _fit(read, seconds, series)
    low, high = (races[BLOCK].timing(_name(bits)) for bits in (2.0, 4.0))
    single = races[1].timing(_name(4.0)).median_s / races[1].timing(_name(2.0)).median_s
    pair = Comparison((low, high), races[BLOCK].clock)
    yield replace(
        pair.measurement("products-ratio", high.name),
        subject=f"{scale.rows:,} x {scale.cols:,} at 2 bits: {figure(1e6 * low.median_s)} us",
        baseline=f"at 4 bits: {figure(1e6 * high.median_s)} us; "
        f"each channel by itself {figure(single)} times",
        detail={"series": series, "ratio_of_single_channels": single},
    )


def _name(bits: float) -> str:
    return f"{bits:g} bits"


def _race(context: Context, scale: Scale, cold: ColdProducts) -> Comparison:
    def side(bits: float) -> Side:
        return Side(_name(bits), lambda: cold.run(bits), work=scale.rows * scale.cols, unit="w/s")

    first, *others = (side(bits) for bits in scale.points)
    return compare(first, *others, repeats=3 * scale.repeats, progress=context.progress)


def _fit(read: F64, seconds: F64, series: dict[str, Json]) -> Measurement:
    """R² of the straight line through median times, with an interval over rounds."""
    rounds = seconds.shape[1]
    draws = np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))
    value = _r2(read, np.median(seconds, axis=1))
    found = [_r2(read, np.median(seconds[:, draw], axis=1)) for draw in draws]
    low, high = np.quantile(found, [0.025, 0.975])
    slope, start = np.polyfit(read, np.median(seconds, axis=1) * 1e6, 1)
    return Measurement(
        claim="products-fit",
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        repeats=rounds,
        subject=f"{figure(float(slope))} us a bit, {figure(float(start))} us at none",
        detail={"series": series},
    )


def _r2(x: F64, y: F64) -> float:
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def decoding(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """Tokens a second of the native decoder, one copy of the weights, bits switched live."""
    scale = scale or SCALES[context.budget]
    with _Runner(context, scale) as runner:
        race = compare(
            runner.side("2.5 bits", 2.5, head=2.5),
            runner.side("4 bits", 4.0, head=4.0),
            runner.side("2.5 bits, head at 4", 2.5, head=4.0),
            repeats=scale.repeats,
            progress=context.progress,
        )
        yield replace(
            race.measurement("decode-speed", "4 bits"),
            subject=f"2.5 bits on {scale.model}: {_rate(race, '2.5 bits')}",
            baseline=f"4 bits: {_rate(race, '4 bits')}; "
            f"2.5 with the output matrix at 4: {_rate(race, '2.5 bits, head at 4')}",
        )


def against_llama(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """GRINQH at 3 bits in the native decoder against llama.cpp on the model's own file."""
    from tidemill.models.llama_peer import LlamaModel, PeerSettings
    from tidemill.models.store import ModelStore

    scale = scale or SCALES[context.budget]
    path = ModelStore().pull(scale.model)
    with (
        LlamaModel(path) as model,
        model.context(PeerSettings(), threads=context.threads, tokens=256) as peer,
        _Runner(context, scale) as runner,
    ):
        race = compare(
            runner.side("3 bits", 3.0),
            Side("llama.cpp", lambda: _write(peer, runner.ids, scale.written), scale.written),
            Side("own decoder, file as it is", runner.plain(), scale.written),
            repeats=scale.repeats,
            progress=context.progress,
        )
        yield replace(
            race.measurement("decode-llama", "llama.cpp"),
            subject=f"3 bits on {scale.model}: {_rate(race, '3 bits')}",
            baseline=f"llama.cpp, Q4_K_M file: {_rate(race, 'llama.cpp')}",
        )


def _rate(race: Comparison, name: str) -> str:
    return f"{figure(race.rate(name).median)} tokens/s"


def _write(peer: Any, ids: list[int], count: int) -> list[int]:
    peer.truncate(0)
    token = int(peer.prefill(ids).argmax())
    found = [token]
    for _ in range(count - 1):
        token = peer.step([token])[0]
        found.append(token)
    return found


class _Runner:
    """A native decoder over graded weights and one over the file's own, and a prompt."""

    def __init__(self, context: Context, scale: Scale) -> None:
        self._context, self._scale = context, scale

    def __enter__(self) -> _Runner:
        from tidemill.models.model_file import open_model
        from tidemill.models.native_decoder import NativeDecoder
        from tidemill.systems.grinqh.plug import GrinqhWeights

        self._context.progress.stage(f"quantise {self._scale.model}")
        self.weights = GrinqhWeights(4.0)
        with open_model(self._scale.model) as file:
            threads = self._context.threads
            self.ids = file.tokenizer.encode(workloads.text("test")[:200])[:16]
            self._graded = NativeDecoder(file, threads=threads, context=256, weights=self.weights)
            self._own = NativeDecoder(file, threads=threads, context=256)
        self._context.progress.stage("decode")
        return self

    def __exit__(self, *_: object) -> None:
        del self._graded, self._own

    def side(self, name: str, bits: float, head: float | None = None) -> Side:
        def turn() -> None:
            self.weights.head = head
            self.weights.bits = bits

        written = self._scale.written
        return Side(name, self._writer(self._graded), written, "tokens/s", prepare=turn)

    def plain(self) -> Callable[[], object]:
        return self._writer(self._own)

    def _writer(self, decoder: Any) -> Callable[[], list[int]]:
        from tidemill.models.native_decoder import Part

        def write() -> list[int]:
            sequence = decoder.sequence()
            token = int(decoder.prefill(sequence, self.ids).argmax())
            found = [token]
            for _ in range(self._scale.written - 1):
                token = decoder.step_greedy([Part(sequence, [token])])[0]
                found.append(token)
            return found

        return write


def prefill(context: Context, scale: Scale | None = None) -> Iterator[Measurement]:
    """A prompt through graded layers at the full level, against torch's own linear layers."""
    import torch

    from tidemill.systems.grinqh.scores import Sample
    from tidemill.systems.grinqh.torch_model.scoring import Subject

    scale = scale or SCALES[context.budget]
    context.progress.stage(f"load {scale.prefill_model}")
    torch.set_num_threads(context.threads)
    subject = Subject(scale.prefill_model, Sample(1, scale.prompt - 8, 8, 64), context.threads)
    ids = subject.window
    subject.graded.set_bits(decode=2.5, prefill="full")

    def run(layers: Any) -> Side:
        name = "graded" if layers is subject.graded.layers else "torch"

        def once() -> Any:
            with torch.inference_mode():
                return subject.model.base_model(input_ids=ids, use_cache=False)

        return Side(name, once, scale.prompt, "tokens/s", prepare=lambda: subject.install(layers))

    race = compare(
        run(subject.graded.layers),
        run(subject.sources),
        repeats=max(5, scale.repeats - 2),
        progress=context.progress,
    )
    yield replace(
        race.measurement("prefill-speed", "torch"),
        subject=f"{scale.prompt} tokens of {scale.prefill_model}: {_rate(race, 'graded')}",
        baseline=f"torch, float32: {_rate(race, 'torch')}",
    )
    yield _prefill_bits(subject, ids, scale)
    yield _stored(subject, scale)


def _prefill_bits(subject: Any, ids: Any, scale: Scale) -> Measurement:
    """What a prompt reads, while decoding is set to few bits."""
    import torch

    subject.install(subject.graded.layers)
    with trace() as found, torch.inference_mode():
        subject.model.base_model(input_ids=ids, use_cache=False)
    bits = found.average_bits
    weights = sum(layer.weights for layer in found.layers.values())
    return Measurement.exact(
        "prefill-bits",
        bits,
        subject=f"{scale.prompt} tokens of {scale.prefill_model}, decode set to 2.5 bits",
        detail={
            "bytes_moved": found.bytes_moved,
            "bits_per_weight_moved": 8 * found.bytes_moved / weights,
            "channels": {str(level): share for level, share in found.channels.items()},
        },
    )


def _stored(subject: Any, scale: Scale) -> Measurement:
    layers = subject.graded.layers.values()
    kept = sum(buffer.nbytes for layer in layers for buffer in layer.buffers())
    weights = sum(layer.out_features * layer.in_features for layer in layers)
    bits = 8 * kept / weights
    if not np.isclose(bits, subject.graded.stored_bits, rtol=0.02):
        raise ClaimError(f"storage — buffers take {bits:.2f} bits, not as counted.")
    return Measurement.exact(
        "stored",
        bits,
        subject=f"{scale.prefill_model}: {kept / 1e6:.0f} MB of {weights / 1e6:.0f} M weights",
        detail={"bytes": cast("Json", kept), "weights": weights},
    )
