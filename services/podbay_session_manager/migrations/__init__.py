"""The migrations of the session manager's store, for Alembic."""
