"""Models by role: real GGUF files, and folders that transformers saved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_builder import Gguf, Tensor, floats, llama

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.config import DecoderConfig
from tidemill.models.ggml_types import GGMLType
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.roles import HF_NAMES, HF_POST_NORM_NAMES, slots

transformers = pytest.importorskip("transformers")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}
SAVED = {
    "llama": ("LlamaConfig", {"attention_bias": True}),
    "qwen2": ("Qwen2Config", {"head_dim": 8}),
    "qwen3": ("Qwen3Config", {}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 8, "pad_token_id": 0}),
}


def saved(architecture: str, folder: Path, dtype: str) -> Any:
    """A tiny model of random weights, saved by transformers with every norm off its default."""
    torch = pytest.importorskip("torch")
    kind, changed = SAVED[architecture]
    config = getattr(transformers, kind)(**(SIZES | changed))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", SAVED)
def test_a_folder_that_transformers_saved_is_a_model(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    peer = saved(architecture, tmp_path, dtype)
    weights = {name: tensor.float().numpy() for name, tensor in peer.state_dict().items()}
    with open_model(tmp_path) as model:
        config = model.config
        assert config == DecoderConfig.from_hf(peer.config.to_dict())
        assert (model.name, config.architecture) == (tmp_path.name, architecture)
        names = HF_NAMES | (HF_POST_NORM_NAMES if config.post_norms else {})
        for slot in slots(config):
            if slot.optional and not model.has(slot.role, slot.layer):
                assert names[slot.role].format(slot.layer) not in weights
                continue
            expected = weights[names[slot.role].format(slot.layer)]
            if architecture == "gemma3" and slot.role.endswith("norm"):
                expected = expected + np.float32(1)
            found = model.weight(slot.role, slot.layer)
            assert np.array_equal(found, expected), slot
            info = model.tensor(slot.role, slot.layer)
            assert info.shape == found.shape
            assert info.nbytes == len(model.raw(slot.role, slot.layer))


def test_a_norm_of_gemma_is_float32_with_its_one(tmp_path: Path) -> None:
    saved("gemma3", tmp_path, "bfloat16")
    with open_model(tmp_path) as model:
        assert model.tensor("q", 0).type is GGMLType.BF16
        assert model.tensor("attn_norm", 0).type is GGMLType.F32
        raw = model.raw("attn_norm", 0)
        assert np.array_equal(raw.view(np.float32), model.weight("attn_norm", 0))


@pytest.mark.parametrize("name", ["gemma-3-270m", "qwen2.5-coder-0.5b", "smollm2-135m"])
def test_every_role_of_a_real_model_is_there(model_path: Callable[[str], Path], name: str) -> None:
    with open_model(model_path(name)) as model:
        for slot in slots(model.config):
            if slot.optional:
                continue
            info = model.tensor(slot.role, slot.layer)
            assert info.shape == slot.shape
            assert len(model.raw(slot.role, slot.layer)) == info.nbytes
        assert model.tensor("output").shape == model.tensor("embedding").shape
        norms = [model.weight("attn_norm", layer) for layer in range(model.config.layers)]
        assert all(np.isfinite(norm).all() for norm in norms)
        assert 0 < model.weight_bytes < model.path.stat().st_size


def written(folder: Path, found: Gguf) -> Path:
    path = folder / "tiny.gguf"
    path.write_bytes(found.build())
    return path


def without(name: str) -> Gguf:
    found = llama()
    found.tensors = [tensor for tensor in found.tensors if tensor.name != name]
    return found


def with_tensor(name: str, *dims: int) -> Gguf:
    found = without(name)
    found.tensors = [*found.tensors, Tensor(name, dims, floats(*dims))]
    return found


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    with open_model(written(tmp_path, llama())) as model:
        assert model.config.tied_head
        assert model.tensor("output") == model.tensor("embedding")
        assert model.name == "tiny"
    with open_model(written(tmp_path, with_tensor("output.weight", 32, 5))) as model:
        assert not model.config.tied_head
        assert model.tensor("output").name == "output.weight"


REFUSED: dict[str, tuple[Gguf, type[Exception], str]] = {
    "a tensor that is missing": (without("blk.1.ffn_up.weight"), CorruptFile, r"lacks.*ffn_up"),
    "the last norm": (without("output_norm.weight"), CorruptFile, "lacks the tensor output_norm"),
    "a tensor of another shape": (
        with_tensor("blk.1.attn_k.weight", 16, 32),
        CorruptFile,
        r"has the shape \(32, 16\)",
    ),
    "a head of another size": (with_tensor("output.weight", 32, 6), CorruptFile, "output.weight"),
    "a bias that nothing adds": (
        with_tensor("blk.0.ffn_up.bias", 48),
        UnsupportedModel,
        "blk.0.ffn_up.bias",
    ),
    "a layer too many": (
        with_tensor("blk.2.attn_norm.weight", 32),
        UnsupportedModel,
        "blk.2.attn_norm.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_do_not_fit_the_configuration_are_refused(case: str, tmp_path: Path) -> None:
    found, error, text = REFUSED[case]
    with pytest.raises(error, match=text):
        open_model(written(tmp_path, found))


def test_roles_and_layers_that_are_not_there_are_named(tmp_path: Path) -> None:
    with open_model(written(tmp_path, llama())) as model:
        assert model.has("q", 1)
        assert not model.has("q_bias", 1)
        for role, layer, text in (
            ("nope", 0, "in a layer: attn_norm"),
            ("q", None, "outside the layers: embedding"),
            ("embedding", 0, "role 'embedding' with layer 0"),
            ("q", 2, "from 0 to 1"),
            ("q", -1, "from 0 to 1"),
            ("q_bias", 0, "has no q_bias in layer 0"),
        ):
            with pytest.raises(InputError, match=text):
                model.tensor(role, layer)


def test_a_folder_without_a_config_or_with_a_wrong_one_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path, "float32")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(CorruptFile, match=r"lacks the tensor model\.layers\.2"):
        open_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CorruptFile, match="is not JSON"):
        open_model(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json — cannot be read"):
        open_model(tmp_path)


def test_a_safetensors_model_says_that_its_tokenizer_is_not_read(tmp_path: Path) -> None:
    saved("llama", tmp_path, "float32")
    with open_model(tmp_path) as model, pytest.raises(UnsupportedModel, match="tokenizer"):
        _ = model.tokenizer


def test_one_gguf_in_a_folder_is_the_model_and_two_are_not(tmp_path: Path) -> None:
    first = written(tmp_path, llama())
    with open_model(tmp_path) as model:
        assert model.path == first
    first.with_name("other.gguf").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"has other\.gguf, tiny\.gguf; give a folder with one"):
        open_model(tmp_path)


def test_opening_a_model_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    path = written(tmp_path, llama())
    code = (
        "import sys; from tidemill.models.model_file import open_model\n"
        f"open_model({str(path)!r}).weight('q', 0)\n"
        "sys.exit(bool({'torch', 'transformers', 'gguf', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_name_of_a_model_is_what_it_was_asked_for_by(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_MODELS", str(model_path("smollm2-135m").parent))
    with open_model("smollm2-135m") as model:
        assert isinstance(model, ModelFile)
        assert model.name == "smollm2-135m"
        assert "smollm2-135m" in repr(model)
