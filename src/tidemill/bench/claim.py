"""What a paper says, what is measured in its stead, and how the verdict follows.

Status and verdict are derived from a measurement, never typed: `Measurement.status` follows from
the stand-ins it ran on, `Claim.verdict` from its interval and the claim's target.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TypeAlias

from tidemill.errors import ClaimError

if TYPE_CHECKING:
    from tidemill.bench.trial import Trial

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Text:
    """One sentence of the interface in both languages of the house."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        """The sentence in ``language`` ("zh…" is Chinese, anything else English)."""
        return self.zh if language.startswith("zh") else self.en


class Status(StrEnum):
    """How a claim's figure came about."""

    MEASURED = "measured"
    """The real mechanism on real hardware."""
    EMULATED = "emulated"
    """The real mechanism on stand-in hardware."""
    MODELLED = "modelled"
    """A simulator with declared parameters."""
    NOT_RUN = "not run"
    """There is no figure; the reason says why."""


class Verdict(StrEnum):
    """Whether the claim's target is met, given the measured interval."""

    YES = "yes"
    NO = "no"
    UNCLEAR = "unclear"


class Direction(StrEnum):
    """Which side of the target is good."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True)
class StandIn:
    """A device that this machine lacks and what took its place in a measurement.

    Args:
        device: What the paper ran on ("CXL 2.0 multi-headed device").
        kind: `Status.EMULATED` or `Status.MODELLED`.
        description: What ran here instead, with its parameters.
    """

    device: str
    kind: Status
    description: str

    def __post_init__(self) -> None:
        if self.kind not in (Status.EMULATED, Status.MODELLED):
            raise ClaimError(
                f"stand-in for {self.device}: kind {self.kind!r} — emulated or modelled."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One figure for one claim, with the interval that its verdict follows from.

    Args:
        claim: The id of the claim it answers.
        value: In the claim's unit.
        low: Lower end of the 95 % interval; equal to ``value`` for exact counts.
        high: Upper end.
        repeats: How many independent repeats the interval rests on.
        subject: What was measured, with its own figure ("Super Bloom, 182 Mk-mers/s").
        baseline: What it was compared with in the same run ("" if the figure is no comparison).
        stand_ins: The devices replaced; empty when everything was real.
        detail: Series and context for plots and reports; JSON only.
    """

    claim: str
    value: float
    low: float
    high: float
    repeats: int
    subject: str = ""
    baseline: str = ""
    stand_ins: tuple[StandIn, ...] = ()
    detail: dict[str, Json] = field(default_factory=dict[str, Json])

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ClaimError(f"measurement of {self.claim}: {self.value} is not a finite number.")
        if not self.low <= self.value <= self.high:
            raise ClaimError(
                f"measurement of {self.claim}: value {self.value} outside its own interval "
                f"[{self.low}, {self.high}]."
            )
        if self.repeats < 1:
            raise ClaimError(f"measurement of {self.claim}: repeats={self.repeats} — at least 1.")

    @classmethod
    def exact(
        cls,
        claim: str,
        value: float,
        *,
        subject: str = "",
        baseline: str = "",
        detail: dict[str, Json] | None = None,
    ) -> Self:
        """A count that repeats would not change."""
        return cls(
            claim=claim,
            value=value,
            low=value,
            high=value,
            repeats=1,
            subject=subject,
            baseline=baseline,
            detail=detail or {},
        )

    @property
    def status(self) -> Status:
        """Modelled if any stand-in is modelled, else emulated if any, else measured."""
        kinds = {stand_in.kind for stand_in in self.stand_ins}
        if Status.MODELLED in kinds:
            return Status.MODELLED
        return Status.EMULATED if kinds else Status.MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A sentence of a paper and what is measured here in its stead.

    Args:
        id: Short, lower case, unique within the system ("insert-out-of-cache").
        quote: A literal substring of the paper's abstract.
        statement: What is measured here, with unit and conditions, in both languages.
        unit: Of value and target ("x", "Mk-mers/s", "%").
        direction: Which side of the target is good.
        target: The bound to meet here, on this class of machine.
        paper_value: The paper's own figure as it prints it, in both languages if it has words ("up
            to 9.1x"), a bare figure ("3.24x") as it is; "" if the paper prints none.
        trial: What measures it; several claims may share one.
    """

    id: str
    quote: str
    statement: Text
    unit: str
    direction: Direction
    target: float
    trial: Trial
    paper_value: Text | str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.id):
            raise ClaimError(
                f"claim id {self.id!r} — lower-case letters, digits, '-' and '.' only."
            )

    def paper_value_in(self, language: str) -> str:
        """The paper's own figure in words of ``language``; "" if it prints none."""
        said = self.paper_value
        return said if isinstance(said, str) else said.in_language(language)

    @property
    def paper_value_json(self) -> Json:
        """The paper's own figure in both languages, for machines; None if it prints none."""
        both: dict[str, Json] = {name: self.paper_value_in(name) for name in ("en", "zh")}
        return both if both["en"] else None

    def verdict(self, measurement: Measurement) -> Verdict:
        """Yes if the whole interval is on the good side, no if none of it is, else unclear."""
        return verdict_of(measurement, self.direction, self.target)


def verdict_of(measurement: Measurement, direction: Direction, target: float) -> Verdict:
    """Yes if the whole interval is on the good side, no if none of it is, else unclear."""
    low, high = measurement.low, measurement.high
    if direction is Direction.AT_MOST:
        low, high, target = -high, -low, -target
    if low >= target:
        return Verdict.YES
    return Verdict.NO if high < target else Verdict.UNCLEAR
