"""Pictures of charts, which rendering writes beside the pages that show them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tidemill.bench.plots import Spec, svg

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WRITTEN: dict[Path, str] = {}
"""Drawings that rendering made, by path."""


def drawn(drawings: Mapping[str, Spec], untitled: str, folder: str) -> str:
    """Links to pictures of charts, each under its key, as seen from a page."""
    IMAGES.mkdir(exist_ok=True)
    lines: list[str] = []
    for key, spec in drawings.items():
        WRITTEN[IMAGES / f"{key}.svg"] = svg(spec, background="white")
        title = spec.get("title", untitled)
        text = title["text"] if isinstance(title, dict) else title
        lines.append(f"![{text}]({folder}/{key}.svg)")
    return "\n\n".join(lines)
