"""Parses the lines of a web server's log with regular expressions."""

import random
import re
from collections import Counter
from typing import Any

_LINE = re.compile(
    r"(?P<host>\d+\.\d+\.\d+\.\d+) - (?P<user>\S+) \[(?P<time>[^\]]+)\] "
    r'"(?P<verb>GET|POST) (?P<path>[^ "]+)[^"]*" (?P<status>\d{3}) (?P<bytes>\d+)'
)
_SESSION = re.compile(r"[?&]session=([0-9a-f]{8})")


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``lines`` lines."""
    rng = random.Random(request["seed"])
    lines = [
        f"{rng.randrange(256)}.{rng.randrange(256)}.0.{rng.randrange(256)} - - "
        f"[{rng.randrange(1, 29):02d}/Nov/2026:10:00:00 +0000] "
        f'"{rng.choice(["GET", "POST"])} /tide/{rng.randrange(20)}'
        f"?session={rng.randrange(1 << 32):08x} "
        f'HTTP/1.1" {rng.choice([200, 200, 304, 404, 500])} {rng.randrange(9999)}'
        for _ in range(request["lines"])
    ]
    found = [match for line in lines if (match := _LINE.match(line))]
    statuses = Counter(match["status"] for match in found)
    sessions = {hit[1] for line in lines if (hit := _SESSION.search(line))}
    volume = sum(int(match["bytes"]) for match in found)
    return {"statuses": sorted(statuses.items()), "sessions": len(sessions), "bytes": volume}
