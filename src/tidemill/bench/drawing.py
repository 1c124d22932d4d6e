"""Vega-Lite specifications drawn as SVG or PNG here, in one look for site, documents and README.

The colours read on white and on near-black paper, so that one picture with a transparent
background serves both. Drawing needs no network and refuses specifications that ask for it.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping
from typing import Any, cast

from tidemill.bench.settings import dumps
from tidemill.errors import InputError

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_VERSION = "5.20"  # fixed, so that an update of the library does not redraw every picture

INK = "#797979"
"""Text: the one grey whose contrast is above 4 on white and on near-black alike."""

GOOD, BAD, NEUTRAL = "#119c86", "#c8581c", "#797979"
ACCENT = "#0b73c9"
PALETTE = (ACCENT, BAD, GOOD, "#b85aa6")
"""Told apart also with protanopia, deuteranopia and tritanopia; more series take dashes as well."""

QUIET = 0.18
"""Opacity of what stands behind the figures: grid lines and bands."""

FONT = (
    "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', "
    "'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"
)
_CHINESE_FONT = f"'Noto Sans CJK SC', 'Source Han Sans SC', {FONT}"

THEME: dict[str, Any] = {
    "font": FONT,
    "padding": 6,
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "labelColor": INK,
        "labelFontSize": 11,
        "labelPadding": 6,
        "titleColor": INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "gridColor": INK,
        "gridOpacity": QUIET,
    },
    "axisX": {"titleAnchor": "end"},
    "axisY": {
        "titleAngle": 0,
        "titleAnchor": "end",
        "titleAlign": "left",
        "titleBaseline": "bottom",
        "titleX": 0,
        "titleY": -8,
    },
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": 13,
        "fontWeight": 600,
        "subtitleColor": INK,
        "subtitleFontSize": 11,
        "subtitlePadding": 4,
        "lineHeight": 17,
        "subtitleLineHeight": 15,
        "offset": 10,
    },
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "labelColor": INK,
        "labelFontSize": 11,
        "titleColor": INK,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleOrient": "left",
        "symbolType": "stroke",
        "symbolStrokeWidth": 2.5,
        "symbolSize": 350,
        "symbolOpacity": 1,
        "columnPadding": 18,
        "offset": 24,
    },
    "range": {"category": list(PALETTE)},
    "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
    "text": {"color": INK, "fontSize": 11},
}


def svg(spec: Mapping[str, Any], *, background: str = "transparent") -> str:
    """The chart as SVG text: the same bytes for the same specification on the same machine.

    Its ids begin with a hash of the specification, so several can stand in one page. Text and
    lines are ``currentColor``, a neutral grey by default: a page that inlines the picture may set
    the CSS ``color`` of its ``svg``. The specification's ``description`` becomes its accessible
    name. Costs 0.4 s the first time in a process, later 10-30 ms for each part; thread-safe.

    Raises:
        InputError: Vega-Lite cannot draw it, or it asks for data or images from elsewhere.
    """
    import vl_convert

    drawn = _with_own_ids(_drawn(vl_convert.vegalite_to_svg, spec, background), spec)
    name = html.escape(str(spec.get("description", "")), quote=True)
    root = f'<svg role="img" aria-label="{name}" color="{INK}" '
    return drawn.replace(f'"{INK}"', '"currentColor"').replace("<svg ", root, 1)


def png(spec: Mapping[str, Any], *, background: str = "white", scale: float = 2.0) -> bytes:
    """The chart as PNG, ``scale`` pixels for each unit of the specification.

    Raises:
        InputError: As `svg`.
    """
    import vl_convert

    if re.search(r"[\u4e00-\u9fff]", dumps(spec)):
        # the rasteriser does not walk down a list of fonts for the characters the first one lacks
        spec = {**spec, "config": {**spec.get("config", {}), "font": _CHINESE_FONT}}
    return _drawn(vl_convert.vegalite_to_png, spec, background, scale=scale)


def _drawn(convert: Any, spec: Mapping[str, Any], background: str, **options: float) -> Any:
    _refuse_links(spec)
    themed = {**spec, "config": _merged(THEME, spec.get("config", {})), "background": background}
    try:
        return convert(themed, vl_version=_VERSION, allowed_base_urls=[], **options)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"chart {spec.get('description', '')!r} — Vega-Lite {_VERSION} cannot draw it: "
            f"{str(error).strip().splitlines()[-1]}; give a valid specification."
        ) from error


def _merged(theme: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(theme)
    for name, value in own.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            below = cast(Mapping[str, Any], below)
            merged[name] = _merged(below, cast(Mapping[str, Any], value))
        else:
            merged[name] = value
    return merged


def _refuse_links(part: object) -> None:
    """The converter would read files of this machine for a ``file:`` link."""
    if isinstance(part, Mapping):
        for name, value in cast(Mapping[str, object], part).items():
            if name == "url":
                raise InputError(
                    f"chart — asks for {value!r}; only data inside the specification is drawn: "
                    'put it under {"data": {"values": …}}.'
                )
            if name not in ("values", "datasets"):
                _refuse_links(value)
    elif isinstance(part, list | tuple):
        for value in cast(list[object], part):
            _refuse_links(value)


def _with_own_ids(drawn: str, spec: Mapping[str, Any]) -> str:
    """Vega counts ids up through the life of a process; count from 0 in each picture instead."""
    prefix = f"c{hashlib.sha256(dumps(spec).encode()).hexdigest()[:8]}-"
    numbers: dict[str, str] = {}
    for name in re.findall(r'\bid="([^"]+)"', drawn):
        numbers.setdefault(name, f"{prefix}{len(numbers)}")

    def renamed(match: re.Match[str]) -> str:
        return match[1] + numbers.get(match[2], match[2]) + match[3]

    return re.sub(r'(\bid="|url\(#|href="#)([^")]+)("|\))', renamed, drawn)
