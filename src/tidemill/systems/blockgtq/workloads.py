"""Real inputs: WikiText-2 excerpts, a captured layer, models of the catalogue; seeded haystacks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.models.hf_model import load_model, missing_torch
from tidemill.models.hf_rope import rotate
from tidemill.systems.blockgtq.statistics import LayerStatistics

F32 = NDArray[np.float32]
__all__ = ["Captured", "Haystack", "captured", "haystack", "load_model", "missing_torch", "text"]
SPLITS = ("train", "test")
_DATA = Path(__file__).with_name("data")
_KINDS = ("secret number", "postal code", "access code", "telephone number")
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
class Haystack:
    """A long text with four facts in it, and a question about each.

    Args:
        text: With the facts.
        tokens: Its length, about.
        alike: Whether the facts differ in a name only (many keys), or are of four kinds (one key).
        questions: Each up to its answer, and the answer: five digits that stand once in the text.
    """

    text: str
    tokens: int
    alike: bool
    questions: tuple[tuple[str, str], ...]


def haystack(tokenizer: Any, tokens: int, *, alike: bool, seed: int) -> Haystack:
    """A seeded haystack of WikiText-2 test text, which no calibration sees.

    Args:
        tokenizer: Counts the tokens.
        tokens: Length of the text before facts are put in.
        alike: See `Haystack`.
        seed: Of places, cities and numbers.
    """
    draw, source = random.Random(f"needles.{seed}"), text("test")
    start = source.index(" ", draw.randrange(len(source) - 8 * tokens))
    ids = tokenizer(source[start : start + 8 * tokens], add_special_tokens=False)["input_ids"]
    hay = str(tokenizer.decode(ids[:tokens]))
    cities = draw.sample(_CITIES, len(_KINDS))
    kinds = (_KINDS[0],) * len(_KINDS) if alike else _KINDS
    facts, questions = list[tuple[int, str]](), list[tuple[str, str]]()
    for kind, city in zip(kinds, cities, strict=True):
        number, fact = str(draw.randrange(10_000, 100_000)), f"{kind} of {city} is"
        at = hay.index(" ", draw.randrange(len(hay) // 20, 19 * len(hay) // 20))
        facts.append((at, f" The {fact} {number}."))
        asked = f"\nQuestion: what is the {kind} of {city}? Answer: The {fact}"
        questions.append((asked, number))
    for at, fact in sorted(facts, reverse=True):  # from the end, so that none lands in another
        hay = hay[:at] + fact + hay[at:]
    return Haystack(hay, tokens, alike, tuple(questions))
