"""Jinja as chat templates know it, in a sandbox: the template comes with the model.

What ``transformers`` adds to Jinja is here too (``raise_exception``, ``strftime_now``, its
``tojson``, loop controls, the ``generation`` tag). ``template_limits`` says what a template may
use; here is where it is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
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

from tidemill.models.template_limits import (
    MAX_VALUE,
    LimitExceeded,
    Rendering,
    charge,
    charge_joined,
    charge_text,
    check_arguments,
    check_bits,
    check_product,
    current,
    limited,
)

_UNSAFE_ATTRIBUTES = frozenset(("translate", "maketrans", "format_map", "expandtabs"))
_STRUCTURAL = frozenset(
    (
        "abs", "attr", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby",
        "int", "items", "last", "length", "list", "map", "max", "min", "random", "reject",
        "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort", "unique",
    )
)  # fmt: skip
"""Filters that make no text of what they are given."""


def _checked_filter(name: str, function: Callable[..., object]) -> Callable[..., object]:
    wanted = str(getattr(getattr(function, "jinja_pass_arg", None), "name", ""))

    @pass_context  # which also keeps the compiler from running it on constants, outside the limits
    def checked(context: Context, value: object, *args: object, **kwargs: object) -> object:
        arguments = (*args, *kwargs.values())
        if name == "join":
            value = list(cast("Sequence[object]", value))
            separators = [argument for argument in arguments if isinstance(argument, str)]
            charge_joined(value, max(separators, key=len, default=""))
        elif name not in _STRUCTURAL:
            charge_text(value)
            charge_text(arguments)
        check_arguments(value, name, arguments)
        first: dict[str, tuple[object, ...]] = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (context.environment,),
        }
        return charge(function(*first.get(wanted, ()), value, *args, **kwargs))

    return checked


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
        if (rendering := current.get()) is not None:
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
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            finalize=charge_text,
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
        charge_text(parts)
        return "".join(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One of the intercepted operators."""
        if operator == "*":
            check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_bits(left.bit_length() * max(right, 0))
        elif operator == "%" and isinstance(left, str):
            values = cast("tuple[object, ...]", right if isinstance(right, tuple) else (right,))
            check_arguments(left, "__mod__", values)
        return charge(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``s.format``, with its widths checked."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            check_arguments(value.__self__, "format", (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return checked

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may touch ``obj.attr``."""
        return attr not in _UNSAFE_ATTRIBUTES and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call that stands in the template."""
        subject = getattr(__obj, "__self__", None)
        name = str(getattr(__obj, "__name__", "a function"))
        check_arguments(subject, name, (*args, *kwargs.values()))
        return charge(super().call(__context, __obj, *args, **kwargs))


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
