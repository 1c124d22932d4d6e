"""Outcomes of trials, their measurements, and runs."""

import sqlalchemy as sa
from alembic import op

from tidemill.bench.tables import UtcDateTime

revision = "b001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "outcome",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("system", sa.String(100), nullable=False),
        sa.Column("trial", sa.String(200), nullable=False),
        sa.Column("budget", sa.String(20), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("peak_rss_bytes", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("started", UtcDateTime, nullable=False),
        sa.Column("machine_id", sa.String(12), nullable=False),
        sa.Column("code", sa.String(100), nullable=False),
        sa.Column("environment", sa.JSON, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("disturbed", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outcome"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outcome_system_id", "outcome", ["system", "id"])
    op.create_table(
        "measurement",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("outcome_id", sa.Integer, nullable=False),
        sa.Column("claim", sa.String(200), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("low", sa.Float, nullable=False),
        sa.Column("high", sa.Float, nullable=False),
        sa.Column("repeats", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("stand_ins", sa.JSON, nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_measurement"),
        sa.ForeignKeyConstraint(
            ["outcome_id"], ["outcome.id"], "fk_measurement_outcome_id", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_measurement_outcome_id", "measurement", ["outcome_id"])
    op.create_index("ix_measurement_claim_id", "measurement", ["claim", "id"])
    op.create_table(
        "run",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("system", sa.String(100), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("budget", sa.String(20)),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("events_path", sa.Text, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("started", UtcDateTime),
        sa.Column("ended", UtcDateTime),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("pid_started", sa.Float),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
    )
    op.create_index("ix_run_created", "run", ["created"])
    op.create_index("ix_run_state", "run", ["state"])
