"""The torch layer and model: kernel, dense path and reference agree; a model changes live."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.systems.grinqh.tiny_models import gemma, ids, llama

from tidemill.errors import ConfigError, CorruptFile, InputError
from tidemill.systems.grinqh import selection

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(10, 128), torch.nn.Linear(128, 300), torch.nn.Linear(300, 64, bias=False)
    ).requires_grad_(requires_grad=False)


@pytest.fixture
def quantised(model):
    from tidemill.systems.grinqh.torch_model.model import quantize

    return quantize(model, threads=2)


def perplexity_like(model: Any, tokens: Any) -> Any:
    with torch.no_grad():
        return model(tokens).logits


def test_the_layers_are_replaced_and_what_is_left_out_is_listed(model, quantised) -> None:
    assert list(quantised.layers) == ["1", "2"]
    assert "Embedding" in quantised.skipped["0"]
    assert model[1] is quantised.layers["1"]


@pytest.mark.parametrize("tokens", [5, 40])
def test_prefill_reads_the_top_level(model, quantised, tokens: int) -> None:
    from tidemill.systems.grinqh.reading import trace

    layer, x = model[1], torch.randn(tokens, 128)
    with trace() as found:
        y = layer(x)
    expected = x @ torch.from_numpy(layer.matrix.dequantise(6)).T + layer.bias
    assert (y - expected).norm() < (0.02 if tokens == 5 else 1e-5) * expected.norm()
    assert found.average_bits == 6


def test_one_token_and_many_agree_and_bits_change_live(model, quantised) -> None:
    from tidemill.systems.grinqh.reading import trace

    x = torch.randn(12, 128)
    for bits in (1.5, 2.0, 3.0, 4.5):
        quantised.set_bits(decode=bits, prefill=bits)
        with trace() as found:
            one = torch.cat([model[1](row[None]) for row in x])
        many = model[1](x)
        assert found.average_bits == pytest.approx(bits, abs=0.02)
        assert (one - many).norm() < 0.03 * many.norm()


def test_more_bits_err_less(model, quantised) -> None:
    x = torch.randn(64, 128)
    exact, errors = model[1](x), []
    for bits in (1.5, 2.0, 3.0, 4.0, 5.0):
        quantised.set_bits(prefill=bits)
        errors.append(float((model[1](x) - exact).norm()))
    assert all(more > less for more, less in itertools.pairwise(errors))


def test_a_trace_counts_channels_and_bytes(model, quantised) -> None:
    from tidemill.systems.grinqh.reading import outlier_bytes, trace

    layer, x = model[1], torch.randn(1, 128)
    quantised.set_bits(decode=2.5)
    with trace() as found:
        layer(x)
    energy = (x * x * torch.from_numpy(layer.group.norm2)).numpy()[0]
    levels = selection.by_budget(energy, 2.5)
    seen = found.layers["1"]
    assert seen.channels.tolist() == np.bincount(levels, minlength=7).tolist()
    # 300 outputs are three halves of 128; the last one's fourth bits lie beside its third bits
    column = np.array([0, 0, 96, 160, 192, 0, 288])
    outliers = outlier_bytes(layer.matrix)
    expected = column[levels].sum() + outliers + 4 * (300 + 2 * 128)
    assert seen.bytes == [expected]
    assert found.bytes_moved == expected


def test_tied_weights_are_quantised_once() -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize

    tied = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    tied[1].weight = tied[0].weight
    made = quantize(tied.requires_grad_(requires_grad=False))
    assert (made.layers["0"].matrix.codes() == made.layers["1"].matrix.codes()).all()
    with pytest.raises(InputError, match="graded already"):
        quantize(tied)


def test_projections_of_one_input_share_one_choice() -> None:
    from tidemill.systems.grinqh.reading import trace
    from tidemill.systems.grinqh.torch_model.model import quantize

    model = llama()
    made = quantize(model, calib=ids(), threads=1)
    members = [
        n for n, each in made.layers.items() if each.group.name.endswith("0.self_attn.q_proj")
    ]
    assert [name.rsplit(".")[-1] for name in members] == ["q_proj", "k_proj", "v_proj"]
    made.set_bits(decode=2.5)
    with trace() as found:
        perplexity_like(model, ids()[:, :1])
    seen = [found.layers[name].channels.tolist() for name in members]
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("mode", list(selection.Mode))
def test_every_mode_reads_the_bits_asked_for(mode: selection.Mode, *, even: bool) -> None:
    from tidemill.systems.grinqh.reading import trace
    from tidemill.systems.grinqh.torch_model.model import quantize

    model = llama()
    made = quantize(model, calib=ids(), head=False, threads=1)
    for bits in (2.0, 2.5, 3.0, 4.5):
        made.set_bits(prefill=bits, mode=mode, even=even)
        with trace() as found:
            perplexity_like(model, ids())
        assert found.average_bits == pytest.approx(bits, abs=0.1)


def test_the_head_has_bits_of_its_own_and_a_tied_one_keeps_its_table() -> None:
    from tidemill.systems.grinqh.reading import trace
    from tidemill.systems.grinqh.torch_model.model import quantize

    model = gemma()
    assert model.config.tie_word_embeddings
    table = model.get_input_embeddings().weight.clone()
    made = quantize(model, threads=1)
    assert made.head == "lm_head"
    made.set_bits(decode=2, head=4)
    with trace() as found:
        perplexity_like(model, ids()[:, :1])
    assert found.layers["lm_head"].code_bits == pytest.approx([4], abs=0.1)
    assert torch.equal(model.get_input_embeddings().weight, table)


def test_a_change_waits_for_the_next_token() -> None:
    from tidemill.systems.grinqh.reading import trace
    from tidemill.systems.grinqh.torch_model.model import quantize

    model = llama()
    made = quantize(model, threads=1)
    made.set_bits(decode=4)
    layers = model.model.layers
    layers[0].register_forward_hook(lambda *_: made.set_bits(decode=2))
    with trace() as found:
        perplexity_like(model, ids()[:, :1])
        perplexity_like(model, ids()[:, :1])
    for name, seen in found.layers.items():
        if name != "lm_head":
            assert seen.code_bits == pytest.approx([4, 2], abs=0.15)


@pytest.mark.parametrize("make", [llama, gemma])
def test_a_saved_model_is_the_same_model(make: Any, tmp_path: Path) -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize
    from tidemill.systems.grinqh.torch_model.pretrained import from_pretrained

    model = make()
    made = quantize(model, calib=ids(), threads=1)
    made.set_bits(decode=2.5, prefill=3)
    expected = perplexity_like(model, ids())
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path, threads=1)
    again.set_bits(decode=2.5, prefill=3)
    assert torch.equal(perplexity_like(again, ids()), expected)
    assert again.grinqh.source_sha256 == made.source_sha256
    assert again.generate(ids()[:, :4], max_new_tokens=3, do_sample=False).shape == (1, 7)
    with pytest.raises(InputError, match="another"):
        from_pretrained(tmp_path, into=torch.nn.Sequential(torch.nn.Linear(4, 4)))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptFile, match="checksum"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_a_saved_model_itself(tmp_path: Path, dtype: Any) -> None:
    from transformers import AutoModelForCausalLM

    from tidemill.systems import grinqh

    model = gemma()
    made = grinqh.quantize(model, calib=ids(), threads=1)
    made.set_bits(decode=2.5, prefill=3)
    expected = perplexity_like(model, ids())
    model.save_pretrained(tmp_path)
    grinqh.register()
    grinqh.register()
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    again.set_bits(decode=2.5, prefill=3)
    found = perplexity_like(again, ids())
    if dtype is torch.float32:
        assert torch.equal(found, expected)
    for name, layer in made.layers.items():
        stored = again.grinqh.layers[name].matrix
        assert stored.row_scale.dtype == np.float16
        assert (stored.row_scale == layer.matrix.row_scale).all()


def test_levels_above_the_top_are_not_stored(model) -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize

    made = quantize(model, levels=(0, 2, 4))
    assert set(made.layers["1"].matrix.planes) == {2, 3, 4}
    made.set_bits(decode=3)
    model[1](torch.randn(1, 128))
    with pytest.raises(ConfigError, match="bits"):
        made.set_bits(decode=5)


@pytest.mark.parametrize("levels", [(2, 3), (0, 3, 2), (0, 5), (0,)])
def test_levels_that_are_no_hierarchy_are_refused(model, levels: tuple[int, ...]) -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize

    with pytest.raises(ConfigError, match="levels"):
        quantize(model, levels=levels)


def test_bad_bits_and_bad_inputs_are_refused(model, quantised) -> None:
    for wrong, field in (
        ({"decode": 7}, "bits"),
        ({"prefill": "most"}, "prefill"),
        ({"mode": "best"}, "mode"),
        ({"mode": "threshold"}, "mode"),
        ({"block": 0}, "block"),
    ):
        with pytest.raises(ConfigError, match=field):
            quantised.set_bits(**wrong)
    for tokens in (1, 20):
        with pytest.raises(InputError, match="1 — its input holds NaN"):
            model[1](torch.full((tokens, 128), float("nan")))
    quantised.set_bits(decode=2.0)
    assert not model[2](torch.zeros(1, 300)).any()


def test_texts_need_a_tokenizer(model) -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize

    with pytest.raises(ConfigError, match="tokenizer"):
        quantize(model, calib=["some text"])


def test_a_model_without_linear_layers_is_refused() -> None:
    from tidemill.systems.grinqh.torch_model.model import quantize

    with pytest.raises(InputError, match="Embedding"):
        quantize(torch.nn.Sequential(torch.nn.Embedding(4, 4)))
