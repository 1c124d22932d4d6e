"""A decoder's configuration from a ``config.json`` of the Hugging Face hub."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tidemill.errors import ConfigError, CorruptFile, UnsupportedModel
from tidemill.models.config import DecoderConfig
from tidemill.models.rope_scaling import RopeScaling

MODEL_TYPES = {
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""``model_type`` of the hub, and the architecture that computes it."""
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_GEMMA3_PERIOD = 6
_REQUIRED = object()


@dataclass(frozen=True, slots=True)
class _Keys:
    values: Mapping[str, object]

    def _found(self, name: str, default: object) -> object:
        found = self.values.get(name)
        found = default if found is None else found
        if found is _REQUIRED:
            raise CorruptFile(f"config.json — has no {name!r}; copy the model again.")
        return found

    def integer(self, name: str, default: object = _REQUIRED) -> int:
        found = self._found(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise _wrong(name, found, "a count")
        return found

    def number(self, name: str, default: object = _REQUIRED) -> float:
        found = self._found(name, default)
        if not isinstance(found, int | float) or not math.isfinite(found):
            raise _wrong(name, found, "a number")
        return float(found)

    def text(self, name: str, default: object = _REQUIRED) -> str:
        found = self._found(name, default)
        if not isinstance(found, str):
            raise _wrong(name, found, "a text")
        return found

    def inner(self, name: str) -> _Keys:
        found = self._found(name, {})
        if not isinstance(found, Mapping):
            raise _wrong(name, found, "an object")
        return _Keys(cast("Mapping[str, object]", found))

    def is_set(self, name: str) -> bool:
        return bool(self.values.get(name))


def _wrong(name: str, found: object, allowed: str) -> CorruptFile:
    return CorruptFile(f"config.json — {name!r} is {str(found)[:40]!r}; must be {allowed}.")


def config_of(config: Mapping[str, object]) -> DecoderConfig:
    """See ``DecoderConfig.from_hf``."""
    keys = _Keys(config)
    if "text_config" in config:
        keys = keys.inner("text_config")
    kind = keys.text("model_type")
    if kind not in MODEL_TYPES:
        raise UnsupportedModel(
            f"config.json — model_type is {kind[:40]!r}; {', '.join(sorted(MODEL_TYPES))} are "
            "implemented; use another model."
        )
    try:
        return _config(keys, MODEL_TYPES[kind])
    except ConfigError as error:
        raise CorruptFile(f"config.json — {error}") from error


def _config(keys: _Keys, architecture: str) -> DecoderConfig:
    gemma = architecture == "gemma3"
    _refuse_variations(keys)
    heads, hidden = keys.integer("num_attention_heads"), keys.integer("hidden_size")
    head_dim = keys.integer("head_dim", 256 if gemma else hidden // max(heads, 1))
    layers = keys.integer("num_hidden_layers")
    sliding = _sliding(keys, architecture, layers)
    theta, theta_local = _thetas(keys, gemma)
    activation = keys.text("hidden_activation" if gemma else "hidden_act", "silu")
    if gemma and keys.values.get("hidden_activation") is None:
        activation = "gelu_pytorch_tanh"
    return DecoderConfig(
        architecture=architecture,
        layers=layers,
        hidden_size=hidden,
        intermediate_size=keys.integer("intermediate_size"),
        heads=heads,
        kv_heads=keys.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        vocab_size=keys.integer("vocab_size"),
        context_length=keys.integer("max_position_embeddings"),
        rms_norm_eps=keys.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_theta_local=theta_local,
        rope_scaling=_scaling(keys),
        sliding_window=keys.integer("sliding_window") if any(sliding) else None,
        sliding_layers=sliding,
        query_scale=keys.number("query_pre_attn_scalar", head_dim) ** -0.5
        if gemma
        else 1 / math.sqrt(head_dim or 1),
        activation=_activation(activation),
        embedding_scale=math.sqrt(hidden) if gemma else 1.0,
        qk_norm=architecture in ("gemma3", "qwen3"),
        attention_bias=architecture == "qwen2" or keys.is_set("attention_bias"),
        post_norms=gemma,
        tied_head=bool(keys.values.get("tie_word_embeddings", gemma)),
    )


def _refuse_variations(keys: _Keys) -> None:
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "mlp_bias"):
        if keys.is_set(name):
            raise UnsupportedModel(f"config.json — sets {name!r}, which is not implemented.")
    if keys.is_set("quantization_config"):
        raise UnsupportedModel(
            "config.json — the weights are quantised by another library; use the original model."
        )
    if keys.is_set("use_bidirectional_attention"):
        raise UnsupportedModel("config.json — the model is an encoder; decoders can be run.")
    if keys.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel("config.json — rotates only a part of each head.")


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"config.json — activation {name[:40]!r}; {', '.join(_ACTIVATIONS)} are implemented."
        )
    return _ACTIVATIONS[name]


def _sliding(keys: _Keys, architecture: str, layers: int) -> tuple[bool, ...]:
    kinds = keys.values.get("layer_types")
    if isinstance(kinds, list | tuple):
        return tuple(kind == "sliding_attention" for kind in cast("list[object]", kinds))
    layers = min(layers, 1 << 10)
    if not keys.values.get("sliding_window"):
        return (False,) * layers
    if architecture == "gemma3":
        period = keys.integer("sliding_window_pattern", _GEMMA3_PERIOD)
        return tuple(period == 0 or (layer + 1) % period != 0 for layer in range(layers))
    if architecture == "llama":  # Mistral: every layer slides
        return (True,) * layers
    first = keys.integer("max_window_layers", 28) if keys.is_set("use_sliding_window") else layers
    return tuple(layer >= first for layer in range(layers))


def _rope(keys: _Keys, kind: str) -> _Keys:
    """The rope settings of one kind of layer; the hub has nested them since transformers 5."""
    parameters = keys.inner("rope_parameters")
    return parameters.inner(kind) if kind in parameters.values else parameters


def _thetas(keys: _Keys, gemma: bool) -> tuple[float, float]:
    full, sliding = _rope(keys, "full_attention"), _rope(keys, "sliding_attention")
    theta = full.number("rope_theta", keys.number("rope_theta", 1e6 if gemma else 10000.0))
    if not gemma:
        return theta, theta
    nested = "sliding_attention" in keys.inner("rope_parameters").values
    local = keys.number("rope_local_base_freq", 10000.0)
    return theta, sliding.number("rope_theta", local) if nested else local


def _scaling(keys: _Keys) -> RopeScaling | None:
    found = keys.inner("rope_scaling")
    found = found if found.values else _rope(keys, "full_attention")
    kind = found.text("rope_type", found.text("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3", "yarn"):
        raise UnsupportedModel(
            f"config.json — rope_type is {kind[:40]!r}; linear, llama3 and yarn are implemented."
        )
    magnitude = found.number("attention_factor", 0.0)
    return RopeScaling(
        kind=kind,
        factor=found.number("factor", 1.0),
        original_context_length=found.integer(
            "original_max_position_embeddings", keys.integer("max_position_embeddings")
        ),
        low_freq_factor=found.number("low_freq_factor", 1.0),
        high_freq_factor=found.number("high_freq_factor", 4.0),
        beta_fast=found.number("beta_fast", 32.0),
        beta_slow=found.number("beta_slow", 1.0),
        attention_factor=magnitude or None,
    )
