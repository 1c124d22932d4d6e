"""A decoder's configuration from the metadata of a GGUF file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidemill.errors import ConfigError, CorruptFile, UnsupportedModel
from tidemill.models.config import ARCHITECTURES, DecoderConfig
from tidemill.models.gguf import GGUFFile
from tidemill.models.gguf_cursor import quoted
from tidemill.models.rope_scaling import RopeScaling
from tidemill.models.string_array import StringArray

_GEMMA3_PERIOD = 6  # every sixth layer is full, unless the file says otherwise
_GEMMA3_27B_LAYERS = 62
_MAX_LAYERS = 1 << 10
_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class _Keys:
    """The metadata of one file, read by the names that follow the architecture's."""

    file: GGUFFile
    architecture: str

    def corrupt(self, found: str) -> CorruptFile:
        return CorruptFile(f"{self.file.path} — {found}; pull or copy the file again.")

    def unsupported(self, found: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{self.file.path} — {found}, which is not implemented; use another model."
        )

    def _found(self, name: str, default: object) -> object:
        key = f"{self.architecture}.{name}"
        found: object = self.file.metadata.get(key, default)
        if found is _REQUIRED:
            raise self.corrupt(f"has no {key}")
        return found

    def integer(self, name: str, default: object = _REQUIRED) -> int:
        found = self._found(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise self.corrupt(f"{self.architecture}.{name} is {quoted(found)}, not a count")
        return found

    def number(self, name: str, default: object = _REQUIRED) -> float:
        found = self._found(name, default)
        if not isinstance(found, float | int) or not math.isfinite(found):
            raise self.corrupt(f"{self.architecture}.{name} is {quoted(found)}, not a number")
        return float(found)

    def text(self, name: str, default: str) -> str:
        found = self._found(name, default)
        if not isinstance(found, str):
            raise self.corrupt(f"{self.architecture}.{name} is {quoted(found)}, not a text")
        return found


def config_of(file: GGUFFile) -> DecoderConfig:
    """See ``DecoderConfig.from_gguf``."""
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise CorruptFile(f"{file.path} — has no general.architecture; it holds no model.")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{file.path} — is of the architecture {quoted(architecture)}; "
            f"{', '.join(ARCHITECTURES)} are implemented; use another model."
        )
    keys = _Keys(file, architecture)
    try:
        return _config(keys)
    except ConfigError as error:
        raise keys.corrupt(str(error).rstrip(".")) from error


def _config(keys: _Keys) -> DecoderConfig:
    _refuse_variations(keys)
    vocab, hidden = _embedding(keys)
    heads = keys.integer("attention.head_count")
    head_dim = _head_dim(keys, hidden, heads)
    theta = keys.number("rope.freq_base", 10000.0)
    layers = keys.integer("block_count")
    if layers > _MAX_LAYERS:
        raise keys.corrupt(f"{keys.architecture}.block_count is {layers}; 1024 is the most")
    gemma = keys.architecture == "gemma3"
    window = keys.integer("attention.sliding_window", 0) if gemma else 0
    tensors = keys.file.tensors
    return DecoderConfig(
        architecture=keys.architecture,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=keys.integer("feed_forward_length"),
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=vocab,
        context_length=keys.integer("context_length"),
        rms_norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_theta_local=keys.number("rope.freq_base_swa", 10000.0) if gemma else theta,
        rope_scaling=_scaling(keys, head_dim),
        rope_interleaved=keys.architecture == "llama",
        sliding_window=window or None,
        sliding_layers=_sliding(keys, layers, bool(window)),
        query_scale=_query_scale(keys, layers, hidden, heads, head_dim),
        activation="gelu_tanh" if gemma else "silu",
        embedding_scale=math.sqrt(hidden) if gemma else 1.0,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        post_norms=gemma,
        tied_head="output.weight" not in tensors,
    )


def _refuse_variations(keys: _Keys) -> None:
    """What llama.cpp would compute differently, and silence would get wrong."""
    if keys.integer("expert_count", 0):
        raise keys.unsupported("is a mixture of experts")
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if keys.number(cap, 0.0):
            raise keys.unsupported(f"sets {keys.architecture}.{cap}")
    split = keys.file.metadata.get("split.count", 0)
    if isinstance(split, int) and split > 1:
        raise keys.unsupported(f"is one of {split} files; join them with llama-gguf-split --merge")


def _embedding(keys: _Keys) -> tuple[int, int]:
    info = keys.file.tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        raise keys.corrupt("has no matrix token_embd.weight")
    vocab, hidden = info.shape
    if hidden != keys.integer("embedding_length"):
        raise keys.corrupt(
            f"token_embd.weight is {hidden} wide, {keys.architecture}.embedding_length is "
            f"{keys.integer('embedding_length')}"
        )
    tokens = keys.file.metadata.get("tokenizer.ggml.tokens", ())
    if isinstance(tokens, StringArray) and len(tokens) > vocab:
        raise keys.corrupt(f"has {len(tokens)} tokens but only {vocab} embeddings")
    return vocab, hidden


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    if not heads:
        raise keys.corrupt(f"{keys.architecture}.attention.head_count is 0")
    head_dim = keys.integer("attention.key_length", hidden // heads)
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.unsupported("has values of another length than keys")
    if keys.integer("rope.dimension_count", head_dim) != head_dim:
        raise keys.unsupported("rotates only a part of each head")
    return head_dim


def _sliding(keys: _Keys, layers: int, slides: bool) -> tuple[bool, ...]:
    if not slides:
        return (False,) * layers
    period = keys.integer("attention.sliding_window_pattern", _GEMMA3_PERIOD)
    return tuple(period == 0 or (layer + 1) % period != 0 for layer in range(layers))


def _query_scale(keys: _Keys, layers: int, hidden: int, heads: int, head_dim: int) -> float:
    given = keys.number("attention.scale", 0.0)
    if given:
        return given
    if keys.architecture == "gemma3" and layers == _GEMMA3_27B_LAYERS:
        return 1 / math.sqrt(hidden / heads)
    return 1 / math.sqrt(head_dim or 1)


def _scaling(keys: _Keys, head_dim: int) -> RopeScaling | None:
    file = keys.file
    kind = keys.text("rope.scaling.type", "none")
    original = keys.integer("rope.scaling.original_context_length", 0)
    if "rope_freqs.weight" in file.tensors:
        if file.tensors["rope_freqs.weight"].shape != (head_dim // 2,):
            raise keys.corrupt("rope_freqs.weight has not one divisor per pair of dimensions")
        divisors = tuple(file.dequantize("rope_freqs.weight").tolist())
        return RopeScaling(kind="llama3", factor=max(divisors), frequency_divisors=divisors)
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if kind == "none" and "rope.scaling.type" not in file.metadata and factor != 1.0:
        kind = "linear"
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise keys.unsupported(f"scales its positions by {quoted(kind)}")
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context_length=original or keys.integer("context_length"),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
    )
