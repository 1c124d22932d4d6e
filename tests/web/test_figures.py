"""Figures keep their size and say their interval."""

from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bench import Measurement, wording
from tidemill.web import figures, filters, formats

LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18)


@pytest.mark.parametrize("module", [figures, filters, formats, wording])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def read_back(text: str) -> float:
    text = re.sub("[\u202f\xa0]", "", text).replace("−", "-")
    if power := re.fullmatch("(?:(.*) × )?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text):
        return float(f"{power[1] or 1}e{power[2].translate(LOWERED)}")
    return float(text)


@given(FINITE)
def test_a_number_is_shown_within_half_a_percent(value: float) -> None:
    assert read_back(wording.figure(value)) == pytest.approx(value, rel=0.0051, abs=1e-300)


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_an_interval_is_never_shown_as_a_point(low: float, width: float) -> None:
    high = low + width
    shown = Measurement(claim="a", value=low, low=low, high=high, repeats=3)
    first, _, last = figures.interval(shown).partition(" – ")
    assert read_back(first) < read_back(last)


def test_an_exact_count_has_no_interval() -> None:
    assert figures.interval(Measurement(claim="a", value=3, low=3, high=3, repeats=1)) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0421, "0.042 s"), (38, "38 s"), (248, "4 min 08 s"), (7380, "2 h 03 min"), (None, "")],
)
def test_a_span_is_told_in_the_units_that_matter(seconds: float | None, text: str) -> None:
    assert figures.span(seconds).replace("\xa0", " ") == text


def test_a_commit_is_shortened_but_a_version_is_not() -> None:
    assert figures.code_name("0ecc537" + "a" * 33 + "+dirty.12345678") == "0ecc537+dirty"
    assert figures.code_name("0.1.0.9f8e7d6c5b4a") == "0.1.0.9f8e7d6c5b4a"
