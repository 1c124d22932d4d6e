"""Compresses and restores text with gzip and zlib."""

import gzip
import random
import zlib
from typing import Any


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """About ``words`` words."""
    rng = random.Random(request["seed"])
    stock = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(500)]
    text = " ".join(rng.choices(stock, k=request["words"])).encode()
    packed = gzip.compress(text, mtime=0)
    deflated = zlib.compress(text, 9)
    is_same = gzip.decompress(packed) == zlib.decompress(deflated) == text
    return {
        "bytes": len(text),
        "gzip": len(packed),
        "zlib": len(deflated),
        "crc": zlib.crc32(text),
        "same": is_same,
    }
