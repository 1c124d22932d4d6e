"""Calls of tools are found however a text is cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.errors import InputError
from tidemill.serve.tool_calls import ToolCallParser, forced_call

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def parted(*pieces: str) -> tuple[str, list[tuple[str, str]]]:
    parser = ToolCallParser()
    said = "".join(parser.feed(piece, last=False)[0] for piece in pieces)
    said += parser.feed("", last=True)[0]
    return said, [(call.name, call.arguments) for call in parser.calls]


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 3), st.booleans())
def test_cuts_do_not_matter(cuts: list[int], count: int, with_words: bool) -> None:
    text = ("Let me look.\n" if with_words else "") + "\n".join([CALL] * count)
    ends = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
    said, calls = parted(*pieces)
    assert said.strip() == ("Let me look." if with_words else "")
    assert calls == [("weather", '{"city": "Rom"}')] * count


@pytest.mark.parametrize(
    "text",
    [
        "a < b and <tool",
        "<tool_call>no JSON</tool_call>",
        '<tool_call>{"name": 3}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "cut',
        "</tool_call>",
        "",
    ],
)
def test_what_is_no_call_is_text(text: str) -> None:
    assert parted(*text) == (text, [])


@given(st.text("<tol_ca/>{}\n", max_size=60))
def test_no_text_is_lost(text: str) -> None:
    said, calls = parted(*text)
    assert not calls
    assert said == text


def test_a_forced_call_is_of_a_tool_that_was_given() -> None:
    assert json.dumps("weather") in forced_call([TOOL], "weather")
    with pytest.raises(InputError, match="'time' is not among the tools given"):
        forced_call([TOOL], "time")
    with pytest.raises(InputError, match="none"):
        forced_call([], None)
    with pytest.raises(InputError, match="must have a name"):
        forced_call([{"type": "function", "function": {}}], None)
