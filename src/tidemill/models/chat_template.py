"""Conversations as the text that a model was trained on, by the template in its file.

The text equals that of ``transformers``' ``apply_chat_template``. A template is code from whoever
made the file; ``template_sandbox`` bounds what it can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import jinja2
from jinja2.exceptions import SecurityError

from tidemill.errors import CorruptFile, InputError, UnsupportedModel
from tidemill.models.template_limits import limited
from tidemill.models.template_sandbox import TemplateEnvironment, run
from tidemill.models.vocabulary import Vocabulary

MAX_TEMPLATE_CHARACTERS = 1 << 20
MAX_DEPTH = 64
"""Nesting of lists and objects in a message or tool."""
_KEY = "tokenizer.chat_template"
_REASONING = ("reasoning_content", "thinking", "reasoning")
_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "

Message = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text."""

    text: str
    assistant_spans: tuple[tuple[int, int], ...]
    """Character ranges that the template's ``generation`` tags mark as written by the model."""


class ChatTemplate:
    """One compiled template; threads may share it."""

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile ``source``.

        Args:
            source: Jinja, as in ``tokenizer.chat_template``.
            special_tokens: Texts it may use: ``bos_token``, ``eos_token``, ….
            now: The clock behind ``strftime_now``.

        Raises:
            CorruptFile: it is no Jinja, or larger or deeper than any honest template.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise CorruptFile(
                f"{_KEY} — has {len(source)} characters; at most {MAX_TEMPLATE_CHARACTERS}."
            )
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        try:
            with limited():
                self._template = TemplateEnvironment(now).from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CorruptFile(f"{_KEY} — line {error.lineno}: {error.message}.") from error
        except (RecursionError, SecurityError, MemoryError, SyntaxError) as error:
            raise CorruptFile(f"{_KEY} — cannot be compiled: {_reason(error)}.") from error

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], name: str | None = None) -> ChatTemplate:
        """The template of a GGUF file, or the one of its several that is called ``name``.

        Raises:
            UnsupportedModel: the file has none, as that of a base model.
            CorruptFile: it is no template.
        """
        key = f"{_KEY}.{name}" if name else _KEY
        source = metadata.get(key)
        if source is None:
            raise UnsupportedModel(
                f"{key} — is not in the file, so how conversations are written for this model is "
                "not known; it is a base model perhaps: give it plain text, or another file."
            )
        if not isinstance(source, str):
            raise CorruptFile(f"{key} — is no text; pull or convert the model again.")
        return cls(source, special_tokens=cls.special_tokens(metadata))

    @staticmethod
    def special_tokens(metadata: Mapping[str, object]) -> dict[str, str]:
        """The texts that templates may use, as a GGUF file's vocabulary has them."""
        vocabulary = Vocabulary.from_gguf(metadata)
        names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
        return {
            f"{short}_token": vocabulary.texts[token_id]
            for short, long in names.items()
            if (token_id := vocabulary.token_id(f"{long}_token_id")) is not None
        }

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> RenderedChat:
        """Write a conversation.

        Args:
            messages: Each an object with a ``role``, and most with a ``content`` (text or a list of
                parts); values must be what JSON can hold. None counts as absent.
            tools: JSON schemas of functions the model may call.
            documents: Objects with ``title`` and ``text``.
            add_generation_prompt: End with what makes the model answer.
            continue_final_message: End inside the last message, so that the model goes on with it.
            variables: More names for the template (``enable_thinking``, …).

        Raises:
            InputError: a message is malformed, or the template does not take this conversation.
            CorruptFile: the template does what it must not, or takes too much time or space.
        """
        if continue_final_message and add_generation_prompt:
            raise InputError(
                "continue_final_message — excludes add_generation_prompt: the text ends inside "
                "the last message or behind it; set one of them to False."
            )
        chat = _checked_messages(messages)
        ending = _mark_ending(chat) if continue_final_message else None
        scope = {
            **self._special_tokens,
            **cast("dict[str, object]", _plain(variables or {}, "variables")),
            "messages": chat,
            "tools": None if tools is None else _objects(tools, "tools"),
            "documents": None if documents is None else _objects(documents, "documents"),
            "add_generation_prompt": add_generation_prompt,
        }
        rendered = self._run(scope)
        return rendered if ending is None else _cut_at_ending(rendered, ending)

    def _run(self, scope: Mapping[str, object]) -> RenderedChat:
        try:
            rendering = run(self._template, scope)
        except (SecurityError, RecursionError, MemoryError) as error:
            raise CorruptFile(f"{_KEY} — was stopped: {_reason(error)}.") from error
        except jinja2.TemplateError as error:
            raise InputError(f"messages — the chat template refuses them: {error}.") from error
        except Exception as error:  # whatever a template's expressions may raise
            raise InputError(
                f"messages — the chat template cannot write them: {_reason(error)}."
            ) from error
        return RenderedChat("".join(rendering.blocks), tuple(rendering.spans))


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it nests or calls itself too deeply"
    return str(error)[:300] or type(error).__name__


