"""The same input to a peer: softmax in NumPy, transformers' own cache, the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from tests.systems.blockgtq.tiny_models import (
    FREQUENCIES,
    ByteTokenizer,
    gemma,
    layer,
    llama,
    statistics,
)
from transformers import DynamicCache

from tidemill.models.ggml_rounding import q4_0, q8_0
from tidemill.models.hf_capture import capture
from tidemill.models.hf_rope import frequencies_of, rotate
from tidemill.native import available_levels
from tidemill.systems.blockgtq import ATTENTION, Calibration, PackedStore, Window, kernels
from tidemill.systems.blockgtq.baselines import DenseCells, torch_forms
from tidemill.systems.blockgtq.cache import BlockGTQCache
from tidemill.systems.blockgtq.capture import calibrate
from tidemill.systems.blockgtq.workloads import text


def softmax_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    logits = q @ k.swapaxes(-1, -2) * scale
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


@pytest.mark.parametrize("level", available_levels())
@pytest.mark.parametrize("group", [1, 3, 7, 8, 11])
@pytest.mark.parametrize("tokens", [1, 33, 200])
def test_packed_attention_is_that_of_the_unpacked_tokens(
    level: str, group: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to what int8 queries, 6-bit centroids and 8-bit weights cost."""
    monkeypatch.setenv("TIDEMILL_NATIVE", level)
    queries, keys, values = layer(group=group, tokens=tokens, seed=9)
    head = Calibration((statistics(),), (0,), "t").plan(3, 3, "compact").heads[0][0]
    codec, native = head.native(FREQUENCIES, level), kernels.load(level)
    turned = rotate(keys, FREQUENCIES, np.arange(tokens))
    tiles = [np.zeros(-(-tokens // 32) * codec.tile_bytes, np.uint8) for _ in keys]
    unpacked = [np.empty_like(x) for x in (keys, values)]
    for h, tile in enumerate(tiles):
        native.encode(codec, turned[h], values[h], tile, 0, 0)
        native.decode(codec, tile, 0, 0, unpacked[0][h], unpacked[1][h])
    q = np.ascontiguousarray(queries[:, -1].reshape(2, group, 64))
    none, out = np.empty((2, 0, 64), np.float32), np.empty_like(q)
    skip = tokens // 3
    native.attend([codec] * 2, tiles, q, none, none, out, tokens, skip, 0, 0.01, 2)
    wanted = softmax_attention(q, unpacked[0][:, skip:], unpacked[1][:, skip:], 0.01)
    assert np.linalg.norm(out - wanted) < 0.04 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("widths", "v_bits", "within"),
    [
        ((5,), 4, 0.04),
        ((6, 1), 4, 0.04),
        ((7, 2), 4, 0.04),
        ((8, 3), 4, 0.04),
        ((4, 5, 8), 8, 0.04),
        ((8,), 8, 0.005),
    ],
)
@pytest.mark.parametrize("group", [1, 3, 8])
def test_wide_blocks_are_attended_to_more_closely(
    widths: tuple[int, ...], v_bits: int, within: float, group: int
) -> None:
    from tidemill.models.lloyd_max import Marginal
    from tidemill.systems.blockgtq.plan import head_plan

    source = statistics()
    chosen = tuple(widths[i % len(widths)] for i in range(32))
    head = head_plan(
        chosen,
        norms=source.key_norms[0],
        v_bits=v_bits,
        v_range=(2.0, 4.0),
        marginal=Marginal.SPHERE,
        mean=np.zeros(64, np.float32),
        frequencies=FREQUENCIES,
        head=0,
    )
    queries, keys, values = layer(heads=1, group=group, tokens=150, seed=9)
    outs = []
    for level in available_levels():
        codec, native = head.native(FREQUENCIES, level), kernels.load(level)
        tiles = np.zeros(5 * codec.tile_bytes, np.uint8)
        native.encode(codec, keys[0], values[0], tiles, 0, 0)
        got = [np.empty_like(keys[0]), np.empty_like(keys[0])]
        native.decode(codec, tiles, 0, 0, *got)
        q, none = np.ascontiguousarray(queries[None, :, 3]), np.empty((1, 0, 64), np.float32)
        outs.append(np.empty_like(q))
        native.attend([codec], [tiles], q, none, none, outs[-1], 150, 0, 0, 0.01, 1)
        wanted = softmax_attention(q, got[0][None], got[1][None], 0.01)
        assert np.linalg.norm(outs[-1] - wanted) < within * np.linalg.norm(wanted)
    assert all(np.allclose(outs[0], other, atol=1e-4) for other in outs)


@pytest.mark.parametrize("level", available_levels())
@pytest.mark.parametrize("group", [1, 7, 9])
def test_the_dense_rivals_are_right(level: str, group: int) -> None:
    queries, keys, values = layer(group=group, tokens=96, seed=9)
    q = np.ascontiguousarray(queries[:, -1].reshape(2, group, 64))
    wanted = softmax_attention(q, keys, values, 0.01)
    for dtype in (np.float16, np.float32):
        cells, out = DenseCells.of(keys, values, dtype), np.empty_like(q)
        kernels.load(level).attend_dense(
            cells.keys, cells.values, q, out, tokens=96, scale=0.01, threads=2
        )
        assert np.allclose(out, wanted, atol=3e-3)
    for run in torch_forms(q, keys, values, 0.01).values():
        assert np.allclose(run().reshape(q.shape), wanted, atol=1e-4)


def test_llama_cpps_rounding_is_that_of_the_gguf_package() -> None:
    x = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    for rounding, kind in ((q4_0, "Q4_0"), (q8_0, "Q8_0")):
        known = gguf.GGMLQuantizationType[kind]
        wanted = gguf.quants.dequantize(gguf.quants.quantize(x, known), known)
        assert np.allclose(rounding(x), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [llama, gemma])
def test_captured_keys_and_queries_give_the_models_own_logits(make) -> None:
    """q before RoPE, turned to its position, against k likewise: the attention of the model."""
    model, seen = make(), {}
    ids = ByteTokenizer()(text("test")[:60], return_tensors="pt")["input_ids"]
    capture(model, ids, lambda i, q, k, v: seen.update({i: (q, k, v)}))
    rope, positions = frequencies_of(model), np.arange(ids.shape[1])
    with torch.inference_mode():
        model.set_attn_implementation("eager")
        maps = model(ids, output_attentions=True).attentions
    queries, keys, _ = seen[0]
    turned = [rotate(x, rope[0], positions) for x in (queries, keys)]
    share = len(queries) // len(keys)
    scale = model.model.layers[0].self_attn.scaling
    logits = turned[0] @ turned[1].repeat(share, axis=0).swapaxes(1, 2) * scale
    window = getattr(model.config, "sliding_window", None) or 10**6
    back = positions[:, None] - positions
    logits[:, (back < 0) | (back >= (window if make is gemma else 10**6))] = -np.inf
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    assert np.allclose(weights, maps[0][0].numpy(), atol=1e-4)


@pytest.mark.parametrize("make", [llama, gemma])
@pytest.mark.parametrize("attention", ["sdpa", "eager", ATTENTION])
@pytest.mark.parametrize(("sink", "recent"), [(0, 0), (4, 20)])
def test_a_model_with_the_packed_cache_says_nearly_what_it_says_without(
    make, attention: str, sink: int, recent: int
) -> None:
    model = make()
    calibration = calibrate(model, ByteTokenizer(), text("train"), n_tokens=400)
    plan = calibration.plan(6, 4, sink=sink, recent=recent)
    model.set_attn_implementation(attention)
    ids = ByteTokenizer()(text("test")[1000:1120], return_tensors="pt")["input_ids"]
    packed, dense = BlockGTQCache(plan), DynamicCache(config=model.config)
    outputs: dict[str, list] = {"packed": [], "dense": []}
    with torch.inference_mode():
        for start, stop in ((0, 90), (90, 95), (95, 96), (96, 120)):
            for name, cache in (("packed", packed), ("dense", dense)):
                made = model(ids[:, start:stop], past_key_values=cache).logits
                outputs[name].append(made)
    one, two = (torch.cat(outputs[name], dim=1).softmax(dim=-1) for name in ("packed", "dense"))
    assert packed.get_seq_length() == 120
    assert (one - two).abs().sum(dim=-1).mean() < 0.25
    assert packed.nbytes < packed.report()["fp16_bytes"]


def test_generation_with_beams_works_packed() -> None:
    model = llama()
    plan = calibrate(model, ByteTokenizer(), text("train"), n_tokens=300).plan(4, 4)
    model.set_attn_implementation(ATTENTION)
    ids = ByteTokenizer()(text("test")[:40], return_tensors="pt")["input_ids"]
    kinds = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    beams = model.generate(ids, past_key_values=BlockGTQCache(plan), num_beams=3, **kinds)
    assert beams.shape == (1, 52)
    assert (beams[0, :40] == ids[0]).all()


def test_rows_of_different_lengths_are_padded_on_the_left() -> None:
    model = llama()
    plan = calibrate(model, ByteTokenizer(), text("train"), n_tokens=300).plan(8, 4, "paper")
    model.set_attn_implementation(ATTENTION)
    ids = ByteTokenizer()(text("test")[:41], return_tensors="pt")["input_ids"]
    rows, mask = torch.cat([ids, ids.roll(3)]), torch.ones(2, 41, dtype=torch.long)
    mask[1, :5] = 0
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    both, alone = BlockGTQCache(plan), BlockGTQCache(plan)
    with torch.inference_mode():
        first = {"attention_mask": mask[:, :40], "position_ids": places[:, :40]}
        model(rows[:, :40], past_key_values=both, **first)
        last = {"attention_mask": mask, "position_ids": places[:, 40:]}
        one = model(rows[:, 40:], past_key_values=both, **last).logits[1, 0].softmax(dim=-1)
        model(rows[1:, 5:40], past_key_values=alone)
        two = model(rows[1:, 40:], past_key_values=alone).logits[0, 0].softmax(dim=-1)
    assert (one - two).abs().sum() < 0.15


@pytest.mark.parametrize("v_bits", [4, 8])
def test_a_cache_goes_to_bytes_and_back_and_crops_to_where_it_was(v_bits: int) -> None:
    model = llama()
    plan = calibrate(model, ByteTokenizer(), text("train"), n_tokens=300).plan(4, v_bits, sink=2)
    model.set_attn_implementation(ATTENTION)
    ids = ByteTokenizer()(text("test")[:90], return_tensors="pt")["input_ids"]
    cache = BlockGTQCache(plan)
    with torch.inference_mode():
        model(ids[:, :70], past_key_values=cache)
        other = BlockGTQCache.from_bytes(cache.to_bytes(), plan)
        one = model(ids[:, 70:80], past_key_values=cache).logits
        assert torch.equal(model(ids[:, 70:80], past_key_values=other).logits, one)
        cache.crop(-10)
        assert cache.get_seq_length() == 70
        again = model(ids[:, 70:80], past_key_values=cache).logits
    assert torch.allclose(again, one, atol=1e-5)


def test_a_store_attends_causally_over_its_windows() -> None:
    plan = Calibration((statistics(),), (0,), "t").plan(8, 4, "paper")
    queries, keys, values = layer(group=2, tokens=90, seed=1)
    store = PackedStore(plan.heads[0], Window(sink=3, recent=10, sliding=0))
    store.append(keys[None], values[None])
    out = store.attend(queries[None, :, -15:], 0.01)
    got_keys, got_values = store.read()
    for i in range(15):
        seen = 90 - 15 + i + 1
        q = queries[:, 75 + i].reshape(2, 2, 64)
        wanted = softmax_attention(q, got_keys[0, :, :seen], got_values[0, :, :seen], 0.01)
        assert np.allclose(out[0, :, i].reshape(2, 2, 64), wanted, atol=0.03)
