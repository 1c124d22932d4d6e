"""The store of results and runs: what was measured here, on what, when and how it ended.

It keeps figures, never verdicts: status and verdict are derived from a measurement when it is
read, so a claim whose target changes is judged anew. It knows nothing about papers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar, Unpack, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tidemill.bench import tables
from tidemill.bench.claim import Json, Measurement, StandIn, Status
from tidemill.bench.database import migrate, open_engine, reading, writing
from tidemill.bench.environment import Environment
from tidemill.bench.records import (
    OutcomeKind,
    Record,
    Run,
    RunKind,
    RunState,
    TrialOutcome,
)
from tidemill.bench.settings import dumps, is_under
from tidemill.bench.trial import Budget
from tidemill.errors import ConfigError, InputError

__all__ = [
    "OutcomeKind",
    "Record",
    "Run",
    "RunKind",
    "RunState",
    "Store",
    "TrialOutcome",
    "migrate",
    "reading",
    "writing",
]


Built = TypeVar("Built")


class RunFields(TypedDict, total=False):
    """What `Store.update_run` can change."""

    state: RunState
    pid: int | None
    pid_started: float | None
    progress: float
    events_path: str
    started: datetime | None
    ended: datetime | None
    error: str
    report: Mapping[str, Json] | None


class Store:
    """Results and runs in one database; thread-safe, and many processes may share it.

    Args:
        url: A database URL or a path ending in ``.db``; default ``TIDEMILL_DB``, else
            ``tidemill.db`` in the user's data folder.

    Raises:
        ConfigError: ``url`` is no database URL.
        MissingCapability: The driver of that database is not installed.
        TidemillError: From every method, when disk, file or server fail; see `database.writing`.
    """

    def __init__(self, url: str | None = None) -> None:
        self.engine = open_engine(url)
        self.url = self.engine.url.render_as_string(hide_password=False)

    def migrate(self) -> None:
        """Make or update the tables; cheap when there is nothing to do, safe from many processes.

        Raises:
            InputError: A newer tidemill wrote this database; it was not touched.
        """
        migrate(self.engine, "tidemill.bench:migrations", "alembic_version_bench")

    def close(self) -> None:
        """Give the connections back; the store can be used again and then opens new ones."""
        self.engine.dispose()

    def record_trial(self, outcome: TrialOutcome) -> int:
        """Keep an outcome and its measurements, all or nothing; gives its number.

        Raises:
            ConfigError: Something in it is not JSON.
        """
        row = _outcome_row(outcome)
        measurements = [_measurement_row(item) for item in outcome.measurements]
        with writing(self.engine) as connection:
            done = connection.execute(sa.insert(tables.outcome).values(row))
            number = int(cast(Any, done.inserted_primary_key)[0])
            for item in measurements:
                connection.execute(sa.insert(tables.measurement), {**item, "outcome_id": number})
        return number

    def latest(
        self,
        system: str,
        *,
        machine: str | None = None,
        settings: Mapping[str, Json] | None = None,
    ) -> dict[str, Record]:
        """The newest record of each claim that has any, by claim id.

        Newest means stored last, so a clock set back does not bring old figures to the front.

        Args:
            system: Name of the system.
            machine: Only from this machine (`Environment.machine_id`).
            settings: Only measured under these settings; one that an outcome does not name counts
                as equal, since it did not exist then or was left at its default.
        """
        o, m = tables.outcome, tables.measurement
        newest = sa.select(sa.func.max(m.c.id)).join(o)
        newest = newest.where(*self._only(system, machine, settings))
        query = _records().where(m.c.id.in_(newest.group_by(m.c.claim))).order_by(m.c.id)
        return {record.measurement.claim: record for record in self._read(query, _record)}

    def latest_outcomes(
        self,
        system: str,
        *,
        machine: str | None = None,
        settings: Mapping[str, Json] | None = None,
    ) -> dict[str, TrialOutcome]:
        """How each trial last ended, by its name; one that was cancelled tells nothing of it.

        The arguments are those of `latest`. The outcomes come without their measurements.
        """
        o = tables.outcome
        newest = sa.select(sa.func.max(o.c.id)).where(o.c.outcome != "cancelled")
        newest = newest.where(*self._only(system, machine, settings))
        query = sa.select(o).where(o.c.id.in_(newest.group_by(o.c.trial)))
        return {item.trial: item for item in self._read(query, lambda row: _outcome(row, ()))}

    def history(
        self,
        system: str,
        claim: str,
        limit: int = 50,
        *,
        settings: Mapping[str, Json] | None = None,
    ) -> list[Record]:
        """The last ``limit`` records of one claim, newest first; ``settings`` as in `latest`."""
        query = _records().where(*self._only(system, settings=settings))
        query = query.where(tables.measurement.c.claim == claim)
        return self._read(query.order_by(tables.measurement.c.id.desc()).limit(limit), _record)

    def outcomes(self, system: str, limit: int = 50) -> list[TrialOutcome]:
        """The last ``limit`` outcomes of a system's trials with all they measured, newest first."""
        o, m = tables.outcome, tables.measurement
        query = sa.select(o).where(o.c.system == system).order_by(o.c.id.desc()).limit(limit)
        with reading(self.engine) as connection:
            rows = connection.execute(query).mappings().all()
            numbers = [row["id"] for row in rows]
            parts = sa.select(m).where(m.c.outcome_id.in_(numbers)).order_by(m.c.id)
            found: dict[int, list[Measurement]] = {number: [] for number in numbers}
            for part in connection.execute(parts).mappings():
                found[part["outcome_id"]].append(_measurement(part))
        return [_outcome(row, tuple(found[row["id"]])) for row in rows]

    def create_run(
        self,
        *,
        system: str,
        config: Mapping[str, Json],
        kind: RunKind,
        budget: str | None,
        events_path: str,
        run_id: str | None = None,
    ) -> Run:
        """Queue a run; its id is new unless ``run_id`` is given.

        Raises:
            InputError: There is a run with that id.
            ConfigError: ``config`` is not JSON, or ``budget`` no budget.
        """
        run = Run(
            id=run_id or uuid.uuid4().hex,
            system=system,
            kind=kind,
            budget=_budget(budget),
            config=_checked("config", config),
            state=RunState.QUEUED,
            progress=0.0,
            events_path=events_path,
            created=datetime.now(UTC),
        )
        row = {item: getattr(run, item) for item in Run.__slots__}
        try:
            with writing(self.engine) as connection:
                connection.execute(sa.insert(tables.run), row)
        except IntegrityError as error:
            raise InputError(f"run {run.id} — there is one already; ids are used once.") from error
        return run

    def run(self, run_id: str) -> Run | None:
        """The run with that id, or None."""
        found = self._read(sa.select(tables.run).where(tables.run.c.id == run_id), _run)
        return found[0] if found else None

    def runs(
        self,
        *,
        system: str | None = None,
        states: Collection[RunState] | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """The last ``limit`` runs asked for, newest first."""
        query = sa.select(tables.run)
        if system is not None:
            query = query.where(tables.run.c.system == system)
        if states is not None:
            query = query.where(tables.run.c.state.in_([str(state) for state in states]))
        newest_first = (tables.run.c.created.desc(), tables.run.c.id)
        return self._read(query.order_by(*newest_first).limit(limit), _run)

    def update_run(
        self,
        run_id: str,
        *,
        only_in: Collection[RunState] | None = None,
        **fields: Unpack[RunFields],
    ) -> bool:
        """Change fields of a run; gives whether it did.

        Args:
            run_id: Which run.
            only_in: Change nothing unless the run is in one of these states now: the way for two
                processes to agree on who ends a run.
            **fields: New values.

        Raises:
            InputError: There is no such run.
            ConfigError: An unknown field, a progress outside [0, 1], or a report that is not JSON.
        """
        for name in fields:
            if name not in RunFields.__annotations__:
                known = ", ".join(RunFields.__annotations__)
                raise ConfigError.of("field", name, f"one of {known}")
        if not 0.0 <= fields.get("progress", 0.0) <= 1.0:
            raise ConfigError.of("progress", fields.get("progress"), "in [0, 1]")
        if (report := fields.get("report")) is not None:
            fields["report"] = _checked("report", report)
        this = tables.run.c.id == run_id
        query = sa.update(tables.run).where(this).values(**fields)
        if only_in is not None:
            query = query.where(tables.run.c.state.in_([str(state) for state in only_in]))
        with writing(self.engine) as connection:
            if connection.execute(query).rowcount:
                return True
            if connection.execute(sa.select(tables.run.c.id).where(this)).first() is None:
                raise InputError(f"run {run_id} — is not in this store; `runs()` lists them.")
        return False

    def _only(
        self,
        system: str,
        machine: str | None = None,
        settings: Mapping[str, Json] | None = None,
    ) -> list[sa.ColumnElement[bool]]:
        """Conditions on an outcome; see `latest`."""
        o = tables.outcome
        found: list[sa.ColumnElement[bool]] = [o.c.system == system]
        if machine is not None:
            found.append(o.c.machine_id == machine)
        if settings is not None:
            # as text, since databases differ in comparing JSON; there are few different ones
            text = sa.cast(o.c.config, sa.String)
            query = sa.select(text).distinct().where(o.c.system == system)
            with reading(self.engine) as connection:
                known = connection.execute(query).scalars().all()
            found.append(text.in_([one for one in known if is_under(json.loads(one), settings)]))
        return found

    def _read(self, query: sa.Select[Any], build: Callable[[sa.RowMapping], Built]) -> list[Built]:
        with reading(self.engine) as connection:
            rows = connection.execute(query).mappings().all()
        return [build(row) for row in rows]


def _records() -> sa.Select[Any]:
    o, m = tables.outcome, tables.measurement
    return sa.select(m, *(column for column in o.c if column.name != "id")).join(o)


def _checked(name: str, values: Mapping[str, Json]) -> dict[str, Json]:
    try:
        dumps(values).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{name} — is not JSON: {error}; numbers must be finite, keys strings."
        ) from error
    return dict(values)


