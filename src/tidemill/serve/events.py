"""What happened when: one line per token, and the figures that are made of them.

Figures are defined as in vLLM's benchmark: TTFT from arrival to the first token, ITL between one
token and the next, TPOT the mean of a request's ITLs, E2EL from arrival to the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import CorruptFile
from tidemill.models.generation import FinishReason

PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class RequestLog:
    """One request: when it came, when each token came, and how it ended."""

    id: str
    arrival_s: float
    prompt_tokens: int
    token_s: list[float] = field(default_factory=list[float])
    cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None
    end_s: float | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds until the first token."""
        return self.token_s[0] - self.arrival_s if self.token_s else None

    @property
    def itl_s(self) -> list[float]:
        """Seconds from one token to the next."""
        return [
            after - before for before, after in zip(self.token_s, self.token_s[1:], strict=False)
        ]

    @property
    def served(self) -> bool:
        """Whether it ended as it should."""
        return self.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a run, in seconds, from the raw events."""

    requests: int
    served: int
    refused: int
    failed: int
    output_tokens: int
    duration_s: float
    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: dict[str, float]
    itl_s: dict[str, float]
    tpot_s: dict[str, float]
    e2el_s: dict[str, float]


class EventLog:
    """All requests of a run, by arrival."""

    def __init__(self, requests: Iterable[RequestLog] = ()) -> None:
        self._requests = {item.id: item for item in requests}

    def __iter__(self) -> Iterator[RequestLog]:
        return iter(self._requests.values())

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, request_id: str) -> RequestLog:
        return self._requests[request_id]

    def arrived(self, request_id: str, now: float, prompt_tokens: int) -> RequestLog:
        """A request came."""
        log = self._requests[request_id] = RequestLog(request_id, now, prompt_tokens)
        return log

    def summary(self) -> Summary:
        """The figures; requests that did not end well count in none of the times."""
        good = [item for item in self if item.served]
        tokens = sum(len(item.token_s) for item in good)
        start = min((item.arrival_s for item in self), default=0.0)
        duration = max((item.end_s or start for item in self), default=start) - start
        per_s = 1 / duration if duration > 0 else 0.0
        refused = sum(item.finish_reason == "refused" for item in self)
        return Summary(
            requests=len(self),
            served=len(good),
            refused=refused,
            failed=len(self) - len(good) - refused,
            output_tokens=tokens,
            duration_s=duration,
            output_tokens_per_s=tokens * per_s,
            requests_per_s=len(good) * per_s,
            ttft_s=_figures(item.token_s[0] - item.arrival_s for item in good if item.token_s),
            itl_s=_figures(gap for item in good for gap in item.itl_s),
            tpot_s=_figures(float(np.mean(item.itl_s)) for item in good if len(item.token_s) > 1),
            e2el_s=_figures((item.end_s or 0.0) - item.arrival_s for item in good),
        )

    def goodput(self, ttft_s: float, tpot_s: float) -> float:
        """Share of all requests that ended well within both limits."""
        if not self._requests:
            return 0.0
        good = sum(_is_good(item, ttft_s, tpot_s) for item in self)
        return good / len(self)

    def save(self, path: Path) -> None:
        """Write one JSON line per request."""
        with path.open("w", encoding="utf-8") as file:
            for item in self:
                file.write(json.dumps(asdict(item)) + "\n")

    @classmethod
    def load(cls, path: Path) -> EventLog:
        """Read what ``save`` wrote.

        Raises:
            CorruptFile: a line is something else.
        """
        requests: list[RequestLog] = []
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    requests.append(RequestLog(**json.loads(line)))
                except (ValueError, TypeError) as error:
                    raise CorruptFile(
                        f"{path}, line {number} — is no request of an event log ({error})."
                    ) from error
        return cls(requests)


def _is_good(item: RequestLog, ttft_s: float, tpot_s: float) -> bool:
    if not item.served or item.ttft_s is None:
        return False
    return item.ttft_s <= ttft_s and (len(item.token_s) < 2 or float(np.mean(item.itl_s)) <= tpot_s)


def _figures(values: Iterable[float]) -> dict[str, float]:
    raw: NDArray[np.float64] = np.fromiter(values, np.float64)
    if not len(raw):
        return {}
    cuts = np.percentile(raw, PERCENTILES)
    named = {f"p{cut}": float(value) for cut, value in zip(PERCENTILES, cuts, strict=True)}
    return {"mean": float(raw.mean()), **named}
