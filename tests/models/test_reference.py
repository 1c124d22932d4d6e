"""The readable decoder against transformers' own classes, all four architectures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tidemill.errors import InputError
from tidemill.models.config import DecoderConfig
from tidemill.models.reference import ReferenceDecoder
from tidemill.models.roles import HF_NAMES, HF_POST_NORM_NAMES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma3": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
}
CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3"}


class HFWeights:
    """The weights of a transformers model, by role."""

    def __init__(self, model: Any, config: DecoderConfig) -> None:
        self._state = model.state_dict()
        self._names = HF_NAMES | (HF_POST_NORM_NAMES if config.post_norms else {})
        self._adds_one = config.architecture == "gemma3"

    def has(self, role: str, layer: int | None = None) -> bool:
        return self._names[role].format(layer) in self._state

    def weight(self, role: str, layer: int | None = None) -> NDArray[np.float32]:
        found = self._state[self._names[role].format(layer)].float().numpy()
        return found + np.float32(1) if self._adds_one and role.endswith("norm") else found


@pytest.mark.parametrize("architecture", CASES)
def test_logits_are_those_of_transformers(architecture: str) -> None:
    kind = CLASSES[architecture]
    suffix = "TextConfig" if architecture == "gemma3" else "Config"
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = getattr(transformers, f"{kind}{suffix}")(**SIZES, **CASES[architecture])
        model = getattr(transformers, f"{kind}ForCausalLM")(settings).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        with torch.no_grad():
            expected = model(torch.tensor([IDS])).logits[0]
    config = DecoderConfig.from_hf(settings.to_dict())
    found = ReferenceDecoder(config, HFWeights(model, config)).logits(IDS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="empty"):
        ReferenceDecoder(config, HFWeights(model, config)).logits([])
    with pytest.raises(InputError, match="vocabulary"):
        ReferenceDecoder(config, HFWeights(model, config)).logits([24])
