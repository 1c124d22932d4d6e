"""A trial: the code that measures one or more claims, and what it may use while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tidemill.bench.claim import Json, Measurement, Text
from tidemill.errors import ConfigError


class Budget(StrEnum):
    """How much time a trial may spend: a first look, or the figures that go into the docs."""

    QUICK = "quick"
    FULL = "full"


class Progress:
    """What a trial or a run reports while it works; the base class says nothing to anybody."""

    def stage(self, name: str) -> None:
        """A new phase has begun."""

    def advance(self, done: float, total: float, unit: str = "") -> None:
        """``done`` of ``total`` units of the current stage are finished."""

    def metric(self, name: str, value: float, unit: str = "") -> None:
        """One live reading, drawn as a point of a curve."""

    def log(self, text: str) -> None:
        """One line for the reader."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a trial or a run is given.

    Args:
        config: The system's configuration, defaults overridden by the user.
        budget: How much time to spend.
        progress: Where to report.
        threads: How many threads it may use at once.
    """

    config: Any
    budget: Budget
    progress: Progress
    threads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Measures claims in a child process of its own.

    Args:
        name: Unique within the system.
        measure: Yields a measurement for each claim as soon as it has one.
        summary: What it does, in both languages.
        quick_s: Wall-clock limit for the quick budget; None if there is no quick form.
        full_s: Wall-clock limit for the full budget.
        memory_mib: Limit on resident memory of the trial and its children together.
    """

    name: str
    measure: Callable[[Context], Iterable[Measurement]]
    summary: Text
    quick_s: float | None = 60.0
    full_s: float = 600.0
    memory_mib: int = 4096

    def limit_s(self, budget: Budget) -> float | None:
        """The wall-clock limit for ``budget``, or None when the trial has no such form."""
        return self.quick_s if budget is Budget.QUICK else self.full_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A small table of a report."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ConfigError(
                    f"table {self.title!r}: a row has {len(row)} cells — must be "
                    f"{len(self.columns)}."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a system's run tells.

    Args:
        headline: The result in one sentence, both languages.
        facts: What must be equal for equal configuration and seed (counts, rates, digests).
        timings: What may differ between runs, units in the names.
        tables: Further tables.
        charts: Vega-Lite specifications by name.
    """

    headline: Text
    facts: dict[str, Json]
    timings: dict[str, float]
    tables: tuple[Table, ...] = ()
    charts: dict[str, Json] | None = None
