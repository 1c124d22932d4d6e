"""Judges reviews with a logistic regression over hashed words; trained before the ready point."""

import random
import zlib
from typing import Any

import numpy as np

_WIDTH = 1 << 14
_GOOD = ["calm", "fresh", "steady", "bright", "kind", "deep", "clear"]
_BAD = ["stale", "rough", "late", "dull", "shallow", "noisy", "broken"]
_PLAIN = ["tide", "mill", "river", "wheel", "stone", "gate", "water", "boat", "and", "the", "was"]


def _review(rng: random.Random, is_good: bool) -> list[str]:
    mood = _GOOD if is_good else _BAD
    return [rng.choice(mood if rng.random() < 0.3 else _PLAIN) for _ in range(25)]


def _features(words: list[str]) -> list[int]:
    return [zlib.crc32(word.encode()) % _WIDTH for word in words]


def _train() -> np.ndarray:
    rng = random.Random(1)
    weights = np.zeros(_WIDTH)
    for step in range(2000):
        is_good = step % 2 == 0
        at = _features(_review(rng, is_good))
        guess = 1 / (1 + np.exp(-weights[at].sum()))
        np.add.at(weights, at, 0.1 * (is_good - guess))
    return weights


WEIGHTS = _train()


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """``reviews`` reviews."""
    rng = random.Random(request["seed"])
    right = 0
    for number in range(request["reviews"]):
        is_good = number % 2 == 0
        score = WEIGHTS[_features(_review(rng, is_good))].sum()
        right += bool(score > 0) == is_good
    return {"right": right, "of": request["reviews"]}
