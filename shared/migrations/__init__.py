"""Alembic's environment, for whichever folder of versions it is given."""
