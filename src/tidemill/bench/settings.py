"""Configurations from and to JSON and the words of forms: one dataclass, no second schema."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tidemill.bench.claim import Json
from tidemill.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a configuration, as a form or ``--help`` shows it.

    Args:
        name: Of the field.
        kind: Type of its values.
        default: As JSON.
        help: What it means.
        choices: All values it can have; empty if they cannot be listed.
        web_choices: The values that the site offers and takes, for a field that may also name a
            file of this machine (``web_choices`` in its metadata); empty if there is no such limit.
        optional: Whether it may stay unset.
    """

    name: str
    kind: type
    default: Json
    help: str
    choices: tuple[str, ...] = ()
    web_choices: tuple[str, ...] = ()
    optional: bool = False


def settings_of(config: type[Any]) -> tuple[Setting, ...]:
    """The fields of a configuration class, in order."""
    hints = typing.get_type_hints(config)
    found: list[Setting] = []
    for item in dataclasses.fields(config):
        kind, optional = _plain_type(hints[item.name])
        default = item.default if item.default is not dataclasses.MISSING else None
        choices = _choices(kind) or tuple(item.metadata.get("choices", ()))
        help_text = str(item.metadata.get("help", ""))
        web = tuple(item.metadata.get("web_choices", ()))
        plain = _plain_value(default)
        found.append(Setting(item.name, kind, plain, help_text, choices, web, optional))
    return tuple(found)


def to_json(config: object) -> dict[str, Json]:
    """A configuration as JSON, field by field."""
    fields = dataclasses.fields(typing.cast(Any, config))
    return {item.name: _plain_value(getattr(config, item.name)) for item in fields}


def from_json(config: type[Any], values: Mapping[str, object]) -> Any:
    """Build a configuration from JSON values or strings; absent fields keep their defaults.

    Raises:
        ConfigError: An unknown field, a value of the wrong type, or one out of range.
    """
    known = {setting.name: setting for setting in settings_of(config)}
    for name in values:
        if name not in known:
            raise ConfigError.of("setting", name, f"one of {', '.join(known)}")
    return config(**{name: _convert(known[name], value) for name, value in values.items()})


def defaults_of(config: type[Any]) -> dict[str, Json]:
    """All settings of a configuration class at their defaults, as JSON."""
    return to_json(config())


def is_under(values: Mapping[str, Json], settings: Mapping[str, Json]) -> bool:
    """Whether ``values``, which may lack some settings, contradict none of ``settings``."""
    return all(name in settings and settings[name] == value for name, value in values.items())


def _plain_type(hint: Any) -> tuple[type, bool]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        members = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        return members[0], True
    return (typing.get_origin(hint) or hint), False


def _choices(kind: type) -> tuple[str, ...]:
    if not issubclass(kind, Enum):
        return ()
    return tuple(str(member.value) for member in kind)


def _plain_value(value: object) -> Json:
    return value.value if isinstance(value, Enum) else typing.cast(Json, value)


def _convert(setting: Setting, value: object) -> object:
    if value is None or (setting.optional and value == ""):
        if setting.optional:
            return None
        raise ConfigError.of(setting.name, value, f"a {setting.kind.__name__}")
    try:
        converted = _CONVERTERS.get(setting.kind, setting.kind)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError.of(setting.name, value, _allowed(setting), setting.help) from error
    if setting.choices and str(_plain_value(converted)) not in setting.choices:
        raise ConfigError.of(setting.name, value, _allowed(setting), setting.help)
    return converted


def _allowed(setting: Setting) -> str:
    if setting.choices:
        return f"one of {', '.join(setting.choices)}"
    return {int: "a whole number", float: "a finite number", bool: "true or false"}.get(
        setting.kind, f"a {setting.kind.__name__}"
    )


def _boolean(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if (word := str(value).lower()) not in words:
        raise ValueError(value)
    return words[word]


def _integer(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    if isinstance(value, str) and not value.isdecimal():
        return int(value, 0)
    return int(value)


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number


_CONVERTERS: dict[type, Callable[[Any], object]] = {
    bool: _boolean,
    int: _integer,
    float: _finite,
    str: str,
}


def dumps(values: object) -> str:
    """Compact JSON that refuses NaN and infinity, keys in the order given."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
