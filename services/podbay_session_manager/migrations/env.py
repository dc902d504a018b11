"""Where Alembic starts: the connection is that of `podbay_kit.storage.migrate`."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
