"""Arrivals of requests: recorded ones from files, or drawn at random.

Formats, told apart by content: the Azure LLM inference trace (CSV with ``TIMESTAMP``,
``ContextTokens``, ``GeneratedTokens``), BurstGPT (CSV with ``Timestamp``, ``Request tokens``,
``Response tokens``) and JSON lines with ``arrival_s``, ``prompt_tokens``, ``output_tokens``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from tidemill.errors import ConfigError, CorruptFile
from tidemill.models.sampling import SamplingParams
from tidemill.serve.types import Request

_COLUMNS = (
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("Timestamp", "Request tokens", "Response tokens"),
)
MOST_TOKENS = 1 << 24


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    arrival_s: float
    """Since the first one."""
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Arrival]:
    """All requests of a file, by arrival.

    Raises:
        CorruptFile: it is none of the formats, or a line of it says what cannot be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            found = list(_json_lines(file) if first.lstrip().startswith("{") else _table(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorruptFile(f"{path} — cannot be read as a trace: {error}.") from error
    except ValueError as error:
        raise CorruptFile(f"{path}, {error}.") from error
    if not found:
        raise CorruptFile(f"{path} — holds no request.")
    found.sort(key=lambda item: item.arrival_s)
    begin = found[0].arrival_s
    return [replace(item, arrival_s=item.arrival_s - begin) for item in found]


def _table(lines: Iterator[str]) -> Iterator[Arrival]:
    rows = csv.DictReader(lines)
    names = next((c for c in _COLUMNS if set(c) <= set(rows.fieldnames or ())), None)
    if names is None:
        known = "; ".join(", ".join(columns) for columns in _COLUMNS)
        raise ValueError(f"line 1 — has none of the known headings ({known})")
    for row in rows:
        yield _arrival([row[name] for name in names], rows.line_num)


def _json_lines(lines: Iterator[str]) -> Iterator[Arrival]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row: object = json.loads(line)
        if not isinstance(row, Mapping):
            raise ValueError(f"line {number} — is no JSON object")
        names = ("arrival_s", "prompt_tokens", "output_tokens")
        yield _arrival([row.get(name) for name in names], number)  # pyright: ignore


def _arrival(fields: Sequence[object], line: int) -> Arrival:
    try:
        moment, prompt, output = fields
        arrival = Arrival(_seconds(moment), int(str(prompt)), int(str(output)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"line {line} — {error}") from error
    counts = (arrival.prompt_tokens, arrival.output_tokens)
    if not (
        math.isfinite(arrival.arrival_s) and all(0 <= count <= MOST_TOKENS for count in counts)
    ):
        raise ValueError(f"line {line} — {arrival} cannot be")
    return Arrival(arrival.arrival_s, max(arrival.prompt_tokens, 1), max(arrival.output_tokens, 1))


def _seconds(moment: object) -> float:
    text = str(moment)
    try:
        return float(text)
    except ValueError:
        # Python 3.11 takes six digits of a second; Azure's trace has seven.
        head, dot, tail = text.partition(".")
        return datetime.fromisoformat(head + (dot + tail[:6] if dot else "")).timestamp()


@dataclass(frozen=True, slots=True)
class Bursts:
    """Random arrivals: Gamma gaps, which with ``burstiness`` 1 are a Poisson process."""

    rate: float
    """Requests per second."""
    count: int
    burstiness: float = 1.0
    """Shape of the Gamma distribution: smaller is burstier."""
    prompt_tokens: int = 128
    output_tokens: int = 64
    """Mean lengths; both are drawn from exponential distributions, and are at least 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "count", "burstiness", "prompt_tokens", "output_tokens"):
            if not 0 < getattr(self, name) < 1e9:
                raise ConfigError.of(name, getattr(self, name), "more than 0, below 10⁹")

    def arrivals(self) -> list[Arrival]:
        """The requests, the same for the same seed."""
        draw = np.random.default_rng(self.seed)
        scale = 1 / (self.rate * self.burstiness)
        moments = np.cumsum(draw.gamma(self.burstiness, scale, self.count))
        prompts = 1 + draw.exponential(self.prompt_tokens, self.count).astype(int)
        outputs = 1 + draw.exponential(self.output_tokens, self.count).astype(int)
        return [
            Arrival(float(moment), int(prompt), int(output))
            for moment, prompt, output in zip(moments, prompts, outputs, strict=True)
        ]


def fitted(
    arrivals: Sequence[Arrival], *, limit: int | None, speed: float, context: int
) -> list[Arrival]:
    """The first ``limit`` of them, ``speed`` times as fast, cut so that each fits ``context``."""
    if not 0 < speed < math.inf:
        raise ConfigError.of("speed", speed, "more than 0")
    if context < 2:
        raise ConfigError.of("context", context, "at least 2")
    cut: list[Arrival] = []
    for item in arrivals[:limit]:
        output = min(item.output_tokens, context // 2)
        prompt = min(item.prompt_tokens, context - output)
        cut.append(Arrival(item.arrival_s / speed, prompt, output))
    return cut


def requests_of(
    arrivals: Sequence[Arrival], *, vocab_size: int | None = None
) -> Iterator[tuple[float, Request]]:
    """Requests for a scheduler: prompts of the right lengths, and texts that end when they should.

    Ids are random below ``vocab_size``; for simulations, which look at none, they are all 0.
    """
    for index, item in enumerate(arrivals):
        if vocab_size is None:
            ids = (0,) * item.prompt_tokens
        else:
            drawn = np.random.default_rng(index).integers(0, vocab_size, item.prompt_tokens)
            ids = tuple(drawn.tolist())
        params = SamplingParams(max_tokens=item.output_tokens, temperature=0, ignore_eos=True)
        yield item.arrival_s, Request(str(index), ids, params)
