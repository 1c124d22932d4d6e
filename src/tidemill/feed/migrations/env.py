"""What Alembic runs: `tidemill.bench.database.migrate` hands over an open transaction."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
