"""The configuration goes to JSON and back, and refuses bad values in words that help."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tidemill.bench.settings import Setting, dumps, from_json, settings_of, to_json
from tidemill.errors import ConfigError
from tidemill.testing.subject import CheckFailed, Named, Subject, must, must_be_written

_NUMBER = r"(-?(?:\d{1,3}(?:[,_]\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?:(?:\*\*|\^)\d+)?)"
_RANGES = tuple(
    # four groups each: mark of the lower bound, lower bound, upper bound, mark of the upper bound
    re.compile(pattern)
    for pattern in (
        rf"([\[(])\s*{_NUMBER}\s*,\s*{_NUMBER}\s*([\])])",
        rf"()from\s+{_NUMBER}\s+to\s+{_NUMBER}()",
        rf"()\b(?<![\w.]){_NUMBER}\s*(?:-|–|to|\.\.)\s*{_NUMBER}()",
        rf"()at least {_NUMBER}()()",
        rf"()at most (){_NUMBER}()",
    )
)
_FAR: dict[type, tuple[Any, Any]] = {int: (-(2**70), 2**70), float: (-1e300, 1e300)}
_WRONG: dict[type, tuple[Any, ...]] = {
    int: ("four", 4.5, None, "", [1]),
    float: ("half", math.nan, math.inf, -math.inf, None, "", [1.0]),
    bool: ("maybe", 2, None),
    str: (None,),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a message says is allowed; a bound is None where it names none.

    The marks are "[" or "]" for a bound that is allowed itself, "(" or ")" for one that is not, ""
    where the words leave it open.
    """

    low: float | None = None
    high: float | None = None
    low_mark: str = ""
    high_mark: str = ""


def checks_of(subject: Subject) -> Iterator[Named]:
    """Of the class as a whole, then of each field."""
    config = subject.system.config
    yield "config-is-frozen-and-slotted", partial(_is_frozen_and_slotted, config)
    yield "config-has-defaults", partial(_has_defaults, config)
    yield "config-round-trips-to-json", partial(_round_trips, config)
    yield "config-refuses-unknown-fields", partial(_refuses_unknown, config)
    for setting in settings_of(config):
        yield f"config-{setting.name}-has-help", partial(_has_help, setting)
        yield f"config-{setting.name}-refuses-a-wrong-type", partial(_wrong_type, config, setting)
        if setting.kind in _FAR:
            name = f"config-{setting.name}-refuses-values-out-of-range"
            yield name, partial(_out_of_range, config, setting)


def _is_frozen_and_slotted(config: type[Any]) -> None:
    must(config.__dataclass_params__.frozen, "must be @dataclass(frozen=True, slots=True).")
    must("__slots__" in vars(config), "must be @dataclass(frozen=True, slots=True).")


def _has_defaults(config: type[Any]) -> None:
    try:
        config()
    except TypeError as error:
        raise CheckFailed(f"every field needs a default: {error}.") from error


def _round_trips(config: type[Any]) -> None:
    default = config()
    text = dumps(to_json(default))
    must(from_json(config, json.loads(text)) == default, f"differs after JSON: {text}.")


def _refuses_unknown(config: type[Any]) -> None:
    _refusal(config, "no_such_setting", 1, "setting='no_such_setting'")


def _has_help(setting: Setting) -> None:
    where = f'field({setting.name}, metadata={{"help": …}})'
    must_be_written(where, setting.help)


def _wrong_type(config: type[Any], setting: Setting) -> None:
    wrong = ("no such choice",) if setting.choices else _WRONG.get(setting.kind, ())
    for value in wrong:
        if not (setting.optional and value in (None, "")):
            _refusal(config, setting.name, value, f"{setting.name}={value!r}")


def _out_of_range(config: type[Any], setting: Setting) -> None:
    """The far ends tell the bounds in their messages; then each bound is tried from both sides."""
    refused = 0
    for far in _FAR[setting.kind]:
        said = _answer(config, setting.name, far)
        if said is None:
            continue
        refused += 1
        _must_name(said, setting.name, far)
        _try_bounds(config, setting, _bounds(said), said)
    must(
        refused or "seed" in setting.name,
        f"{setting.name} takes {_FAR[setting.kind][0]} and {_FAR[setting.kind][1]:g} alike; "
        "refuse what cannot work in __post_init__ with ConfigError.of(field, value, allowed, why).",
    )


def _try_bounds(config: type[Any], setting: Setting, bounds: Bounds, said: str) -> None:
    for bound, mark, outward in (
        (bounds.low, bounds.low_mark, -math.inf),
        (bounds.high, bounds.high_mark, math.inf),
    ):
        if bound is None:
            continue
        is_out = mark in ("(", ")")
        outside = setting.kind(bound) if is_out else _next(setting, bound, outward)
        refusal = _answer(config, setting.name, outside)
        must(refusal, f"{setting.name}={outside!r} is taken, though {said!r} excludes it.")
        _must_name(str(refusal), setting.name, outside)
        inside = setting.kind(bound)
        answer = _answer(config, setting.name, inside) if mark in ("[", "]") else None
        # another field may have its say about an extreme value; this one may not
        must(
            answer is None or not answer.startswith(f"{setting.name}="),
            f"{setting.name}={inside!r} is refused ({answer}), though {said!r} allows it.",
        )


def _next(setting: Setting, bound: float, outward: float) -> Any:
    if setting.kind is int:
        return int(bound) + (1 if outward > 0 else -1)
    return math.nextafter(bound, outward)


def _bounds(said: str) -> Bounds:
    """The range that a message of the house form names: ``… — must be in (0, 1]; why``."""
    allowed = said.partition("must be")[2].partition(";")[0]
    for pattern in _RANGES:
        if found := pattern.search(allowed):
            opening, low, high, closing = found.groups()
            return Bounds(_number(low), _number(high), opening, closing)
    return Bounds()


def _number(text: str) -> float | None:
    if not text:
        return None
    base, power, exponent = text.replace(",", "").replace("_", "").replace("**", "^").partition("^")
    number = float(base) if any(mark in base for mark in ".eE") else int(base)
    return number ** int(exponent) if power else number


def _refusal(config: type[Any], name: str, value: object, named: str) -> None:
    said = _answer(config, name, value)
    must(said is not None, f"{name}={value!r} is taken; it must raise ConfigError.")
    must(
        named in str(said) and "must be" in str(said),
        f"{said!r} does not name field, value and what is allowed; use ConfigError.of.",
    )


def _must_name(said: str, name: str, value: object) -> None:
    must(
        said.startswith(f"{name}={value!r}") and "must be" in said,
        f"{said!r} does not name field, value and what is allowed; use ConfigError.of.",
    )


def _answer(config: type[Any], name: str, value: object) -> str | None:
    """The text of the ConfigError that a value raises, or None if it is taken."""
    try:
        from_json(config, {name: value})
    except ConfigError as error:
        return str(error)
    except Exception as error:
        raise CheckFailed(
            f"{name}={value!r} raises {error!r}; check it in __post_init__ before it is used and "
            "raise ConfigError.of(field, value, allowed, why)."
        ) from error
    return None
