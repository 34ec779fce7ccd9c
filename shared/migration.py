"""Brings tables up to date with alembic, inside a transaction that the caller has begun."""

import threading
from importlib import resources
from typing import Final

import alembic.command
import alembic.config
from sqlalchemy import Connection

# Alembic keeps the migration that runs in module globals. Innermost of all locks: whoever holds it waits for no other.
_ALONE: Final = threading.Lock()


def upgrade(connection: Connection, package: str, version_table: str) -> tuple[str, ...]:
    """Apply what is missing of `package` (a folder of alembic migrations); the steps taken, none if up to date."""
    steps: list[str] = []
    config = alembic.config.Config()
    config.set_main_option("script_location", str(resources.files("shared.migrations")))
    config.set_main_option("version_locations", str(resources.files(package)))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table
    config.attributes["taken"] = steps.append
    with _ALONE:
        alembic.command.upgrade(config, "head")
    return tuple(steps)
