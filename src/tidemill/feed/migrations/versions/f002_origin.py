"""Who announced a paper, as the page of a digest says that lists it."""

import sqlalchemy as sa
from alembic import op

revision = "f002"
down_revision = "f001"


def upgrade() -> None:
    op.add_column("paper", sa.Column("origin", sa.Text))
