"""Real inputs: WikiText-2 excerpts, models of the catalogue, matrices of real layers."""

# numpy leaves what a generator chooses from partly untyped
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import ConfigError
from tidemill.models.ggml_types import GGMLType
from tidemill.models.hf_model import load_weights as torch_model
from tidemill.models.model_file import open_model
from tidemill.models.quants import dequantize
from tidemill.models.wikitext import excerpt as text
from tidemill.systems.grinqh.codebook import LEVELS, gaussian
from tidemill.systems.grinqh.graded_matrix import GradedMatrix, plane_bytes

F32 = NDArray[np.float32]
__all__ = ["Projection", "projection", "synthetic", "text", "torch_model", "windows"]


@dataclass(frozen=True, slots=True)
class Projection:
    """A real matrix (m, n) and inputs (tokens, n) that a real model gave it, by split."""

    weight: F32
    train: F32
    test: F32


@cache
def projection() -> Projection:
    """The first 1,024 outputs of ``up`` in layer 12 of Qwen2.5-Coder-0.5B, inputs of 96 tokens."""
    path = Path(__file__).parent / "data" / "qwen_up12.npz"
    with np.load(path) as file:
        weight = dequantize(file["weight"].reshape(-1), GGMLType(int(file["type"])))
        inputs = [file[split].astype(np.float32) for split in ("train", "test")]
    return Projection(weight.reshape(1024, -1), *inputs)


def windows(name: str, split: str, count: int, length: int) -> list[list[int]]:
    """The first ``count`` windows of a split in a model's tokens, each begun as the model wants it.

    Where the model has a token for the beginning of a text, it takes the place of a window's first.

    Raises:
        ConfigError: The text has fewer tokens.
    """
    with open_model(name) as file:
        tokenizer = file.tokenizer
        begin = tokenizer.encode("")[:1]
        ids = tokenizer.encode(text(split), add_special=False)
    if len(ids) < count * length:
        raise ConfigError.of("windows", count, f"at most {len(ids) // length} of {length} tokens")
    cut = [ids[i * length : (i + 1) * length] for i in range(count)]
    return [[*begin, *each[len(begin) :]] for each in cut]


def synthetic(
    rows: int, cols: int, *, top: int = LEVELS[-1], outliers: float = 0.004, seed: int = 0
) -> GradedMatrix:
    """A matrix of Gaussian weights, made of random codes in O(bytes): for timing alone.

    ``outliers`` is the share of weights beyond three deviations, as real layers have it; planes
    above ``top`` are left out.
    """
    draw = np.random.default_rng(seed)
    count = draw.binomial(rows, outliers, cols)
    at = [np.sort(draw.choice(rows, each, replace=False)) for each in count]
    scale = np.ones(max(rows, cols), np.float16)
    signs = draw.choice(np.array([-3.5, 3.5], np.float16), int(count.sum()))
    return GradedMatrix(
        rows=rows,
        cols=cols,
        row_scale=scale[:rows],
        col_scale=scale[:cols],
        col_norm=scale[:cols],
        planes={
            level: draw.integers(0, 256, (cols, plane_bytes(level, rows)), np.uint8)
            for level in LEVELS
            if level <= top
        },
        outlier_start=np.concatenate([[0], np.cumsum(count)]).astype(np.uint32),
        outlier_rows=np.concatenate(at).astype(np.uint16 if rows <= 65536 else np.uint32),
        outlier_values=signs,
        codebook=gaussian(),
    )
