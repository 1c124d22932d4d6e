"""Real inputs: WikiText-2 excerpts, a captured layer, models of the catalogue; seeded needles."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.models.hf_model import load_model, missing_torch
from tidemill.models.hf_rope import rotate
from tidemill.systems.blockgtq.statistics import LayerStatistics

F32 = NDArray[np.float32]
__all__ = ["Captured", "Needle", "captured", "load_model", "missing_torch", "needles", "text"]
SPLITS = ("train", "test")
_DATA = Path(__file__).with_name("data")
_CITIES = (
    *("Lisbon", "Oslo", "Quito", "Dakar", "Turin", "Perth", "Kyoto", "Lyon", "Cairo", "Minsk"),
    *("Sofia", "Hanoi", "Tunis", "Havana", "Riga", "Bergen", "Porto", "Delft", "Ghent", "Basel"),
)


@cache
def text(split: str) -> str:
    """400 kB of WikiText-2: calibrate on "train", score on "test", never on the same.

    Raises:
        ConfigError: There is no such split.
    """
    import zstandard

    if split not in SPLITS:
        raise ConfigError.of("split", split, f"one of {', '.join(SPLITS)}")
    packed = _DATA.joinpath(f"wikitext2_{split}.txt.zst").read_bytes()
    return zstandard.ZstdDecompressor().decompress(packed).decode("utf-8")


@dataclass(frozen=True, slots=True)
class Captured:
    """What one layer attended with over one text: queries (Q, T, d), keys and values (H, T, d).

    Queries and keys are from before RoPE, whose ``frequencies`` are in radians per position.
    """

    queries: F32
    keys: F32
    values: F32
    frequencies: NDArray[np.float64]

    def statistics(self) -> LayerStatistics:
        """What calibration keeps of it."""
        return LayerStatistics.of(self.queries, self.keys, self.values, self.frequencies)

    def repeated(self, tokens: int) -> tuple[F32, F32]:
        """Keys at positions 0… and values of ``tokens`` tokens, the capture over and over."""
        order = np.arange(tokens) % self.keys.shape[1]
        keys = rotate(self.keys[:, order], self.frequencies, np.arange(tokens))
        return keys, np.ascontiguousarray(self.values[:, order])


def captured(split: str) -> Captured:
    """Layer 12 of Qwen2.5-Coder-0.5B over 384 tokens: one KV head, three of its query heads."""
    with np.load(_DATA / "qwen_layer12.npz") as file:
        arrays = [
            file[f"{split}_{name}"].astype(np.float32) for name in ("queries", "keys", "values")
        ]
        return Captured(arrays[0], arrays[1], arrays[2], file["frequencies"])


@dataclass(frozen=True, slots=True)
class Needle:
    """A question whose answer stands once in a long text.

    Args:
        prompt: Text with the facts, then the question up to its answer.
        answer: Five digits.
        keys: Facts of the same form in the text: 1 is a single needle, more are distractors.
    """

    prompt: str
    answer: str
    keys: int


def needles(count: int, *, letters: int, seed: int) -> list[Needle]:
    """Seeded needles in WikiText-2 test text: in turns one fact, and four of which one is asked.

    Args:
        count: How many.
        letters: Length of the text around them.
        seed: Of places, cities and numbers.
    """
    source, made = text("test"), list[Needle]()
    for i in range(count):
        draw = random.Random(f"{seed}.{i}")
        keys = 1 if i % 2 == 0 else 4
        start = draw.randrange(len(source) - letters)
        hay = source[source.index(" ", start) : start + letters]
        cities = draw.sample(_CITIES, keys)
        facts = {city: str(draw.randrange(10_000, 100_000)) for city in cities}
        for city, number in facts.items():
            at = hay.index(" ", draw.randrange(len(hay) // 10, 9 * len(hay) // 10))
            hay = f"{hay[:at]} The secret number of {city} is {number}.{hay[at:]}"
        asked = cities[0]
        prompt = f"{hay}\nQuestion: what is the secret number of {asked}? "
        made.append(Needle(f"{prompt}Answer: The secret number of {asked} is", facts[asked], keys))
    return made
