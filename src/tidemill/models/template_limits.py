"""What a chat template may use: CPU time, and the size of what it builds.

Jinja's sandbox keeps a template from Python's internals, but not from running for ever or filling
the memory. So every step of a template is counted against a limit of CPU time, and everything that
can make a large value against one of size, before it is made: each string or list, and all of them
together.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, cast

from jinja2.exceptions import SecurityError

CPU_SECONDS = 2.0
MAX_VALUE = 1 << 22
"""Characters or items of one value, and of the whole output."""
MAX_BUILT = 1 << 28
"""Characters and items of all values that one rendering builds."""
MAX_ARGUMENT = 1 << 20
"""An integer given to a filter or method, or a width in a format."""
_MAX_BITS = 4096
_WIDE = re.compile(r"\d{6,}|\*")


class LimitExceeded(SecurityError):
    """The template takes more time or space than any honest one."""


@dataclass(slots=True)
class Rendering:
    """What one rendering has used, and the spans that the ``generation`` tag marked."""

    cpu_until_s: float
    built: int = 0
    blocks: list[str] = field(default_factory=list[str])
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def charge(self, size: int) -> None:
        """Count a value of ``size``."""
        self.built += size
        if size > MAX_VALUE or self.built > MAX_BUILT:
            raise LimitExceeded(f"it builds more than {MAX_VALUE} characters or items")

    def step(self, frame: FrameType, event: str, argument: object) -> Any:
        """A trace function that ends the rendering when its time is over."""
        del event, argument
        if time.thread_time() > self.cpu_until_s:
            raise LimitExceeded(f"it takes more than {CPU_SECONDS:g} s of CPU time")
        return self.step if frame.f_code.co_filename == "<template>" else None


current: ContextVar[Rendering | None] = ContextVar("rendering", default=None)
"""The rendering that this thread is in."""


@contextmanager
def limited() -> Generator[Rendering]:
    """Count what this thread does with a template from here on."""
    rendering = Rendering(time.thread_time() + CPU_SECONDS)
    token = current.set(rendering)
    outer = sys.gettrace()
    sys.settrace(rendering.step)
    try:
        yield rendering
    finally:
        sys.settrace(outer)
        current.reset(token)


def charge(value: object) -> object:
    """Count ``value`` by its own length, and give it back."""
    if isinstance(value, str | list | tuple | dict):
        charge_size(len(cast("Sequence[object]", value)))
    return value  # pyright: ignore[reportUnknownVariableType]


def charge_size(size: int) -> None:
    """Count a value of ``size``, made or about to be."""
    rendering = current.get()
    if rendering is not None and size > 0:
        rendering.charge(size)


def charge_text(value: object) -> object:
    """Count what ``value`` would be as text; a small list may hold one long string many times."""
    if isinstance(value, str | list | tuple | dict):
        charge_size(_text_size(cast("object", value), {}))
    return value  # pyright: ignore[reportUnknownVariableType]


def _text_size(value: object, known: dict[int, int]) -> int:
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 8
    key = id(cast("object", value))
    if key not in known:
        known[key] = 0  # while it is counted: a list may hold itself
        size = 2
        for item in cast("Sequence[object]", value):
            size += 2 + _text_size(item, known)
        if isinstance(value, dict):
            for item in cast("dict[object, object]", value).values():
                size += 2 + _text_size(item, known)
        known[key] = size
    return known[key]


def check_arguments(subject: object, name: str, arguments: tuple[object, ...]) -> None:
    """Refuse what could make a large value in one step that no trace can end."""
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > MAX_ARGUMENT:
            raise LimitExceeded(f"it gives {name} a number over {MAX_ARGUMENT}")
    if not isinstance(subject, str):
        return
    if name in ("format", "__mod__"):
        if _WIDE.search(subject):
            raise LimitExceeded("it formats with a width of six digits or more")
        fields = subject.count("{") + subject.count("%")
        charge_size(len(subject) + fields * _text_size(arguments, {}))
    elif name == "replace" and len(arguments) > 1:
        old, new = str(arguments[0]), str(arguments[1])
        grown = (subject.count(old) if old else len(subject) + 1) * len(new)
        charge_size(len(subject) + grown)
    elif name == "join" and arguments:
        charge_joined(arguments[0], subject)
    elif name in ("indent", "wordwrap"):
        inserted = max((len(text) for text in arguments if isinstance(text, str)), default=0)
        charge_size(len(subject) * (1 + inserted))


def charge_joined(items: object, separator: str) -> None:
    """Count the text of ``items`` with ``separator`` between them."""
    if isinstance(items, list | tuple):
        count = len(cast("Sequence[object]", items))
        charge_size(_text_size(cast("object", items), {}) + count * len(separator))


def check_product(left: object, right: object) -> None:
    """Refuse ``left * right`` if it is too large."""
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            charge_size(len(cast("Sequence[object]", value)) * times)
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())


def check_bits(bits: int) -> None:
    """Refuse an integer of ``bits``."""
    if bits > _MAX_BITS:
        raise LimitExceeded(f"it computes with numbers of more than {_MAX_BITS} bits")
