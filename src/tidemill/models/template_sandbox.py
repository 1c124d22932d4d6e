"""Jinja as chat templates know it, in a sandbox with an end: the template comes with the model.

What ``transformers`` adds to Jinja is here too (``raise_exception``, ``strftime_now``, its
``tojson``, loop controls, the ``generation`` tag). Jinja's own sandbox keeps a template from
Python's internals, but not from running for ever or filling the memory. So every step of a template
is counted against a limit of CPU time, and everything that can make a large value against one of
size: each string or list that it builds, and all of them together.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_eval_context

CPU_SECONDS = 2.0
MAX_VALUE = 1 << 24
"""Characters or items of one value, and of the whole output."""
MAX_BUILT = 1 << 29
"""Characters and items of all values that one rendering builds."""
MAX_ARGUMENT = 1 << 20
"""An integer given to a filter or method, or a width in a format."""
_MAX_BITS = 4096
_UNSAFE_ATTRIBUTES = frozenset(("translate", "maketrans", "format_map", "expandtabs"))
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


_current: ContextVar[Rendering | None] = ContextVar("rendering", default=None)


@contextmanager
def limited() -> Generator[Rendering]:
    """Count what this thread does with a template from here on."""
    rendering = Rendering(time.thread_time() + CPU_SECONDS)
    token = _current.set(rendering)
    outer = sys.gettrace()
    sys.settrace(rendering.step)
    try:
        yield rendering
    finally:
        sys.settrace(outer)
        _current.reset(token)


def _charge(value: object) -> object:
    if isinstance(value, str | list | tuple | dict):
        _charge_size(len(cast("Sequence[object]", value)))
    return value  # pyright: ignore[reportUnknownVariableType]


def _check_arguments(subject: object, name: str, arguments: tuple[object, ...]) -> None:
    """Refuse what could make a large value in one step that no trace can end."""
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > MAX_ARGUMENT:
            raise LimitExceeded(f"it gives {name} a number over {MAX_ARGUMENT}")
    rendering = _current.get()
    if rendering is None or not isinstance(subject, str):
        return
    if name in ("format", "__mod__") and _WIDE.search(subject):
        raise LimitExceeded("it formats with a width of six digits or more")
    if name == "replace" and len(arguments) > 1:
        old, new = str(arguments[0]), str(arguments[1])
        grown = (subject.count(old) if old else len(subject) + 1) * len(new)
        rendering.charge(len(subject) + grown)
    if name == "join" and arguments and isinstance(arguments[0], list | tuple):
        rendering.charge(len(subject) * len(cast("Sequence[object]", arguments[0])))


def _checked_filter(name: str, function: Callable[..., object]) -> Callable[..., object]:
    wanted = str(getattr(getattr(function, "jinja_pass_arg", None), "name", ""))

    @pass_context  # which also keeps the compiler from running it on constants, outside the limits
    def checked(context: Context, value: object, *args: object, **kwargs: object) -> object:
        if name == "join" and args:
            value = list(cast("Sequence[object]", value))
            _check_arguments(str(args[0]), name, (value,))
        else:
            _check_arguments(value, name, (*args, *kwargs.values()))
        first: dict[str, tuple[object, ...]] = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }
        return _charge(function(*first.get(wanted, ()), value, *args, **kwargs))

    return checked


def _multiplied(left: object, right: object) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            _charge_size(len(cast("Sequence[object]", value)) * times)
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _charge_size(size: int) -> None:
    rendering = _current.get()
    if rendering is not None and size > 0:
        rendering.charge(size)


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise LimitExceeded(f"it computes with numbers of more than {_MAX_BITS} bits")


class _Generation(Extension):
    """``{% generation %}``: what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 — Jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _mark(self, context: nodes.EvalContext, caller: Macro) -> str:
        del context
        text = str(caller())
        if (rendering := _current.get()) is not None:
            begin = sum(map(len, rendering.blocks))
            rendering.spans.append((begin, begin + len(text)))
        return text


class _Namespace(Namespace):
    """Refuses names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it sets {name!r} on a namespace")


class _Dict:
    """``dict`` for templates, without what hangs on the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Compiler(CodeGenerator):
    """Sends ``a ~ b`` through the environment, as Jinja does with the other operators."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Compiles and runs chat templates; run them inside ``limited()``."""

    code_generator_class = _Compiler
    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        filters = cast("dict[str, Callable[..., object]]", self.filters)
        self.filters = {name: _checked_filter(name, found) for name, found in filters.items()}  # pyright: ignore[reportAttributeAccessIssue]
        self.globals |= {  # pyright: ignore[reportUnknownMemberType]
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: now().strftime(form),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
            "dict": _Dict(),
            "namespace": _Namespace,
        }

    def concatenated(self, parts: tuple[object, ...]) -> str:
        """``a ~ b``."""
        texts = [str(part) for part in parts]
        _charge_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One of the intercepted operators."""
        if operator == "*":
            _multiplied(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str):
            values = cast("tuple[object, ...]", right if isinstance(right, tuple) else (right,))
            _check_arguments(left, "__mod__", values)
        return _charge(super().call_binop(context, operator, left, right))

    def format_string(self, s: str, args: Any, kwargs: Any, format_func: Any = None) -> str:
        """``s.format(…)``."""
        _check_arguments(s, "format", (*args, *kwargs.values()))
        return super().format_string(s, args, kwargs, format_func)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may touch ``obj.attr``."""
        return attr not in _UNSAFE_ATTRIBUTES and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call that stands in the template."""
        subject = getattr(__obj, "__self__", None)
        name = str(getattr(__obj, "__name__", "a function"))
        _check_arguments(subject, name, (*args, *kwargs.values()))
        return _charge(super().call(__context, __obj, *args, **kwargs))


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As ``transformers``: Jinja's own filter would escape HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def run(template: jinja2.Template, variables: Mapping[str, object]) -> Rendering:
    """Render inside the limits; the text is ``"".join(rendering.blocks)``."""
    with limited() as rendering:
        size = 0
        for block in template.generate(variables):
            size += len(block)
            if size > MAX_VALUE:
                raise LimitExceeded(f"it writes more than {MAX_VALUE} characters")
            rendering.blocks.append(block)
    return rendering
