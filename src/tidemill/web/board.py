"""Where every claim stands on this machine: the rows of the claims tables and the badges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidemill.bench import Claim, Status, System, Verdict
from tidemill.bench.claim import Json
from tidemill.bench.environment import Environment
from tidemill.bench.records import Record, TrialOutcome
from tidemill.bench.settings import defaults_of
from tidemill.bench.sources import is_current
from tidemill.bench.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One claim with its newest figure under the system's default settings, if there is one.

    Args:
        system: The system that the claim is of.
        claim: The claim.
        record: Its newest measurement on this machine, else on any other; None if there is none.
        is_here: Whether ``record`` is of this machine.
        is_of_this_code: Whether the files that ``record`` rests on are those of now.
        failure: How its trial last ended on this machine, if badly; None if it ended well.
    """

    system: System
    claim: Claim
    record: Record | None
    is_here: bool
    is_of_this_code: bool = False
    failure: TrialOutcome | None = None

    @property
    def status(self) -> Status:
        """Follows from the measurement; `Status.NOT_RUN` without one."""
        return self.record.measurement.status if self.record else Status.NOT_RUN

    @property
    def verdict(self) -> Verdict | None:
        """Follows from the interval; None without a measurement."""
        return self.claim.verdict(self.record.measurement) if self.record else None

    @property
    def counts(self) -> bool:
        """Whether the figure speaks for this machine; one that a newer attempt missed does not."""
        return self.is_here and self.failure is None

    @property
    def verdict_here(self) -> Verdict | None:
        """The verdict if it counts, else None."""
        return self.verdict if self.counts else None

    @property
    def compared(self) -> dict[str, Json]:
        """The sides of the comparison that the figure came from (`Comparison.to_json`), or {}."""
        found = self.record.measurement.detail.get("comparison") if self.record else None
        return found if isinstance(found, dict) and found.get("sides") else {}

    @property
    def command(self) -> str:
        """What measures it again."""
        if self.record and self.record.command:
            return self.record.command
        return f"tidemill claims {self.system.name} --only {self.claim.id}"

    def to_json(self) -> dict[str, Json]:
        """The row as the ``.json`` pages give it."""
        measured: dict[str, Json] | None = None
        if self.record:
            figure = self.record.measurement
            measured = {
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "repeats": figure.repeats,
                "subject": figure.subject,
                "baseline": figure.baseline,
                "on_this_machine": self.is_here,
                "machine": self.record.machine,
                "code": self.record.code,
                "of_this_code": self.is_of_this_code,
                "budget": str(self.record.budget),
                "started": self.record.started.isoformat(),
                "disturbed": self.record.disturbed,
                "stand_ins": [
                    {"device": s.device, "kind": str(s.kind), "description": s.description}
                    for s in figure.stand_ins
                ],
            }
        return {
            "system": self.system.name,
            "claim": self.claim.id,
            "quote": self.claim.quote,
            "statement": {"en": self.claim.statement.en, "zh": self.claim.statement.zh},
            "unit": self.claim.unit,
            "direction": str(self.claim.direction),
            "target": self.claim.target,
            "paper_value": self.claim.paper_value_json,
            "status": str(self.status),
            "holds": str(self.verdict) if self.verdict else None,
            "measured": measured,
            "failure": self.failure
            and {
                "outcome": self.failure.outcome,
                "error": self.failure.error,
                "started": self.failure.started.isoformat(),
            },
            "command": self.command,
        }


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence of a paper and the claims that rest on it, in their order."""

    system: System
    quote: str
    rows: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of a system's claims hold on this machine; ``total`` counts the unmeasured too."""

    total: int
    holding: int
    failing: int
    unclear: int
    older: int = 0
    """Of those that hold, how many figures are of other code than the present."""

    @property
    def measured(self) -> int:
        """Claims with a figure of this machine."""
        return self.holding + self.failing + self.unclear

    @classmethod
    def of(cls, rows: Iterable[Standing]) -> Tally:
        """Count ``rows``; figures of other machines, and of trials that failed since, do not."""
        rows = tuple(rows)
        here = [row.verdict_here for row in rows]
        holding, failing, unclear = (
            here.count(v) for v in (Verdict.YES, Verdict.NO, Verdict.UNCLEAR)
        )
        older = sum(row.verdict_here is Verdict.YES and not row.is_of_this_code for row in rows)
        return cls(len(rows), holding, failing, unclear, older)


def standings(system: System, store: Store, environment: Environment) -> tuple[Standing, ...]:
    """The claims of ``system`` in their order, each with its newest figure.

    Only what was measured under the default settings counts: the claims are about these.
    """
    machine, settings = environment.machine_id, defaults_of(system.config)
    here = store.latest(system.name, machine=machine, settings=settings)
    missing = any(claim.id not in here for claim in system.claims)
    elsewhere = store.latest(system.name, settings=settings) if missing else {}
    ends = store.latest_outcomes(system.name, machine=machine, settings=settings)
    rows: list[Standing] = []
    for claim in system.claims:
        record, end = here.get(claim.id) or elsewhere.get(claim.id), ends.get(claim.trial.name)
        rows.append(
            Standing(
                system=system,
                claim=claim,
                record=record,
                is_here=claim.id in here,
                is_of_this_code=record is not None and is_current(record.environment, system),
                failure=end if end and end.outcome != "ok" else None,
            )
        )
    return tuple(rows)


def passages(rows: Iterable[Standing]) -> list[Passage]:
    """``rows`` by the sentence they rest on, in the order in which the sentences first come."""
    found: dict[tuple[str, str], list[Standing]] = {}
    for row in rows:
        found.setdefault((row.system.name, row.claim.quote), []).append(row)
    return [Passage(same[0].system, same[0].claim.quote, tuple(same)) for same in found.values()]


@dataclass(frozen=True, slots=True)
class Note:
    """A working system as its lab note shows it."""

    system: System
    rows: tuple[Standing, ...]
    tally: Tally

    @classmethod
    def of(cls, system: System, store: Store, environment: Environment) -> Note:
        """What is known of ``system`` on this machine."""
        rows = standings(system, store, environment)
        return cls(system, rows, Tally.of(rows))
