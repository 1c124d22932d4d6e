"""Small random models of two families, a tokenizer of bytes, and synthetic layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tidemill.systems.blockgtq.statistics import LayerStatistics

FREQUENCIES = 1e4 ** (-np.arange(32) / 32)


class ByteTokenizer:
    def __call__(
        self, text: str, return_tensors: str | None = None, add_special_tokens: bool = True
    ) -> dict[str, Any]:
        import torch

        ids = list(text.encode())
        return {"input_ids": torch.tensor([ids]) if return_tensors else ids}

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


def llama(seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config).eval()


def gemma(seed: int = 0) -> Any:
    """Query and key norms, one KV head, sliding layers of another RoPE base."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=40,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return Gemma3ForCausalLM(config).eval()


def layer(
    *, heads: int = 2, group: int = 3, tokens: int = 300, dim: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values whose energy falls with the block, keys with a mean."""
    draw = np.random.default_rng(seed)
    scale = np.tile(0.3 + 4 * np.exp(-np.arange(dim // 2) / (dim / 10)), 2)
    mean = np.zeros(dim)
    mean[dim // 2 - 2 : dim // 2] = 15
    queries = draw.standard_normal((heads * group, tokens, dim)) * scale
    keys = draw.standard_normal((heads, tokens, dim)) * scale + mean
    values = draw.standard_normal((heads, tokens, dim))
    return tuple(x.astype(np.float32) for x in (queries, keys, values))


def statistics(dim: int = 64, **rest: int) -> LayerStatistics:
    frequencies = 1e4 ** (-np.arange(dim // 2) / (dim // 2))
    return LayerStatistics.of(*layer(dim=dim, **rest), frequencies)
