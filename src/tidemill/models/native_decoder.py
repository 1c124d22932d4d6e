"""A decoder that runs in C++: weights packed once at load, one call without the GIL per step.

    with open_model("qwen2.5-coder-0.5b") as file:
        decoder = NativeDecoder(file)
    sequence = decoder.sequence()
    logits = decoder.step([Part(sequence, ids)])

It knows nothing about text or sampling.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError, InputError, MissingCapability
from tidemill.models.config import DecoderConfig
from tidemill.models.ggml_types import GGMLType
from tidemill.models.model_file import ModelFile
from tidemill.models.sockets import (
    KVPlug,
    KVPool,
    NativeKVCache,
    NativeLinear,
    WeightPlug,
    kv_plug,
    weight_plug,
)
from tidemill.native import kernels

DEFAULT_CONTEXT = 4096
DEFAULT_SEQUENCES = 8
PROMPT_CHUNK = 256
"""Tokens of a prompt in one step: more gains no speed and costs memory."""
PAGE_TOKENS = 32
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
_VECTORS = (
    *("attn_norm", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm"),
    *("post_attn_norm", "ffn_norm", "post_ffn_norm"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """What a step does for one sequence: a piece of its prompt, or the next token of its text."""

    sequence: NativeKVCache
    ids: Sequence[int]
    logits: int = 1
    """How many rows of logits are wanted, after the last so many ids; 0 for none."""


class NativeDecoder:
    """Llama, Qwen2, Qwen3 or Gemma3 on this CPU; threads may share it, steps take turns.

    Logits do not depend on the number of threads, on what else is in the batch, nor on how a
    prompt is cut, bit for bit. The model file may be closed once this is made.
    """

    config: DecoderConfig
    context: int
    """Tokens that one sequence may have."""
    kv_tokens: int
    """Tokens that all sequences together may have."""

    def __init__(
        self,
        model: ModelFile,
        *,
        threads: int | None = None,
        context: int | None = None,
        kv_tokens: int | None = None,
        weights: str | WeightPlug | None = None,
        kv: str | KVPlug | None = None,
    ) -> None:
        """Pack the weights of ``model``.

        Args:
            model: An open file.
            threads: Of a step; by default one per CPU that this process may use.
            context: Tokens a sequence may have; by default the model's, but at most 4,096.
            kv_tokens: Tokens that all sequences together may have; memory is taken as it is used.
            weights: A plug of the socket ``weights``, as ``grinqh:3.0``.
            kv: A plug of the socket ``kv-cache``, as ``blockgtq:k3v3``.

        Raises:
            ConfigError: a number is out of its range, or there is no such plug.
            MissingCapability: the native kernels are not in this build, or a plug gives what does
                not fit the model.
        """
        self.config = model.config
        self.context = default_context(model.config, context)
        threads = usable_cpus() if threads is None else threads
        if not 1 <= threads <= 256:
            raise ConfigError.of("threads", threads, "from 1 to 256")
        total = DEFAULT_SEQUENCES * self.context if kv_tokens is None else kv_tokens
        if total < self.context:
            raise ConfigError.of("kv_tokens", kv_tokens, f"at least context={self.context}")
        self.kv_tokens = total
        self._native: Any = kernels("models")
        self._pool = self._native.Pool(threads)
        self._plug = weight_plug(weights) if isinstance(weights, str) else weights
        plug = kv_plug(kv) if isinstance(kv, str) else kv
        self._kv: KVPool = (
            plug.pool(model, total) if plug else _PagedPool(self._native, self.config, total)
        )
        self._decoder = self._build(model)

    @property
    def threads(self) -> int:
        """Threads of a step."""
        return int(self._pool.threads)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step of one token reads."""
        return int(self._decoder.bytes)

    @property
    def native_s(self) -> float:
        """Seconds that steps took in C++ so far; what a caller saw beyond them is overhead."""
        return float(self._decoder.seconds)

    def sequence(self) -> NativeKVCache:
        """A new, empty sequence, whose memory is given back when it is dropped."""
        return self._kv.sequence()

    def step(self, parts: Sequence[Part]) -> NDArray[np.float32]:
        """Run all parts at once; their sequences grow by their ids.

        Returns:
            Logits of shape (sum of ``logits``, vocab_size), in the order of the parts.

        Raises:
            InputError: a prompt is empty, an id outside the vocabulary, a sequence full, in
                another thread's step or twice in the batch, or logits are not finite.
            OutOfPool: there are no pages left.
            In both cases no sequence has changed.
        """
        return cast("NDArray[np.float32]", self._decoder.step(*self._arguments(parts)))

    def step_greedy(self, parts: Sequence[Part]) -> list[int]:
        """As ``step``, but the likeliest id of each row instead of its logits."""
        return cast("list[int]", self._decoder.step_greedy(*self._arguments(parts)))

    def prefill(self, sequence: NativeKVCache, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append a prompt in chunks; logits after its last token, shape (vocab_size,).

        Raises:
            InputError, OutOfPool: as ``step``; the sequence has not changed.
        """
        before = sequence.length
        _check_ids(ids, self.config.vocab_size)
        if before + len(ids) > self.context:
            raise InputError(
                f"context — {len(ids)} tokens after {before} exceed the context of "
                f"{self.context}; shorten the prompt, or open the model with a larger context."
            )
        try:
            last = (len(ids) - 1) // PROMPT_CHUNK * PROMPT_CHUNK
            for first in range(0, last, PROMPT_CHUNK):
                self.step([Part(sequence, ids[first : first + PROMPT_CHUNK], 0)])
            logits = self.step([Part(sequence, ids[last:])])
        except BaseException:
            if sequence.length > before:
                sequence.truncate(before)
            raise
        return cast("NDArray[np.float32]", logits[0])

    def _arguments(self, parts: Sequence[Part]) -> tuple[Any, ...]:
        for part in parts:
            _check_ids(part.ids, self.config.vocab_size)
        ids = np.array([token for part in parts for token in part.ids], dtype=np.int32)
        return (
            [part.sequence for part in parts],
            ids,
            [len(part.ids) for part in parts],
            [part.logits for part in parts],
            self._pool,
        )

    def _build(self, model: ModelFile) -> Any:
        config = self.config
        embedding = self._matrix(model, "embedding")
        layers = [self._layer(model, layer) for layer in range(config.layers)]
        head = embedding if config.tied_head else self._matrix(model, "output")
        norm = model.weight("output_norm")
        return self._native.Decoder(self._shape(), layers, embedding, head, norm.tolist())

    def _shape(self) -> Any:
        config = self.config
        shape = self._native.DecoderShape()
        shape.hidden, shape.inner = config.hidden_size, config.intermediate_size
        shape.heads, shape.kv_heads, shape.head_dim = config.heads, config.kv_heads, config.head_dim
        shape.vocab, shape.context = config.vocab_size, self.context
        shape.eps, shape.query_scale = config.rms_norm_eps, config.query_scale
        shape.embedding_scale = config.embedding_scale
        shape.gelu = config.activation == "gelu_tanh"
        shape.interleaved = config.rope_interleaved
        return shape

    def _layer(self, model: ModelFile, index: int) -> Any:
        layer = self._native.Layer()
        for role in _MATRICES:
            setattr(layer, role, self._matrix(model, role, index))
        for role in _VECTORS:
            if model.has(role, index):
                setattr(layer, role, model.weight(role, index))
        _forget_pages(model.raw("q", index))
        layer.frequencies = self.config.inverse_frequencies(index)
        layer.magnitude = self.config.rope_magnitude(index)
        layer.window = self.config.window(index) or 0
        return layer

    def _matrix(self, model: ModelFile, role: str, layer: int | None = None) -> NativeLinear:
        info = model.tensor(role, layer)
        rows, cols = info.shape
        plugged = self._plug.pack(model, role, layer, self._pool) if self._plug else None
        if plugged is not None:
            _check_plugged(plugged, (rows, cols), _named(role, layer))
            return plugged
        raw = model.raw(role, layer)
        try:
            packed = self._native.pack_linear(
                int(info.type), rows, cols, raw, self._pool, mapped=_mapping(raw) is not None
            )
        except ValueError:  # a type without a kernel of its own
            weights = model.weight(role, layer).reshape(-1).view(np.uint8)
            packed = self._native.pack_linear(int(GGMLType.F32), rows, cols, weights, self._pool)
        return cast("NativeLinear", packed)


class _PagedPool:
    """The cache that is used without a plug: fp16 pages."""

    def __init__(self, native: Any, config: DecoderConfig, tokens: int) -> None:
        pages = -(-tokens // PAGE_TOKENS)
        self._native = native
        self._arena = native.PageArena(config.layers, config.kv_heads, config.head_dim, pages)

    def sequence(self) -> NativeKVCache:
        return cast("NativeKVCache", self._native.paged_kv(self._arena))


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _named(role: str, layer: int | None) -> str:
    return role if layer is None else f"{role} of layer {layer}"


def _check_plugged(matrix: NativeLinear, shape: tuple[int, int], what: str) -> None:
    if (matrix.rows, matrix.cols) != shape:
        raise MissingCapability(
            f"weights — the plug made {matrix.rows} x {matrix.cols} of {what}, which is "
            f"{shape[0]} x {shape[1]}; report it to whoever makes the plug, or leave it out."
        )


def default_context(config: DecoderConfig, context: int | None = None) -> int:
    """Tokens a sequence may have when ``context`` are asked for, or nothing is said.

    Raises:
        ConfigError: more than the model was made for, or none.
    """
    if context is None:
        return min(config.context_length, DEFAULT_CONTEXT)
    if not 1 <= context <= config.context_length:
        raise ConfigError.of(
            "context", context, f"from 1 to {config.context_length}", "the model was made for that"
        )
    return context


def _check_ids(ids: Sequence[int], vocab_size: int) -> None:
    if not len(ids):
        raise InputError("prompt — is empty; give at least one token.")
    low, high = min(ids), max(ids)
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token id {low if low < 0 else high} — is outside the vocabulary; "
            f"ids are from 0 to {vocab_size - 1}."
        )


def _mapping(raw: NDArray[np.uint8]) -> mmap.mmap | None:
    """The mapped file whose bytes these are, if they are such."""
    base: Any = raw
    while isinstance(base, np.ndarray):
        base = cast("Any", base).base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, mmap.mmap) else None


def _forget_pages(raw: NDArray[np.uint8]) -> None:
    """Give back what is resident of the mapped file that ``raw`` is of.

    The packed weights are all that steps read; without this a model would be resident twice. The
    system maps neighbours of what is read, too, so that giving back tensor by tensor leaves much.
    """
    mapped = _mapping(raw)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
