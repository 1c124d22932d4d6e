"""The samplers against transformers' own processors, and the native one against NumPy's."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill import native
from tidemill.errors import ConfigError, InputError
from tidemill.models import reference_sampler
from tidemill.models.reference_sampler import ReferenceSampler, softmax
from tidemill.models.sampling import Sampler, SamplingParams, token_logprobs

torch = pytest.importorskip("torch")
generation = pytest.importorskip("transformers.generation.logits_process")

VOCABULARY = 400
PARAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.05},
    "top_k": {"top_k": 7},
    "top_k of one": {"top_k": 1},
    "top_k of more than all": {"top_k": 100_000},
    "top_k above the heap": {"top_k": 1500},
    "top_p": {"top_p": 0.7},
    "top_p nearly none": {"top_p": 1e-6},
    "top_p nearly all": {"top_p": 0.9999},
    "min_p": {"min_p": 0.05},
    "min_p of all": {"min_p": 1.0},
    "repetition": {"repetition_penalty": 1.3},
    "repetition wanted": {"repetition_penalty": 0.8},
    "all": {
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.1,
    },
}
VLLM_PARAMS = PARAMS | {
    "presence": {"presence_penalty": 0.7},
    "frequency": {"frequency_penalty": -0.4, "top_k": 20},
    "bias": {"logit_bias": {3: 2.5, 9: -math.inf, 10**6: 1.0}},
    "everything": {
        "temperature": 1.2,
        "top_k": 60,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": {5: 1.0},
    },
}


def random_logits(vocabulary: int = VOCABULARY) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    yield "normal", rng.normal(0, 3, vocabulary).astype(np.float32)
    yield "flat", rng.normal(0, 1e-3, vocabulary).astype(np.float32)
    yield "equal", np.full(vocabulary, -1.5, np.float32)
    yield "tied", rng.integers(-3, 4, vocabulary).astype(np.float32)
    yield "peaked", np.eye(1, vocabulary, 17, dtype=np.float32)[0] * 40
    yield "far apart", rng.normal(0, 300, vocabulary).astype(np.float32)
    barred = rng.normal(0, 3, vocabulary).astype(np.float32)
    barred[rng.random(vocabulary) < 0.7] = -np.inf
    yield "mostly barred", barred
    single = np.full(vocabulary, -np.inf, np.float32)
    single[5] = -3.0
    yield "single", single


LOGITS = dict(random_logits())


def peer_scores(logits: np.ndarray, params: SamplingParams, ids: list[int]) -> np.ndarray:
    """What transformers draws from, built as its ``_get_logits_processor`` builds it."""
    chain: list[Any] = []
    if params.repetition_penalty != 1:
        chain.append(generation.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature != 1:
        chain.append(generation.TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        chain.append(generation.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(generation.TopPLogitsWarper(params.top_p))
    if params.min_p:
        chain.append(generation.MinPLogitsWarper(params.min_p))
    scores = generation.LogitsProcessorList(chain)(
        torch.tensor([ids]), torch.from_numpy(logits.copy())[None]
    )
    return scores[0].numpy()


@pytest.mark.parametrize("setting", PARAMS)
@pytest.mark.parametrize("kind", LOGITS)
def test_the_tokens_kept_and_their_probabilities_are_those_of_transformers(
    kind: str, setting: str
) -> None:
    params, logits = SamplingParams(**PARAMS[setting]), LOGITS[kind]
    sampler = ReferenceSampler(params, [1, 2, 2, 399])
    ours = sampler.filtered(sampler.scores(logits))
    theirs = peer_scores(logits, params, [1, 2, 2, 399])
    # float32 sums, in which transformers compares, may tell apart what lies within their rounding
    if kind in ("tied", "equal"):  # torch leaves open which of equal tokens top-p drops
        ours, theirs = np.sort(ours), np.sort(theirs)
    differing = np.isinf(ours) != np.isinf(theirs)
    assert differing.sum() <= (2 if "top_p" in PARAMS[setting] else 0)
    same = ~differing & ~np.isinf(theirs)
    np.testing.assert_array_equal(ours[same], theirs[same])
    peer_probabilities = torch.softmax(torch.from_numpy(theirs), -1).numpy()
    rounding = 0.02 if differing.any() else 1e-4
    np.testing.assert_allclose(softmax(ours)[same], peer_probabilities[same], rounding, 1e-30)


@pytest.mark.parametrize("level", native.available_levels())
@pytest.mark.parametrize("setting", VLLM_PARAMS)
@pytest.mark.parametrize("kind", LOGITS)
def test_the_native_sampler_draws_the_tokens_of_the_reference(
    kind: str, setting: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_NATIVE", level)
    params = SamplingParams(seed=99, **VLLM_PARAMS[setting])
    fast, slow = Sampler(params, [1, 2, 2, 399]), ReferenceSampler(params, [1, 2, 2, 399])
    logits = LOGITS[kind]
    assert [fast.sample(logits) for _ in range(40)] == [slow.sample(logits) for _ in range(40)]


@pytest.mark.parametrize("setting", ["plain", "top_k", "top_k above the heap", "top_p", "all"])
@pytest.mark.parametrize("vocabulary", [1, 2, 63, 64, 65, 50_001])
def test_vocabularies_of_all_sizes_are_sampled_alike(vocabulary: int, setting: str) -> None:
    params = SamplingParams(seed=5, **PARAMS[setting])
    fast, slow = Sampler(params, [0]), ReferenceSampler(params, [0])
    for _, drawn in random_logits(max(vocabulary, 18)):
        logits = np.ascontiguousarray(drawn[:vocabulary])
        if np.isfinite(logits).any():
            assert fast.sample(logits) == slow.sample(logits)


@given(
    st.lists(
        st.floats(-60, 60, width=32) | st.sampled_from([0.0, -1.0, -math.inf]),
        min_size=1,
        max_size=150,
    ).filter(lambda found: max(found) > -math.inf),
    st.builds(
        SamplingParams,
        temperature=st.floats(0.01, 5),
        top_k=st.integers(-1, 160),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
        seed=st.integers(0, 2**64 - 1),
    ),
)
def test_any_settings_give_both_samplers_the_same_token(
    values: list[float], params: SamplingParams
) -> None:
    logits = np.array(values, np.float32)
    slow = ReferenceSampler(params, [])
    kept = np.flatnonzero(slow.probabilities(logits))
    chosen = slow.sample(logits)
    assert chosen in kept
    assert Sampler(params, []).sample(logits) == chosen


def test_greedy_takes_the_lowest_of_the_likeliest_ids_as_torch_does() -> None:
    params = SamplingParams(temperature=0)
    for logits in LOGITS.values():
        expected = int(torch.from_numpy(logits).argmax())
        assert Sampler(params, []).sample(logits) == expected
        assert ReferenceSampler(params, []).sample(logits) == expected


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(seed=1), [])
    counts = Counter(sampler.sample(logits) for _ in range(20_000))
    for token_id, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        spread = math.sqrt(20_000 * share * (1 - share))
        assert abs(counts[token_id] - 20_000 * share) < 5 * spread


def test_philox_gives_the_published_words() -> None:
    # Random123's known-answer tests, for counters whose upper half is zero
    assert [f"{word:08x}" for word in reference_sampler.philox(0, 0)] == (
        ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    )
    kernels = native.kernels("models")
    for key, counter in [(0, 0), (2**64 - 1, 2**64 - 1), (123, 7), (2**40 + 5, 2**33)]:
        assert tuple(kernels.philox(key, counter)) == reference_sampler.philox(key, counter)
        assert kernels.uniform(key, counter) == reference_sampler.uniform(key, counter)


def test_a_sampler_goes_on_where_another_left_off() -> None:
    params = SamplingParams(seed=3, frequency_penalty=0.5, repetition_penalty=1.1)
    logits = LOGITS["normal"]
    whole = Sampler(params, [4])
    tokens = [whole.sample(logits) for _ in range(20)]
    resumed = Sampler(params, [4], tokens[:8])
    assert [resumed.sample(logits) for _ in range(12)] == tokens[8:]


def test_without_a_seed_one_is_drawn_and_told() -> None:
    first, second = (Sampler(SamplingParams(), []) for _ in range(2))
    assert first.seed != second.seed
    again = Sampler(SamplingParams(seed=first.seed), [])
    logits = LOGITS["flat"]
    assert [again.sample(logits) for _ in range(5)] == [first.sample(logits) for _ in range(5)]


@pytest.mark.parametrize("make", [Sampler, ReferenceSampler])
@pytest.mark.parametrize(
    ("bad", "named"),
    [(math.nan, "NaN for token 7"), (math.inf, r"\+inf for token 7")],
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_refused(
    make: Any, bad: float, named: str, temperature: float
) -> None:
    logits = LOGITS["normal"].copy()
    logits[[7, 300, 399]] = bad
    with pytest.raises(InputError, match=f"{named} and 2 more at step 0"):
        make(SamplingParams(temperature=temperature), []).sample(logits)


@pytest.mark.parametrize("make", [Sampler, ReferenceSampler])
def test_logits_that_bar_every_token_are_refused(make: Any) -> None:
    with pytest.raises(InputError, match="-inf everywhere"):
        make(SamplingParams(), []).sample(np.full(9, -np.inf, np.float32))
    with pytest.raises(InputError, match="-inf everywhere"):
        make(SamplingParams(), []).sample(np.empty(0, np.float32)) if make is Sampler else (
            make(SamplingParams(), []).sample(np.full(1, -np.inf, np.float32))
        )


def test_a_barred_token_is_never_drawn() -> None:
    params = SamplingParams(logit_bias={17: -math.inf}, seed=1)
    sampler = Sampler(params, [])
    assert 17 not in {sampler.sample(LOGITS["peaked"]) for _ in range(200)}


def test_logprobs_are_the_models_own() -> None:
    logits = LOGITS["normal"]
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1)
    found = token_logprobs(logits, 11, 5)
    values, ids = expected.topk(5)
    assert [token_id for token_id, _ in found.top] == ids.tolist()
    assert [value for _, value in found.top] == pytest.approx(values.tolist())
    assert found.chosen == pytest.approx(expected[11].item())
    assert [token_id for token_id, _ in token_logprobs(LOGITS["equal"], 0, 3).top] == [0, 1, 2]
    assert len(token_logprobs(logits, 0, 1000).top) == VOCABULARY
    assert token_logprobs(logits, 0, 0).top == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 0.001),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", True),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", 1e9),
        ("seed", -1),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("logprobs", -1),
        ("stop", ("",)),
        ("stop", "word"),
        ("stop", ("a",) * 65),
        ("stop", (3,)),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {"1": 1.0}),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        SamplingParams(**{field: value})  # pyright: ignore[reportArgumentType]


def test_params_are_values() -> None:
    params = SamplingParams(stop=("a", "b"), logit_bias={1: 2.0}, seed=4)
    assert pickle.loads(pickle.dumps(params)) == params
    assert SamplingParams(stop=["x"]).stop == ("x",)  # pyright: ignore[reportArgumentType]
    assert len({SamplingParams(), SamplingParams()}) == 1
    with pytest.raises(AttributeError):
        params.seed = 5  # pyright: ignore[reportAttributeAccessIssue]
