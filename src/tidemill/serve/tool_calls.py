"""Calls of tools in a text, as the models of the Qwen and Hermes families write them.

<tool_call>
{"name": "weather", "arguments": {"city": "Rome"}}
</tool_call>
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tidemill.errors import InputError
from tidemill.serve.grammar import COMPACT

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wants made."""

    name: str
    arguments: str
    """JSON."""

    def as_json(self, index: int | None = None) -> dict[str, Any]:
        """As OpenAI's clients expect it; in a stream calls are numbered."""
        call = {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }
        return call if index is None else {"index": index, **call}


class ToolCallParser:
    """Parts a text, piece by piece, into what is said and what is to be called."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self.calls: list[ToolCall] = []

    def feed(self, text: str, *, last: bool) -> tuple[str, list[ToolCall]]:
        """What ``text`` settles: words for the reader, and calls that are complete.

        A call that is no JSON, or that is cut off, is given as the text it is.
        """
        self._held += text
        said, calls = "", list[ToolCall]()
        while True:
            tag = CLOSE if self._inside else OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            self._held = after
            call = _parsed(before) if self._inside else None
            if call is not None:
                calls.append(call)
            elif self._inside:
                said += OPEN + before + CLOSE
            else:
                said += before
            self._inside = not self._inside
        said += self._rest(last)
        self.calls += calls
        return (said.lstrip("\n") if self.calls else said), calls

    def _rest(self, last: bool) -> str:
        if last:
            rest, self._held = (OPEN if self._inside else "") + self._held, ""
            return rest
        if self._inside:
            return ""
        keep = next((n for n in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:n])), 0)
        settled = self._held[: len(self._held) - keep]
        self._held = self._held[len(settled) :]
        return settled


def _parsed(text: str) -> ToolCall | None:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    call = cast("dict[str, object]", found)
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str):
        return None
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, given)


def forced_call(tools: Sequence[Mapping[str, Any]], only: str | None) -> str:
    """A Lark grammar of one call of one of ``tools``, or of ``only``.

    Raises:
        InputError: a tool is no function, or there is none of that name.
    """
    functions = [_function(tool) for tool in tools]
    chosen = [f for f in functions if only is None or f["name"] == only]
    if not chosen:
        names = ", ".join(f["name"] for f in functions) or "none"
        raise InputError(f"tool_choice — {only!r} is not among the tools given ({names}).")
    schemas = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in chosen
    ]
    schema = json.dumps({"x-guidance": COMPACT, "anyOf": schemas})
    return f'start: "{OPEN}\\n" call "\\n{CLOSE}"\ncall: %json {schema}\n'


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise InputError('tools — each must be {"type": "function", "function": {…}}.')
    found = cast("dict[str, Any]", function)
    if not isinstance(found.get("name"), str) or not found["name"]:
        raise InputError("tools — each function must have a name.")
    return found
