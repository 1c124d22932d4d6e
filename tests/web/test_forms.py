"""The form of a system is its dataclass, and nothing but the dataclass judges what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench import System, find
from tidemill.errors import ConfigError
from tidemill.web import forms


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sizes of which the first is larger."""

    large: int = field(default=31, metadata={"help": "The larger one.", "help_zh": "较大者。"})
    small: int = field(default=28, metadata={"help": "The smaller one."})
    share: float = 0.5
    colour: Colour = Colour.RED
    quick: bool = True
    seed: int | None = None
    source: str = field(default="lake", metadata={"web_choices": ("lake", "sea")})

    def __post_init__(self) -> None:
        if self.large < 1:
            raise ConfigError.of("large", self.large, "at least 1")
        if self.small > self.large:
            raise ConfigError.of("small", self.small, f"at most large={self.large}")
        if self.share * self.large > 1000:
            raise ConfigError("the share of the larger one is over 1000.")


@pytest.fixture
def system() -> System:
    return replace(find("waterwheel"), config=Pair)


def test_a_blank_form_holds_the_defaults_and_fitting_controls(system: System) -> None:
    form = forms.blank(system)
    assert {f.setting.name: (f.control, f.value) for f in form.fields} == {
        "large": ("whole", "31"),
        "small": ("whole", "28"),
        "share": ("real", "0.5"),
        "colour": ("choice", "red"),
        "quick": ("choice", "true"),
        "seed": ("whole", ""),
        "source": ("choice", "lake"),
    }
    assert [f.choices for f in form.fields[3:5]] == [("red", "blue"), ("true", "false")]
    assert form.fields[0].help_zh == "较大者。"
    assert not form.changed


def test_what_the_dataclass_takes_becomes_a_configuration(system: System) -> None:
    sent = {"large": " 21 ", "small": "18", "colour": "blue", "quick": "false", "seed": "7"}
    form = forms.judge(system, sent)
    assert form.config == {
        "large": 21,
        "small": 18,
        "share": 0.5,
        "colour": "blue",
        "quick": False,
        "seed": 7,
        "source": "lake",
    }
    assert forms.as_settings(system, form.config) == [
        "large=21",
        "small=18",
        "colour=blue",
        "quick=false",
        "seed=7",
    ]


def test_all_mistakes_show_at_once_beside_their_fields_and_keep_what_was_typed(
    system: System,
) -> None:
    form = forms.judge(system, {"large": "many", "share": "nan", "colour": "green", "seed": ""})
    assert form.config is None
    errors = {f.setting.name: f.error for f in form.fields if f.error}
    assert set(errors) == {"large", "share", "colour"}
    assert "a whole number" in errors["large"]
    assert {f.setting.name: f.value for f in form.fields}["large"] == "many"


def test_a_rule_between_fields_is_judged_with_all_of_them(system: System) -> None:
    assert forms.judge(system, {"large": "20", "small": "10"}).config is not None
    form = forms.judge(system, {"large": "20"})  # the other one's default is too large for it
    assert form.config is None
    assert "at most large=20" in form.error
    form = forms.judge(system, {"large": "20", "small": "25"})
    assert [f.setting.name for f in form.fields if f.error] == ["small"]


def test_a_refusal_of_the_whole_stands_above_the_form(system: System) -> None:
    form = forms.judge(system, {"large": "9000"})
    assert form.config is None
    assert form.error == "the share of the larger one is over 1000."


@given(st.dictionaries(st.sampled_from(["large", "small", "share", "colour", "seed"]), st.text()))
def test_no_input_makes_a_form_raise(sent: dict[str, str]) -> None:
    system = replace(find("waterwheel"), config=Pair)
    form = forms.judge(system, sent)
    assert (form.config is None) == bool(form.error or any(f.error for f in form.fields))


@pytest.mark.parametrize("value", ["/etc/passwd", "", "LAKE", "lake\0"])
def test_the_web_takes_only_what_is_shipped_where_a_file_may_be_named(
    system: System, value: str
) -> None:
    form = forms.judge(system, {"source": value, "large": "40"})
    assert form.config is None
    refused = next(f for f in form.fields if f.setting.name == "source")
    assert "lake, sea" in refused.error
    assert "--set source=FILE" in refused.error
    taken = forms.judge(system, {"source": "sea"})
    assert taken.config is not None
    assert taken.config["source"] == "sea"


def test_a_run_of_a_file_is_repeated_from_the_web_with_what_is_shipped(system: System) -> None:
    form = forms.blank(system, {"source": "/home/me/pond", "large": 40})
    shown = {f.setting.name: f.value for f in form.fields}
    assert (shown["source"], shown["large"]) == ("lake", "40")
