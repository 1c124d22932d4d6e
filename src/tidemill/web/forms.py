"""The configuration form of a system, made from its dataclass and judged by it alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidemill.bench import System
from tidemill.bench.claim import Json
from tidemill.bench.settings import Setting, from_json, settings_of, to_json
from tidemill.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One setting as the form shows it.

    Args:
        setting: Name, type, default, help and choices.
        value: What the field holds, as text; the default, or what was sent.
        error: Why that was refused; "" if it was not.
        help_zh: The help in Chinese, if the dataclass gives ``help_zh`` in its metadata.
    """

    setting: Setting
    value: str
    error: str = ""
    help_zh: str = ""

    @property
    def control(self) -> str:
        """Which kind of input fits: "choice", "whole", "real" or "text"."""
        if self.setting.choices or self.setting.web_choices or self.setting.kind is bool:
            return "choice"
        return {int: "whole", float: "real"}.get(self.setting.kind, "text")

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be chosen; an empty one first if the setting may stay unset."""
        known = self.setting.web_choices or self.setting.choices or ("true", "false")
        return ("", *known) if self.setting.optional else known


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form as sent or as first shown.

    Args:
        fields: In the order of the dataclass.
        error: What is wrong with the whole rather than with one field; "" if nothing.
        config: The configuration as JSON; None if something was refused.
    """

    fields: tuple[Field, ...]
    error: str = ""
    config: dict[str, Json] | None = None

    @property
    def changed(self) -> bool:
        """Whether any field differs from its default."""
        return any(field.value != _text(field.setting.default) for field in self.fields)


def blank(system: System, values: Mapping[str, Json] | None = None) -> Form:
    """The form with the defaults, overridden by ``values`` (as of an earlier run)."""
    values = values or {}
    fields = tuple(
        Field(
            setting=setting,
            value=_text(_offered(setting, values.get(setting.name, setting.default))),
            help_zh=_help_zh(system, setting.name),
        )
        for setting in settings_of(system.config)
    )
    return Form(fields=fields)


def judge(system: System, sent: Mapping[str, str]) -> Form:
    """The form with what was sent, each refusal beside the field it is about.

    A refused field is set back to its default and the rest tried again, so that all mistakes
    show at once.
    """
    values = {s.name: sent[s.name].strip() for s in settings_of(system.config) if s.name in sent}
    accepted = dict(values)
    errors: dict[str, str] = {}
    error = ""
    while refusal := _refusal(system, accepted):
        name = refusal.partition("=")[0].strip()
        if name not in accepted:
            error = refusal
            break
        errors[name] = refusal
        del accepted[name]
    fields = tuple(
        dataclasses.replace(
            field,
            value=values.get(field.setting.name, field.value),
            error=errors.get(field.setting.name, ""),
        )
        for field in blank(system).fields
    )
    if error or errors:
        return Form(fields=fields, error="" if errors else error)
    return Form(fields=fields, config=to_json(from_json(system.config, values)))


def as_settings(system: System, config: Mapping[str, Json]) -> list[str]:
    """``key=value`` for every setting that differs from its default, for ``--set``."""
    defaults = {setting.name: setting.default for setting in settings_of(system.config)}
    return [
        f"{name}={_text(value)}"
        for name, value in config.items()
        if name in defaults and value != defaults[name]
    ]


def _offered(setting: Setting, value: Json) -> Json:
    """``value``, or the default where the site does not take it (a file named on a terminal)."""
    is_offered = not setting.web_choices or value in setting.web_choices
    return value if is_offered else setting.default


def _refusal(system: System, values: Mapping[str, str]) -> str:
    for setting in settings_of(system.config):
        if not setting.web_choices or setting.name not in values:
            continue
        if (sent := values[setting.name]) not in setting.web_choices:
            allowed = f"one of {', '.join(setting.web_choices)} from the web"
            why = f"a file can be named on the command line: --set {setting.name}=FILE"
            return str(ConfigError.of(setting.name, sent, allowed, why))
    try:
        from_json(system.config, values)
    except ConfigError as error:
        return str(error)
    return ""


def _help_zh(system: System, name: str) -> str:
    config: type[Any] = system.config
    found = {item.name: item.metadata.get("help_zh", "") for item in dataclasses.fields(config)}
    return str(found[name])


def _text(value: Json) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
