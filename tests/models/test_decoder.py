"""The native decoder: what the readable one computes, however the work is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tidemill.errors import ConfigError, InputError, OutOfPool
from tidemill.models.generation import FinishReason, PromptCache, generate
from tidemill.models.model_file import ModelFile, open_model
from tidemill.models.native_decoder import NativeDecoder, Part
from tidemill.models.perplexity import perplexity
from tidemill.models.sampling import SamplingParams

MODEL = "gemma-3-270m"
TEXT = (
    "A tide mill turns the daily tide into work: water comes in, is kept, and leaves by a wheel. "
)


@pytest.fixture(scope="module")
def model(model_path: Callable[[str], Path]) -> ModelFile:
    return open_model(model_path(MODEL))


@pytest.fixture(scope="module")
def decoder(model: ModelFile) -> NativeDecoder:
    return NativeDecoder(model, threads=2, context=1024)


@pytest.fixture(scope="module")
def ids(model: ModelFile) -> list[int]:
    return model.tokenizer.encode(TEXT * 3)


def all_logits(decoder: NativeDecoder, ids: list[int]) -> np.ndarray:
    return decoder.step([Part(decoder.sequence(), ids, len(ids))])


def test_logits_are_near_those_of_the_reference(
    model: ModelFile, decoder: NativeDecoder, ids: list[int]
) -> None:
    pytest.importorskip("torch")
    from tidemill.models.reference import ReferenceDecoder

    expected = ReferenceDecoder(model.config, model).logits(ids).numpy()
    found = all_logits(decoder, ids)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(axis=1) / lengths
    assert cosine.mean() > 0.999  # inputs are rounded to int8, as llama.cpp's are


def test_no_cut_of_a_prompt_and_no_number_of_threads_changes_a_bit(
    model: ModelFile, decoder: NativeDecoder, ids: list[int]
) -> None:
    whole = all_logits(decoder, ids)
    sequence = decoder.sequence()
    cut = [decoder.step([Part(sequence, ids[i : i + 7], len(ids[i : i + 7]))])
           for i in range(0, len(ids), 7)]  # fmt: skip
    assert np.array_equal(np.concatenate(cut), whole)
    single = NativeDecoder(model, threads=1, context=1024)
    assert np.array_equal(all_logits(single, ids), whole)


def test_what_else_is_in_the_batch_changes_no_bit(decoder: NativeDecoder, ids: list[int]) -> None:
    a, b = decoder.sequence(), decoder.sequence()
    decoder.prefill(a, ids[:9])
    mixed = decoder.step([Part(a, ids[9:10]), Part(b, ids[:20], 0), Part(decoder.sequence(), ids)])
    whole = all_logits(decoder, ids)
    assert np.array_equal(mixed, whole[[9, -1]])
    assert np.array_equal(decoder.step([Part(b, ids[20:21])])[0], whole[20])


@pytest.mark.parametrize(
    ("wrong", "what"), [([], "empty"), ([-1], "vocabulary"), ([1 << 40], "vocabulary")]
)
def test_wrong_ids_are_refused_and_change_nothing(
    decoder: NativeDecoder, ids: list[int], wrong: list[int], what: str
) -> None:
    sequence = decoder.sequence()
    decoder.prefill(sequence, ids[:5])
    with pytest.raises(InputError, match=what):
        decoder.step([Part(sequence, ids[5:6]), Part(decoder.sequence(), wrong)])
    assert sequence.length == 5
    assert np.array_equal(decoder.step([Part(sequence, ids[5:6])])[0], all_logits(decoder, ids)[5])


def test_a_full_context_a_full_pool_and_a_doubled_sequence_are_refused(model: ModelFile) -> None:
    small = NativeDecoder(model, threads=1, context=32, kv_tokens=32)
    a, b = small.sequence(), small.sequence()
    small.prefill(a, [5] * 32)
    with pytest.raises(InputError, match="context"):
        small.step([Part(a, [5])])
    with pytest.raises(OutOfPool, match="pages"):
        small.step([Part(b, [5])])
    a.truncate(3)
    with pytest.raises(InputError, match="another step"):
        small.step([Part(a, [5]), Part(a, [5])])
    assert (a.length, b.length) == (3, 0)
    with pytest.raises(ConfigError, match="context"):
        NativeDecoder(model, context=0)


def test_threads_may_share_a_decoder_but_not_a_sequence(
    decoder: NativeDecoder, ids: list[int]
) -> None:
    whole, found = all_logits(decoder, ids), {}

    def read(name: int) -> None:
        found[name] = decoder.prefill(decoder.sequence(), ids)

    threads = [threading.Thread(target=read, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[name], whole[-1]) for name in range(3))


def test_generation_stops_where_asked_and_a_cache_changes_no_text(
    model: ModelFile, decoder: NativeDecoder, ids: list[int]
) -> None:
    cache = PromptCache(decoder)
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    first = generate(decoder, model.tokenizer, ids, params, cache=cache)
    text = "".join(piece.text for piece in first)
    assert (len(first.ids), first.finish_reason, first.reused) == (8, FinishReason.LENGTH, 0)
    again = generate(decoder, model.tokenizer, ids, params, cache=cache)
    assert "".join(piece.text for piece in again) == text
    assert again.reused == len(ids) - 1
    stopped = generate(decoder, model.tokenizer, ids,
                       SamplingParams(temperature=0, max_tokens=8, stop=(text[3:6],)))  # fmt: skip
    assert "".join(piece.text for piece in stopped) == text[: text.index(text[3:6])]
    assert stopped.finish_reason is FinishReason.STOP


def test_perplexity_is_that_of_the_logits(decoder: NativeDecoder, ids: list[int]) -> None:
    logits = all_logits(decoder, ids[:32]).astype(np.float64)
    losses = np.log(np.exp(logits).sum(axis=1))[15:31] - logits[range(15, 31), ids[16:32]]
    found = perplexity(decoder, ids, window=32)
    one = perplexity(decoder, ids[:32], window=32)
    assert one.value == pytest.approx(np.exp(losses.mean()), rel=1e-3)
    assert (one.tokens, found.windows) == (16, len(ids) // 32)
