"""The tables of the results store; `migrations` makes them, a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from tidemill.errors import ConfigError


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: goes in with any time zone, comes out in UTC, also where the database has none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time, whose zone the database would guess."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ConfigError.of("datetime", value, "a time with a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give it in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

outcome = Table(
    "outcome",
    metadata,
    # SQLite counts up by itself only an INTEGER key
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("system", String(100), nullable=False),
    Column("trial", String(200), nullable=False),
    Column("budget", String(20), nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("error", Text, nullable=False),
    Column("peak_rss_bytes", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("started", UtcDateTime, nullable=False),
    Column("machine_id", String(12), nullable=False),
    Column("code", String(100), nullable=False),
    Column("environment", JSON, nullable=False),
    Column("command", Text, nullable=False),
    Column("config", JSON, nullable=False),
    Column("disturbed", Text, nullable=False),
    Index(None, "system", "id"),
    sqlite_autoincrement=True,
)

measurement = Table(
    "measurement",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("outcome_id", Integer, ForeignKey("outcome.id", ondelete="CASCADE"), nullable=False),
    Column("claim", String(200), nullable=False),
    Column("value", Float, nullable=False),
    Column("low", Float, nullable=False),
    Column("high", Float, nullable=False),
    Column("repeats", BigInteger, nullable=False),
    Column("subject", Text, nullable=False),
    Column("baseline", Text, nullable=False),
    Column("stand_ins", JSON, nullable=False),
    Column("detail", JSON, nullable=False),
    Index(None, "outcome_id"),
    Index(None, "claim", "id"),
    sqlite_autoincrement=True,
)

run = Table(
    "run",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("system", String(100), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("budget", String(20)),
    Column("config", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("progress", Float, nullable=False),
    Column("events_path", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("started", UtcDateTime),
    Column("ended", UtcDateTime),
    Column("error", Text, nullable=False),
    Column("pid", Integer),
    Column("pid_started", Float),
    Column("report", JSON(none_as_null=True)),
    Index(None, "created"),
    Index(None, "state"),
)
