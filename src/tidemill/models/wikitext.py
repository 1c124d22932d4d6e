"""Excerpts of WikiText-2: text to calibrate on, and other text to score."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tidemill.errors import ConfigError

SPLITS = ("train", "test")
_DATA = Path(__file__).with_name("data")


@cache
def excerpt(split: str) -> str:
    """400 kB (CC BY-SA 3.0): calibrate on "train", score on "test", never on the same.

    Raises:
        ConfigError: There is no such split.
    """
    import zstandard

    if split not in SPLITS:
        raise ConfigError.of("split", split, f"one of {', '.join(SPLITS)}")
    packed = _DATA.joinpath(f"wikitext2_{split}.txt.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompress(packed).decode("utf-8")