def _storable(text: str) -> str:
    """A crashed process may have written anything; databases refuse NUL and half characters."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def _budget(name: str | None) -> Budget | None:
    if name is None:
        return None
    try:
        return Budget(name)
    except ValueError as error:
        raise ConfigError.of("budget", name, f"one of {', '.join(Budget)}") from error


def _outcome_row(outcome: TrialOutcome) -> dict[str, Any]:
    row = {column.name: getattr(outcome, column.name, None) for column in tables.outcome.c}
    del row["id"]
    return row | {
        "error": _storable(outcome.error),
        "command": _storable(outcome.command),
        "config": _checked(f"config of trial {outcome.trial}", outcome.config),
        "machine_id": outcome.environment.machine_id,
        "code": outcome.environment.code,
        "environment": outcome.environment.to_json(),
    }


def _measurement_row(item: Measurement) -> dict[str, Any]:
    names = ("claim", "value", "low", "high", "repeats")
    return {name: getattr(item, name) for name in names} | {
        "subject": _storable(item.subject),
        "baseline": _storable(item.baseline),
        "detail": _checked(f"detail of the measurement of {item.claim}", item.detail),
        "stand_ins": [
            {
                "device": _storable(s.device),
                "kind": s.kind,
                "description": _storable(s.description),
            }
            for s in item.stand_ins
        ],
    }


def _measurement(row: sa.RowMapping) -> Measurement:
    names = ("claim", "value", "low", "high", "repeats", "subject", "baseline", "detail")
    stand_ins = tuple(
        StandIn(item["device"], Status(item["kind"]), item["description"])
        for item in row["stand_ins"]
    )
    return Measurement(**{name: row[name] for name in names}, stand_ins=stand_ins)


_SHARED = ("system", "trial", "outcome", "started", "seconds", "command", "config", "disturbed")
"""Columns that an outcome and a record take over as they are."""


def _outcome(row: sa.RowMapping, measurements: tuple[Measurement, ...]) -> TrialOutcome:
    return TrialOutcome(
        **{name: row[name] for name in (*_SHARED, "error", "peak_rss_bytes")},
        budget=Budget(row["budget"]),
        environment=Environment.from_json(row["environment"]),
        measurements=measurements,
    )


def _record(row: sa.RowMapping) -> Record:
    return Record(
        **{name: row[name] for name in (*_SHARED, "machine_id", "code")},
        budget=Budget(row["budget"]),
        environment=Environment.from_json(row["environment"]),
        measurement=_measurement(row),
    )


def _run(row: sa.RowMapping) -> Run:
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    values["state"] = RunState(values["state"])
    values["budget"] = _budget(values["budget"])
    return Run(**values)
