"""Fills an HTML template, escapes what is put in, and counts its tags."""

import html
import random
import re
import string
from typing import Any

_ROW = string.Template("<tr class='$kind'><td>$number</td><td>$name</td><td>$note</td></tr>")
_PAGE = string.Template(
    "<!doctype html><title>$title</title><h1>$title</h1><table>$rows</table><footer>$count</footer>"
)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """A table of ``rows`` rows."""
    rng = random.Random(request["seed"])
    rows = [
        _ROW.substitute(
            kind="odd" if number % 2 else "even",
            number=number,
            name=html.escape("".join(rng.choices("abc<>&\"' xyz", k=24))),
            note=html.escape(f"<b>{rng.random():.6f}</b>"),
        )
        for number in range(request["rows"])
    ]
    page = _PAGE.substitute(title="Tides & mills", rows="\n".join(rows), count=len(rows))
    tags = re.findall(r"<(\w+)", page)
    return {"bytes": len(page), "tags": len(tags), "cells": tags.count("td")}