def _checked_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    if isinstance(messages, str | bytes | Mapping):
        raise InputError("messages — must be a list of objects with a role and a content.")
    chat = _objects(messages, "messages")
    if not chat:
        raise InputError("messages — the conversation is empty; give at least one message.")
    for index, message in enumerate(chat):
        where = f"messages[{index}]"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role:
            raise InputError(f"{where} — has role={role!r}; must be a name such as 'user'.")
        if content is not None and not isinstance(content, str | list):
            raise InputError(f"{where} — has content={content!r}; must be text or a list of parts.")
    kept = [{key: item for key, item in message.items() if item is not None} for message in chat]
    return [_alias_reasoning(message) for message in kept]


def _alias_reasoning(message: dict[str, object]) -> dict[str, object]:
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _objects(items: Sequence[Message], where: str) -> list[dict[str, object]]:
    plain = _plain(list(items), where)
    for index, item in enumerate(cast("list[object]", plain)):
        if not isinstance(item, dict):
            raise InputError(f"{where}[{index}] — is {type(item).__name__}; must be an object.")
    return cast("list[dict[str, object]]", plain)


def _plain(value: object, where: str, depth: int = 0) -> object:
    """A copy made of JSON's own types, which have no methods that a template could misuse."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} — is nested more than {MAX_DEPTH} deep.")
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        for key, _ in items:
            if not isinstance(key, str):
                raise InputError(f"{where} — has the key {key!r}; keys must be text.")
        return {str(key): _plain(item, f"{where}.{key}", depth + 1) for key, item in items}
    if isinstance(value, list | tuple):
        parts = cast("Sequence[object]", value)
        return [_plain(part, f"{where}[{at}]", depth + 1) for at, part in enumerate(parts)]
    raise InputError(
        f"{where} — is {type(value).__name__} {value!r:.60}; must be what JSON can hold."
    )


def _mark_ending(chat: list[dict[str, object]]) -> str:
    """Put a mark behind the last message's text, and give that text."""
    final = chat[-1].get("content")
    if isinstance(final, str):
        chat[-1]["content"] = final + _CONTINUE
        return final
    for part in reversed(cast("list[object]", final or [])):
        fields = cast("dict[str, object]", part if isinstance(part, dict) else {})
        if isinstance(text := fields.get("text"), str):
            fields["text"] = text + _CONTINUE
            return text
    raise InputError("messages — the last has no text that could be continued.")


def _cut_at_ending(rendered: RenderedChat, ending: str) -> RenderedChat:
    at = rendered.text.rfind(_CONTINUE.strip())
    if at < 0 or ending.strip() not in rendered.text:
        raise InputError(
            "continue_final_message — the chat template leaves the last message out or changes it."
        )
    text = rendered.text[:at]
    if not rendered.text.startswith(_CONTINUE, at):  # the template trims messages
        text = text.rstrip()
    spans = tuple((begin, min(end, len(text))) for begin, end in rendered.assistant_spans)
    return RenderedChat(text, spans)
