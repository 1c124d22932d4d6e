"""Configurations from JSON, forms and ``--set``: one meaning, whichever way a value comes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench.settings import dumps, from_json, settings_of, to_json
from tidemill.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Config:
    size: int = field(default=4, metadata={"help": "edge of the box"})
    share: float = field(default=0.5, metadata={"help": "of the whole"})
    canonical: bool = True
    name: str = "box"
    colour: Colour = Colour.RED
    weight_kg: float | None = None
    shape: str = field(default="cube", metadata={"choices": ("cube", "ball")})

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 100:
            raise ConfigError.of("size", self.size, "in [1, 100]")


configs = st.builds(
    Config,
    size=st.integers(1, 100),
    share=st.floats(allow_nan=False, allow_infinity=False),
    canonical=st.booleans(),
    name=st.text(),
    colour=st.sampled_from(Colour),
    weight_kg=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    shape=st.sampled_from(["cube", "ball"]),
)


@given(configs)
def test_a_configuration_survives_json(config: Config) -> None:
    assert from_json(Config, json.loads(dumps(to_json(config)))) == config


@given(configs)
def test_words_of_a_form_mean_what_json_means(config: Config) -> None:
    words = {
        name: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in to_json(config).items()
    }
    assert from_json(Config, words) == config


def test_absent_fields_keep_their_defaults() -> None:
    assert from_json(Config, {"size": 7}) == Config(size=7)
    assert from_json(Config, {}) == Config()


def test_settings_say_what_a_form_needs() -> None:
    known = {setting.name: setting for setting in settings_of(Config)}
    assert list(known) == list(to_json(Config()))
    assert known["size"].help == "edge of the box"
    assert (known["size"].kind, known["size"].default) == (int, 4)
    assert known["colour"].choices == ("red", "blue")
    assert known["shape"].choices == ("cube", "ball")
    assert (known["weight_kg"].kind, known["weight_kg"].optional) == (float, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "four"), ("size", 4.5), ("size", None), ("size", ""), ("size", [4]),
        ("share", "half"), ("share", float("nan")), ("share", "inf"), ("share", "-Infinity"),
        ("canonical", "maybe"), ("canonical", 2), ("canonical", None),
        ("colour", "green"), ("colour", ""), ("shape", "cone"),
        ("weight_kg", "heavy"), ("name", None),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_with_field_value_and_what_is_allowed(
    name: str, value: object
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(Config, {name: value})
    assert str(caught.value).startswith(f"{name}={value!r} — must be ")


def test_a_value_out_of_range_is_refused_by_the_configuration_itself() -> None:
    with pytest.raises(ConfigError, match=r"size=101 — must be in \[1, 100\]"):
        from_json(Config, {"size": "101"})


def test_an_unknown_setting_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"setting='length' — must be one of size, share"):
        from_json(Config, {"length": 1})


def test_a_number_may_be_hexadecimal() -> None:
    assert from_json(Config, {"size": "0x10"}) == Config(size=16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": float("-inf")}])
def test_json_that_others_cannot_read_is_never_written(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps(value)
