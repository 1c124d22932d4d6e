"""Charts as SVG files of the site: drawn once per content, never on a page's critical path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from tidemill.bench import plots
from tidemill.bench.claim import Json
from tidemill.bench.settings import dumps
from tidemill.web.site import conditional

_KEPT = 128


def chart(request: Request, spec: Mapping[str, Json]) -> Response:
    """Answer with ``spec`` drawn; 304 if the reader has it."""
    return conditional(request, _drawn(dumps(spec)).encode(), "image/svg+xml")


@lru_cache(maxsize=_KEPT)
def _drawn(spec: str) -> str:
    return plots.svg(json.loads(spec))
