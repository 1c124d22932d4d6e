"""The torch layer: the native path, the dense one and the reference agree; a model changes live."""

from __future__ import annotations

import numpy as np
import pytest

from tidemill.errors import ConfigError, InputError
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
    from tidemill.systems.grinqh.linear import quantize

    return quantize(model, threads=2)


def test_the_layers_are_replaced_and_what_is_left_out_is_listed(model, quantised) -> None:
    assert list(quantised.layers) == ["1", "2"]
    assert "Embedding" in quantised.skipped["0"]
    assert model[1] is quantised.layers["1"]


def test_prefill_reads_the_top_level(model, quantised) -> None:
    from tidemill.systems.grinqh.linear import trace

    layer, x = model[1], torch.randn(5, 128)
    with trace() as found:
        y = layer(x)
    expected = x @ torch.from_numpy(layer.matrix.dequantise(6)).T + layer.bias
    torch.testing.assert_close(y, expected)
    assert found.average_bits == 6


def test_levels_of_the_layer_are_those_of_the_reference(model) -> None:
    from tidemill.systems.grinqh.linear import quantize

    layer = quantize(model).layers["1"]
    x = torch.randn(3, 128)
    energy = (x * x * layer._norm2).numpy()
    for row, levels in zip(energy, layer.levels(x, 2.5).numpy(), strict=True):
        assert (selection.by_budget(row, 2.5) == levels).all()


def test_one_token_and_many_agree_and_bits_change_live(model, quantised) -> None:
    from tidemill.systems.grinqh.linear import trace

    x = torch.randn(4, 128)
    for bits in (2.0, 3.0, 4.5):
        quantised.set_bits(decode=bits, prefill=bits)
        with trace() as found:
            one = torch.cat([model[1](row[None]) for row in x])
        many = model[1](x)
        assert found.average_bits == pytest.approx(bits, abs=0.02)
        assert (one - many).norm() < 0.03 * many.norm()


def test_tied_weights_are_quantised_once(model) -> None:
    from tidemill.systems.grinqh.linear import quantize

    tied = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    tied[1].weight = tied[0].weight
    made = quantize(tied.requires_grad_(requires_grad=False))
    assert made.layers["0"].matrix is made.layers["1"].matrix


def test_bad_bits_and_bad_inputs_are_refused(model, quantised) -> None:
    with pytest.raises(ConfigError, match="bits"):
        quantised.set_bits(decode=7)
    with pytest.raises(ConfigError, match="prefill"):
        quantised.set_bits(prefill="most")
    with pytest.raises(InputError, match="NaN"):
        model[1](torch.full((1, 128), float("nan")))
    assert np.isfinite(model[1](torch.zeros(1, 128)).numpy()).all()


def test_a_model_without_linear_layers_is_refused() -> None:
    from tidemill.systems.grinqh.linear import quantize

    with pytest.raises(InputError, match="Embedding"):
        quantize(torch.nn.Sequential(torch.nn.Embedding(4, 4)))
