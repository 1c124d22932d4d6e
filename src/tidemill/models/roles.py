"""What each tensor of a decoder is for, what it is named in a file, and what shape it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.models.config import DecoderConfig

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "output": "output.weight",
    "output_norm": "output_norm.weight",
    "attn_norm": "blk.{}.attn_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "q_bias": "blk.{}.attn_q.bias",
    "k_bias": "blk.{}.attn_k.bias",
    "v_bias": "blk.{}.attn_v.bias",
    "o_bias": "blk.{}.attn_output.bias",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "post_attn_norm": "blk.{}.post_attention_norm.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
    "post_ffn_norm": "blk.{}.post_ffw_norm.weight",
}
HF_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "output": "lm_head.weight",
    "output_norm": "model.norm.weight",
    "attn_norm": "model.layers.{}.input_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight",
    "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight",
    "o": "model.layers.{}.self_attn.o_proj.weight",
    "q_bias": "model.layers.{}.self_attn.q_proj.bias",
    "k_bias": "model.layers.{}.self_attn.k_proj.bias",
    "v_bias": "model.layers.{}.self_attn.v_proj.bias",
    "o_bias": "model.layers.{}.self_attn.o_proj.bias",
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
}
HF_POST_NORM_NAMES = {
    "post_attn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
    "post_ffn_norm": "model.layers.{}.post_feedforward_layernorm.weight",
}
"""What differs where ``post_norms`` is set (Gemma3)."""
MODEL_ROLES = ("embedding", "output", "output_norm")
LAYER_ROLES = tuple(role for role in GGUF_NAMES if role not in MODEL_ROLES)


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor that a decoder has; ``layer`` is None for those outside the layers."""

    role: str
    layer: int | None
    shape: tuple[int, ...]
    optional: bool = False


def slots(config: DecoderConfig) -> Iterator[Slot]:
    """Every tensor of the decoder, in the order of the computation."""
    yield Slot("embedding", None, (config.vocab_size, config.hidden_size))
    layer = _layer_shapes(config)
    for index in range(config.layers):
        for role, shape in layer.items():
            yield Slot(role, index, shape, optional=role == "o_bias")
    yield Slot("output_norm", None, (config.hidden_size,))
    if not config.tied_head:
        yield Slot("output", None, (config.vocab_size, config.hidden_size))


def _layer_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_size
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
    }
    if config.attention_bias:
        shapes |= {"q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,), "o_bias": (hidden,)}
    if config.qk_norm:
        shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    if config.post_norms:
        shapes |= {"post_attn_norm": (hidden,), "post_ffn_norm": (hidden,)}
    return shapes | {
        "ffn_norm": (hidden,),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
