"""The answers of OpenAI's API: objects, chunks of a stream, errors."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidemill.models.generation import FinishReason
from tidemill.models.sampling import TokenLogprobs
from tidemill.models.tokenizer import Tokenizer
from tidemill.serve.messages import Delta
from tidemill.serve.tool_calls import ToolCall, ToolCallParser
from tidemill.serve.types import Usage

Json = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """What all parts of one answer say of it."""

    id: str
    model: str
    chat: bool
    tokenizer: Tokenizer
    tools: bool = False
    """Whether calls are looked for in its texts."""
    created: int = field(default_factory=lambda: int(time.time()))
    _parsers: dict[int, ToolCallParser] = field(default_factory=dict[int, ToolCallParser])

    def whole(self, choices: Sequence[Json], usage: Json) -> Json:
        """The answer in one piece."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": list(choices), "usage": usage}

    def choice(self, index: int, deltas: Sequence[Delta], wants_logprobs: bool) -> Json:
        """One text of an answer in one piece."""
        text = "".join(delta.text for delta in deltas)
        reason: str | None = deltas[-1].finish_reason
        shown: Json = {"text": text}
        if self.chat:
            said, calls = self._parted(index, text, last=True)
            message: Json = {"role": "assistant", "content": said}
            if calls:
                message |= {"content": said or None, "tool_calls": [c.as_json() for c in calls]}
            shown, reason = {"message": message}, self._reason(index, reason)
        logprobs = self.logprobs(deltas) if wants_logprobs else None
        return {"index": index, **shown, "logprobs": logprobs, "finish_reason": reason}

    def opening(self, index: int) -> Json:
        """The first chunk of a chat's stream, which says only who speaks."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk([{"index": index, "delta": delta, "finish_reason": None}])

    def chunk(self, index: int, delta: Delta, wants_logprobs: bool) -> Json:
        """A chunk of a stream."""
        shown: Json = {"text": delta.text}
        reason: str | None = delta.finish_reason
        if self.chat:
            known = len(self._parsers[index].calls) if index in self._parsers else 0
            said, calls = self._parted(index, delta.text, last=reason is not None)
            found: Json = {"content": said} if said else {}
            if calls:
                found["tool_calls"] = [c.as_json(known + i) for i, c in enumerate(calls)]
            shown, reason = {"delta": found}, self._reason(index, reason)
        logprobs = self.logprobs([delta]) if wants_logprobs else None
        return self._chunk(
            [{"index": index, **shown, "logprobs": logprobs, "finish_reason": reason}]
        )

    def usage_chunk(self, usage: Json) -> Json:
        """The chunk that ends a stream whose reader wants to know its cost."""
        return {**self._chunk([]), "usage": usage}

    def logprobs(self, deltas: Sequence[Delta]) -> Json:
        """Log probabilities as chats, or completions, have them."""
        pairs = [
            (token, found)
            for delta in deltas
            for token, found in zip(delta.token_ids, delta.logprobs, strict=False)
            if found is not None
        ]
        if self.chat:
            return {"content": [self._chat_logprob(token, found) for token, found in pairs]}
        offsets, length = list[int](), 0
        for token, _ in pairs:
            offsets.append(length)
            length += len(self._text(token))
        return {
            "tokens": [self._text(token) for token, _ in pairs],
            "token_logprobs": [found.chosen for _, found in pairs],
            "top_logprobs": [{self._text(i): p for i, p in found.top} for _, found in pairs],
            "text_offset": offsets,
        }

    def _parted(self, index: int, text: str, *, last: bool) -> tuple[str, list[ToolCall]]:
        if not self.tools:
            return text, []
        return self._parsers.setdefault(index, ToolCallParser()).feed(text, last=last)

    def _reason(self, index: int, reason: str | None) -> str | None:
        called = index in self._parsers and self._parsers[index].calls
        return "tool_calls" if called and reason == FinishReason.STOP else reason

    def _chat_logprob(self, token: int, found: TokenLogprobs) -> Json:
        top = [self._token(other, value) for other, value in found.top]
        return {**self._token(token, found.chosen), "top_logprobs": top}

    def _token(self, token: int, logprob: float) -> Json:
        spelled = self.tokenizer.token_bytes(token)
        return {"token": self._text(token), "logprob": logprob, "bytes": list(spelled)}

    def _text(self, token: int) -> str:
        return self.tokenizer.token_bytes(token).decode("utf-8", "replace")

    def _chunk(self, choices: list[Json]) -> Json:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_json(usages: Sequence[Usage], choices: int = 1) -> Json:
    """Tokens of all texts of a request; a prompt counts once for all its ``choices`` texts."""
    prompt = sum(usage.prompt_tokens for usage in usages[::choices])
    made = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {
            "cached_tokens": sum(usage.cached_tokens for usage in usages[::choices])
        },
    }


def error_json(
    message: str, kind: str, *, param: str | None = None, code: str | None = None
) -> Json:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def sse(document: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
