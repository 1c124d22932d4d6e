"""How the next token is drawn: the settings, and the native sampler that follows them.

The names and meanings are vLLM's, the order of operations that of ``transformers``.
``reference_sampler`` is the same in NumPy, for reading and for tests.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tidemill import native
from tidemill.errors import ConfigError, InputError
from tidemill.models.stream import check_stop

F32: TypeAlias = "NDArray[np.float32]"
MAX_SEED = (1 << 64) - 1
MAX_LOGPROBS = 1024
MAX_ID = (1 << 31) - 1
_SMALLEST_TEMPERATURE = 0.01
"""Below it, logits over temperature may overflow; vLLM's limit too."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Settings of one request, checked; the defaults sample from the model's own distribution.

    Raises:
        ConfigError: a value is outside its range, naming field, value and range.
    """

    temperature: float = 1.0
    """0 takes the likeliest token always; else at least 0.01."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1: no limit."""
    min_p: float = 0.0
    """Share of the likeliest token's probability that a token needs."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens in prompt and output (multiplies negative ones)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the output."""
    frequency_penalty: float = 0.0
    """Subtracted once for every time a token is in the output."""
    seed: int | None = None
    """Same seed, same tokens; None draws one."""
    max_tokens: int | None = None
    """None: as many as the context holds."""
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """How many of the likeliest tokens are reported at each step, besides the drawn one."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float], hash=False)
    """Added to logits before all else; -inf bars a token."""
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.temperature != 0:
            self._check_number("temperature", _SMALLEST_TEMPERATURE, 1e6, also="0, or ")
        self._check_number("top_p", 0, 1, open_low=True)
        self._check_number("min_p", 0, 1)
        self._check_number("repetition_penalty", 0, 1e6, open_low=True)
        self._check_number("presence_penalty", -100, 100)
        self._check_number("frequency_penalty", -100, 100)
        self._check_integer("top_k", -1, MAX_ID)
        if self.seed is not None:
            self._check_integer("seed", 0, MAX_SEED)
        if self.max_tokens is not None:
            self._check_integer("max_tokens", 1, MAX_ID)
        if self.logprobs is not None:
            self._check_integer("logprobs", 0, MAX_LOGPROBS)
        check_stop(self.stop)
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn by chance."""
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether each token is just the likeliest one, so that logits need not come to Python."""
        return (
            self.greedy
            and self.repetition_penalty == 1
            and self.presence_penalty == 0
            and self.frequency_penalty == 0
            and not self.logit_bias
            and self.logprobs is None
        )

    def _check_number(
        self, name: str, low: float, high: float, *, open_low: bool = False, also: str = ""
    ) -> None:
        value = getattr(self, name)
        inside = (
            _is_number(value)
            and math.isfinite(value)
            and low <= value <= high
            and not (open_low and value == low)
        )
        if not inside:
            bracket = "(" if open_low else "["
            raise ConfigError.of(name, value, f"{also}a number in {bracket}{low:g}, {high:g}]")

    def _check_integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError.of(name, value, f"an integer in [{low}, {high}]")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked_bias(bias: Mapping[int, float]) -> Mapping[int, float]:
    for token_id, amount in bias.items():
        name = f"logit_bias[{token_id!r}]"
        if isinstance(token_id, bool) or not isinstance(token_id, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError.of(name, amount, "given for a token id, which is an integer")
        if not 0 <= token_id <= MAX_ID:
            raise ConfigError.of(name, amount, f"given for a token id in [0, {MAX_ID}]")
        if not _is_number(amount) or not (amount == -math.inf or abs(amount) <= 1e4):
            raise ConfigError.of(name, amount, "a number in [-10000, 10000], or -inf")
    return dict(bias)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """What the model itself made of one step: before bias, penalties and temperature."""

    chosen: float
    """Natural log of the drawn token's probability."""
    top: tuple[tuple[int, float], ...]
    """The likeliest ids, likeliest first, lower ids first among equals."""


def token_logprobs(logits: F32, token_id: int, count: int) -> TokenLogprobs:
    """Log-probabilities of ``token_id`` and of the ``count`` likeliest; logits: shape (vocab,)."""
    scores = logits.astype(np.float64)
    largest = scores.max()
    total = largest + math.log(np.exp(scores - largest).sum())
    count = min(count, len(scores))
    if count == 0:
        return TokenLogprobs(float(scores[token_id] - total), ())
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    able = np.flatnonzero(scores >= least)
    best = able[np.lexsort((able, -scores[able]))][:count]
    top = tuple((int(found), float(scores[found] - total)) for found in best)
    return TokenLogprobs(float(scores[token_id] - total), top)


class _Settings(Protocol):
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int


class _Native(Protocol):
    drawn: int

    def see_prompt(self, id: int) -> None: ...
    def see_output(self, id: int) -> None: ...
    def sample(self, logits: F32) -> int: ...


class _Kernels(Protocol):
    SamplingSettings: Callable[[], _Settings]
    Sampler: Callable[[_Settings, list[tuple[int, float]]], _Native]


class Sampler:
    """Draws the tokens of one sequence natively; for one thread.

    Cost: O(vocabulary) a token, without sorting it; the GIL is released.
    """

    seed: int
    """The seed in use; a sampler made with it draws the same tokens."""

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int] = ()
    ) -> None:
        """Begin, or with ``output_ids`` go on after the tokens that were drawn already."""
        kernels = cast("_Kernels", native.kernels("models"))
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._native = kernels.Sampler(
            _native_settings(kernels, params, self.seed), list(params.logit_bias.items())
        )
        for token_id in prompt_ids:
            self._native.see_prompt(token_id)
        for token_id in output_ids:
            self._native.see_output(token_id)

    def sample(self, logits: F32) -> int:
        """The next token's id, which counts from now on as generated.

        Args:
            logits: float32, C-contiguous, shape (vocab,); unchanged.

        Raises:
            InputError: a logit is NaN or +inf, or all are -inf.
        """
        try:
            return self._native.sample(logits)
        except ValueError as error:
            raise unusable_logits(logits, str(error), self._native.drawn) from error


def _native_settings(kernels: _Kernels, params: SamplingParams, seed: int) -> _Settings:
    settings = kernels.SamplingSettings()
    settings.temperature = params.temperature
    settings.top_k = max(params.top_k, 0)
    settings.top_p = params.top_p
    settings.min_p = params.min_p
    settings.repetition_penalty = params.repetition_penalty
    settings.presence_penalty = params.presence_penalty
    settings.frequency_penalty = params.frequency_penalty
    settings.seed = seed
    return settings


def unusable_logits(logits: F32, found: str, step: int) -> InputError:
    """The error for logits that hold ``found``, with the first token concerned."""
    odd = np.flatnonzero(np.isnan(logits) | (logits == np.inf))
    where = f" for token {odd[0]} and {len(odd) - 1} more" if len(odd) else ""
    return InputError(
        f"logits — are {found}{where} at step {step}; must be numbers, some above -inf; the "
        "weights are damaged, the computation overflowed, or logit_bias bars every token."
    )
